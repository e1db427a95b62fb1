//! Who gets in: the one block that every kind uses.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Who may use a route. A caller passes when any entry matches; an empty list lets nobody in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Alternatives.
    #[schemars(length(max = 64))]
    pub allow: Vec<Principal>,
}

/// One alternative: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "[has(self.user), has(self.group), has(self.tag), has(self.capability), has(self.source)].filter(x, x).size() == 1",
    "exactly one of user, group, tag, capability and source must be set"
))]
#[serde(rename_all = "camelCase")]
pub struct Principal {
    /// A login name, such as `alice@example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 254))]
    pub user: Option<String>,
    /// A group that the tailnet shows in its users' profiles, such as `group:eng`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 254), regex(pattern = r"^group:.+$"))]
    pub group: Option<String>,
    /// A tag of the calling node, such as `tag:ci`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^tag:[A-Za-z][A-Za-z0-9-]*$"))]
    pub tag: Option<String>,
    /// A capability that the tailnet's policy grants to the caller, such as `example.com/cap/models`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 254))]
    pub capability: Option<String>,
    /// Source addresses in CIDR form, such as `100.64.0.0/10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub source: Option<String>,
}
