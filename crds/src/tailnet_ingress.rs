use k8s_openapi::{
    apimachinery::pkg::{apis::meta::v1::Condition, util::intstr::IntOrString},
    jiff::Timestamp,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    access::Access,
    funnel::{Funnel, Quota},
};

/// A device name on the tailnet and what it serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "TailnetIngress",
    plural = "tailnetingresses",
    shortname = "ti",
    namespaced,
    status = "TailnetIngressStatus",
    derive = "PartialEq",
    category = "postern",
    doc = "A device name on the tailnet and what it serves.",
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.addresses[0]"),
    printcolumn(name = "Cert-Expires", type_ = "string", json_path = ".status.certificateExpires"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type=='Ready')].message"),
    validation = (
        "has(self.spec.hostname) || self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
        "spec.hostname must be set when metadata.name isn't a DNS label"
    )
)]
#[x_kube(validation = (
    "has(self.backend) != (has(self.rules) && size(self.rules) > 0)",
    "exactly one of backend and rules must be set"
))]
#[serde(rename_all = "camelCase")]
pub struct TailnetIngressSpec {
    /// The device name; the object's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = (
        "self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
        "hostname must be one DNS label: lower case letters, digits and '-', without the tailnet's suffix"
    ))]
    pub hostname: Option<String>,
    /// The ProxyGroup that serves it; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub proxy_group_name: Option<String>,
    /// Tags of the node instead of the Tailnet's, as far as the ProxyGroup allows them.
    #[serde(default)]
    #[schemars(
        length(max = 16),
        inner(length(max = 64), regex(pattern = r"^tag:[A-Za-z][A-Za-z0-9-]*$"))
    )]
    pub tags: Vec<String>,
    /// The short form: everything goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The long form: by path.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub rules: Vec<IngressRule>,
    /// Who gets in where a rule doesn't say it; absent: whoever the tailnet's policy lets through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Which identity headers backends get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Answer on port 80 with a redirect to HTTPS.
    #[serde(default)]
    pub http_redirect: bool,
    /// Open it to the internet, through Funnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub funnel: Option<Funnel>,
    /// Own certificates, for own domains or where the tailnet issues none.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub tls: Vec<Tls>,
}

/// Requests of some paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// Which paths; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
    /// What to change before the request goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Where to.
    pub backend: Backend,
    /// Who gets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
}

/// A path condition, as Gateway API has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// `Prefix` (element by element) or `Exact`.
    #[serde(default, rename = "type")]
    pub type_: PathType,
    /// Begins with `/`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/"))]
    pub value: String,
}

/// See [`Path`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathType {
    /// This path and everything below it.
    #[default]
    Prefix,
    /// This path alone.
    Exact,
}

/// Changes of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rewrite {
    /// What the matched prefix becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/"))]
    pub replace_prefix: Option<String>,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// A Service of the object's namespace.
    pub service: ServiceBackend,
    /// How to speak to it. Absent: by the Service port's `appProtocol`, else HTTPS without verification on
    /// port 443 or a port named `https`, else HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
}

/// A Service with a ClusterIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBackend {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Number or name of its port.
    pub port: IntOrString,
}

/// How to speak to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scheme {
    /// HTTP/1.1; gRPC by HTTP/2 with prior knowledge.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/2 with prior knowledge.
    #[serde(rename = "H2C")]
    H2c,
    /// TLS, verified against the public roots.
    #[serde(rename = "HTTPS")]
    Https,
    /// TLS without verification.
    #[serde(rename = "HTTPSInsecure")]
    HttpsInsecure,
}

/// Which identity headers backends get.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// `Tailscale` (`Tailscale-User-Login` and so on) or `None`.
    #[serde(default)]
    pub headers: IdentityHeaders,
    /// Capabilities to pass in `Tailscale-App-Capabilities`.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 254)))]
    pub app_capabilities: Vec<String>,
}

/// See [`Identity`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IdentityHeaders {
    /// As `tailscale serve` sets them.
    #[default]
    Tailscale,
    /// None.
    None,
}

/// Bounds of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Largest request body, as a quantity: `8Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<IntOrString>,
    /// For each user of the tailnet; a tagged node counts as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_user: Option<Quota>,
}

/// Times of a rule, as Gateway API writes durations: `500ms`, `10s`, `5m`, `1h`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For the connection to the backend; 5 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub connect: Option<String>,
    /// For the head of the backend's answer; 5 min when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub response: Option<String>,
    /// Longest silence within a body, each way; 10 min when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub idle: Option<String>,
}

/// An own certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Names that it is for; those in the certificate when empty.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub hosts: Vec<String>,
    /// A Secret of type `kubernetes.io/tls` in the object's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// What is known about a TailnetIngress.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TailnetIngressStatus {
    /// `Ready`, `Accepted`, `ResolvedRefs`, `Programmed`; `FunnelReady` where the internet is let in.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The full name that the coordination server assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its tailnet addresses.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The device's identifier in the coordination server's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// End of the served certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub certificate_expires: Option<Timestamp>,
}
