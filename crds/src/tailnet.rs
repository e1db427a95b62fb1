use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A coordination server and how to get nodes onto it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "Tailnet",
    status = "TailnetStatus",
    derive = "PartialEq",
    category = "postern",
    doc = "A coordination server and how to get nodes onto it.",
    printcolumn(name = "Server", type_ = "string", json_path = ".spec.loginServer"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("size(self.metadata.name) <= 40", "the name of a Tailnet has at most 40 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct TailnetSpec {
    /// The coordination server. Moving to another server means new nodes: make another Tailnet.
    #[serde(default = "default_login_server")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#]+(/[^\s?#]*)?$"))]
    #[x_kube(validation = ("self == oldSelf", "loginServer is immutable: make another Tailnet"))]
    pub login_server: String,
    /// Base URL of the management API, when it isn't where the coordination server is.
    #[serde(default, rename = "apiURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#]+(/[^\s?#]*)?$"))]
    pub api_url: Option<String>,
    /// PEM certificates to trust beside the public ones: for the coordination server, its API, its relays
    /// and the ACME server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 131_072))]
    pub ca_bundle: Option<String>,
    /// ACME directory that certificates come from; Let's Encrypt when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https://\S+$"))]
    pub acme_directory: Option<String>,
    /// Reach peers through relays only, never by UDP.
    #[serde(default)]
    pub derp_only: bool,
    /// How nodes are let in.
    pub credentials: Credentials,
    /// Tags of every node, unless an object asks for others that its ProxyGroup allows.
    #[serde(default)]
    #[schemars(
        length(max = 16),
        inner(length(max = 64), regex(pattern = r"^tag:[A-Za-z][A-Za-z0-9-]*$"))
    )]
    pub tags: Vec<String>,
}

/// How nodes are let in, and so what else the operator may do: with `oauthClient` it makes a key per node
/// and deletes devices by the API v2; with `headscaleAPIKey` it deletes nodes by Headscale's API; with
/// `authKey` alone the proxies log their nodes out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "has(self.authKey) != has(self.oauthClient)",
    "exactly one of authKey and oauthClient must be set"
))]
#[x_kube(validation = (
    "!has(self.headscaleAPIKey) || has(self.authKey)",
    "headscaleAPIKey goes with authKey: Headscale's API deletes nodes, the auth key lets them in"
))]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// An OAuth client with the scopes `auth_keys` and `devices:core`, for the tags in use; with `services`
    /// too where a TailnetService is to be served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth_client: Option<OauthClient>,
    /// A reusable auth key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_key: Option<AuthKey>,
    /// An API key of Headscale.
    #[serde(default, rename = "headscaleAPIKey", skip_serializing_if = "Option::is_none")]
    pub headscale_api_key: Option<HeadscaleApiKey>,
}

/// Keys `client_id` and `client_secret` of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OauthClient {
    /// A Secret in the operator's namespace.
    pub secret_ref: SecretName,
}

/// Key `authkey` of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthKey {
    /// A Secret in the operator's namespace.
    pub secret_ref: SecretName,
}

/// Key `apikey` of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeadscaleApiKey {
    /// A Secret in the operator's namespace.
    pub secret_ref: SecretName,
}

/// A Secret, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What is known about a Tailnet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TailnetStatus {
    /// `Ready`, `HTTPSAvailable`, `FunnelAvailable`, `ServicesAvailable`.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// ProxyGroups that use it.
    #[serde(default)]
    pub proxy_groups: Vec<String>,
}

fn default_login_server() -> String {
    "https://controlplane.tailscale.com".into()
}
