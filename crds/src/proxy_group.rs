use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DEFAULT;

/// Replicas of postern-proxy on one Tailnet, which serve any number of names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "ProxyGroup",
    status = "ProxyGroupStatus",
    derive = "PartialEq",
    category = "postern",
    doc = "Replicas of postern-proxy on one Tailnet, which serve any number of names.",
    printcolumn(name = "Tailnet", type_ = "string", json_path = ".spec.tailnetRef.name"),
    printcolumn(name = "Names", type_ = "integer", json_path = ".status.names"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = (
        "size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "the name of a ProxyGroup is a DNS label of at most 40 characters, since its pods are named after it"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ProxyGroupSpec {
    /// Pods. All of them are hosts of the group's TailnetServices; device names are not yet spread over
    /// several, the first pod serves them.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub replicas: i32,
    /// The Tailnet. Nodes can't move between tailnets: make another ProxyGroup.
    #[serde(default)]
    #[x_kube(validation = ("self == oldSelf", "tailnetRef is immutable: make another ProxyGroup"))]
    pub tailnet_ref: TailnetRef,
    /// A ProxyClass for the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub proxy_class_name: Option<String>,
    /// Which namespaces may use the group.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
    /// Which host names may be claimed: a name, or a pattern with `*` for any characters. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 63),
            regex(pattern = r"^[a-z0-9*]([-a-z0-9*]*[a-z0-9*])?$")
        )
    )]
    pub allowed_hostnames: Option<Vec<String>>,
    /// Which tags objects may ask for beside the Tailnet's own.
    #[serde(default)]
    #[schemars(
        length(max = 64),
        inner(length(max = 64), regex(pattern = r"^tag:[A-Za-z][A-Za-z0-9-]*$"))
    )]
    pub allowed_tags: Vec<String>,
}

/// A Tailnet, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TailnetRef {
    /// Its name.
    #[serde(default = "default_name")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Which namespaces may use something, as Gateway API has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "(self.from == 'Selector') == has(self.selector)",
    "selector must be set with from: Selector, and only with it"
))]
#[serde(rename_all = "camelCase")]
pub struct AllowedNamespaces {
    /// `All`, or those that `selector` matches.
    #[serde(default)]
    pub from: NamespacesFrom,
    /// Labels of the namespaces; `kubernetes.io/metadata.name` is their name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// See [`AllowedNamespaces`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// Every namespace.
    #[default]
    All,
    /// Namespaces with matching labels.
    Selector,
}

/// What is known about a ProxyGroup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyGroupStatus {
    /// `Ready`, `Accepted`, `Programmed`.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// How many names it has.
    #[serde(default)]
    pub names: i32,
    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
}

impl Default for TailnetRef {
    fn default() -> Self {
        Self { name: default_name() }
    }
}

impl Default for ProxyGroupSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            tailnet_ref: TailnetRef::default(),
            proxy_class_name: None,
            allowed_namespaces: AllowedNamespaces::default(),
            allowed_hostnames: None,
            allowed_tags: Vec::new(),
        }
    }
}

fn one() -> i32 {
    1
}

fn default_name() -> String {
    DEFAULT.into()
}
