//! What every reconcile is given.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource, runtime::controller::Action};

use crate::{
    apply::{Applied, ApplyError},
    events::Events,
    labels,
    metrics::Metrics,
    stores::Stores,
    tailnet_api,
    tailnet_service::apply::Definitions,
};

/// Shared by all controllers.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What is known of the cluster.
    pub stores: Stores,
    /// What the operator was started with.
    pub settings: Settings,
    /// Says Events.
    pub events: Events,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The management APIs of the Tailnets.
    pub tailnets: tailnet_api::Connections,
    /// What was applied of kinds that aren't watched.
    pub applied: Applied,
    /// What was found out about definitions of Services not long ago.
    pub definitions: Definitions,
    /// The time.
    pub clock: fn() -> Timestamp,
}

/// What the operator was started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its own namespace, where everything that it makes is.
    pub namespace: String,
    /// The cluster's identity: the UID of the namespace kube-system.
    pub cluster_id: String,
    /// The proxies' image.
    pub proxy_image: String,
    /// How nodes get it.
    pub pull_policy: String,
    /// The proxies' log filter.
    pub proxy_log: String,
}

/// Why a reconcile failed. Faults of users are conditions, not errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write to the API server.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The management API of a Tailnet.
    #[error(transparent)]
    Tailnet(#[from] tailnet_api::Error),
}

impl Error {
    /// The metric's label.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Apply(ApplyError::Refused { .. }) => "api_server",
            Self::Apply(ApplyError::TimedOut { .. }) => "api_server_timeout",
            Self::Tailnet(_) => "tailnet_api",
        }
    }
}

/// Looks again in 5 to 10 minutes, each object at a time of its own: the net under missed events.
pub fn look_again<K: Resource>(object: &K) -> Action {
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    let spread = uid
        .bytes()
        .fold(0_u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)))
        % 300;
    Action::requeue(Duration::from_secs(300 + spread))
}

/// Which object an Event is about.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let mut reference = object.object_ref(&());
    // Events about cluster-scoped objects go where the operator may write them.
    if reference.namespace.is_none() {
        reference.namespace = Some("default".into());
    }
    reference
}

/// Whether an object was made by the operator itself as a default.
pub fn is_made_by_default<K: Resource>(object: &K) -> bool {
    labels::annotation(object, labels::MADE_BY_DEFAULT) == Some("true")
}
