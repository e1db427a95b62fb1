//! Where backends are: objects of their own, so that a change of addresses touches no route.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// The key of the ConfigMap under which the JSON stands.
pub const ENDPOINTS_KEY: &str = "endpoints.json";

/// Backends of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// By `NAMESPACE/NAME:PORT`: ClusterIPs at first. Empty: the Service has none.
    #[serde(default)]
    pub backends: BTreeMap<String, Vec<SocketAddr>>,
}
