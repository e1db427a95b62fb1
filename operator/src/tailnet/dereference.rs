//! Reads a Tailnet's credentials and users, from the stores.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use postern_crds::Tailnet;
use postern_proxy_config::report::Report;

use crate::{labels, report, stores::Stores};

/// All that a Tailnet is judged by.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The Tailnet.
    pub tailnet: Arc<Tailnet>,
    /// The Secrets that it names, as far as they exist.
    pub sources: Vec<Arc<Secret>>,
    /// The operator's copy exists.
    pub has_copy: bool,
    /// ProxyGroups that use it.
    pub groups: Vec<String>,
    /// What their proxies say.
    pub reports: Vec<Report>,
}

/// Reads.
pub fn dereference(stores: &Stores, tailnet: &Arc<Tailnet>) -> Inputs {
    let name = tailnet.name_any();
    let mut groups: Vec<_> = (stores.proxy_groups.state().iter())
        .filter(|group| group.spec.tailnet_ref.name == name)
        .map(|group| group.name_any())
        .collect();
    groups.sort();
    Inputs {
        sources: names(tailnet)
            .iter()
            .filter_map(|name| stores.secret(name))
            .collect(),
        has_copy: stores.secret(&labels::credentials(&name)).is_some(),
        reports: groups
            .iter()
            .flat_map(|group| report::reports(stores, group))
            .collect(),
        groups,
        tailnet: Arc::clone(tailnet),
    }
}

/// The Secrets that a Tailnet names.
pub fn names(tailnet: &Tailnet) -> Vec<String> {
    let credentials = &tailnet.spec.credentials;
    let oauth = credentials
        .oauth_client
        .as_ref()
        .map(|c| c.secret_ref.name.clone());
    let auth_key = credentials.auth_key.as_ref().map(|c| c.secret_ref.name.clone());
    let headscale = credentials
        .headscale_api_key
        .as_ref()
        .map(|c| c.secret_ref.name.clone());
    oauth.into_iter().chain(auth_key).chain(headscale).collect()
}
