//! In a cluster: the configuration is watched, secrets are Secrets, the report is a ConfigMap.
//!
//! Every object has a name that we know and exists before us: nothing is listed or created, Secrets are
//! never watched. When the API server is away, everything goes on as it is and the watches try again.

mod api_server;
mod documents;
mod report;
mod secrets;
mod view;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, utils, watcher},
};
use postern_proxy_config::names;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::Run,
    report::Reports,
    serve::{Desired, Secrets},
    upstream::Upstreams,
};
use view::{Object, View};

/// Which replica of which group we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The ProxyGroup.
    pub group: String,
    /// Where its objects are.
    pub namespace: String,
    /// Our pod.
    pub pod: String,
}

impl Member {
    /// From the command line; `None` outside of a cluster.
    pub fn from_args(args: &Run) -> Option<Self> {
        Some(Self {
            group: args.group.clone()?,
            namespace: args.namespace.clone()?,
            pod: args.pod.clone()?,
        })
    }
}

/// Our side of the API server.
pub struct Cluster {
    member: Member,
    config_maps: Api<ConfigMap>,
    client: Client,
}

/// For any single request: kube has no bound of its own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

impl Cluster {
    /// Finds the API server; it need not be there yet.
    ///
    /// # Errors
    /// Outside of a cluster.
    pub fn connect(member: Member) -> anyhow::Result<Self> {
        Ok(Self::with_client(member, api_server::client()?))
    }

    /// Over a client that is there already.
    pub fn with_client(member: Member, client: Client) -> Self {
        Self {
            config_maps: Api::namespaced(client.clone(), &member.namespace),
            member,
            client,
        }
    }

    /// Where our names' secrets are.
    pub fn secrets(&self) -> Arc<dyn Secrets> {
        Arc::new(secrets::Kubernetes::new(
            Api::namespaced(self.client.clone(), &self.member.namespace),
            self.config_maps.clone(),
            &self.member.group,
        ))
    }

    /// Watches the configuration and publishes reports, until `end`.
    pub fn follow(
        &self,
        desired: watch::Sender<Option<Arc<Desired>>>,
        upstreams: Arc<Upstreams>,
        reports: Reports,
        tasks: &TaskTracker,
        end: &CancellationToken,
    ) {
        let view = View::new(&self.member.pod);
        tasks.spawn(watch_all(
            self.config_maps.clone(),
            self.member.group.clone(),
            view,
            Sinks {
                desired,
                upstreams,
                reports: reports.clone(),
            },
            end.clone(),
        ));
        let name = names::report(&self.member.pod);
        tasks.spawn(report::publish(
            self.config_maps.clone(),
            name,
            reports,
            end.clone(),
        ));
    }
}

/// Where what is learnt goes.
struct Sinks {
    desired: watch::Sender<Option<Arc<Desired>>>,
    upstreams: Arc<Upstreams>,
    reports: Reports,
}

async fn watch_all(api: Api<ConfigMap>, group: String, mut view: View, sinks: Sinks, end: CancellationToken) {
    let objects = (0..names::SHARDS)
        .map(|i| (Object::Shard(i), names::shard(&group, i)))
        .chain([
            (Object::Endpoints, names::endpoints(&group)),
            (Object::Assignment, names::assignment(&group)),
        ]);
    let mut changes = stream::select_all(objects.map(|(object, name)| {
        watcher::watch_object(api.clone(), &name)
            .backoff(Backoff::default())
            .map(move |change| (object, name.clone(), change))
            .boxed()
    }));
    loop {
        let change = tokio::select! {
            biased;
            () = end.cancelled() => return,
            change = changes.next() => change,
        };
        let Some((object, name, change)) = change else {
            return;
        };
        match change {
            Err(error) => tracing::warn!(object = name, %error, "Watch failed, trying again"),
            Ok(found) => {
                let text = found.and_then(|map| map.data?.remove(object.key()));
                view.update(object, &name, text.as_deref());
                sinks.take(&mut view);
            }
        }
    }
}

/// kube's own waits up to half a minute: as long would a change after an outage wait.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LAST_BACKOFF: Duration = Duration::from_secs(4);

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = FIRST_BACKOFF
            .saturating_mul(1 << self.failures.min(8))
            .min(LAST_BACKOFF);
        self.failures += 1;
        Some(wait)
    }
}

impl utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

impl Sinks {
    fn take(&self, view: &mut View) {
        if let Some(endpoints) = view.take_endpoints() {
            self.upstreams.set_endpoints(endpoints);
        }
        self.reports.configuration(view.unknown_fields(), view.refused());
        if let Some(new) = view.desired() {
            self.desired.send_if_modified(|current| {
                let changed = current.as_deref() != Some(&new);
                if changed {
                    *current = Some(Arc::new(new));
                }
                changed
            });
        }
    }
}
