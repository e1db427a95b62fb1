use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    access::Access,
    tailnet_ingress::{Backend, Identity, IngressRule, Tls},
};

/// A name of a Tailscale Service (`svc:`), served by every replica of its ProxyGroup at once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "TailnetService",
    shortname = "tsvc",
    namespaced,
    status = "TailnetServiceStatus",
    derive = "PartialEq",
    category = "postern",
    doc = "A name of a Tailscale Service (svc:), served by every replica of its ProxyGroup at once.",
    printcolumn(name = "Service", type_ = "string", json_path = ".status.service"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Hostname", type_ = "string", json_path = ".status.hostname"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.addresses[0]"),
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.hosts"),
    printcolumn(name = "Cert-Expires", type_ = "string", priority = 1, json_path = ".status.certificateExpires"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type=='Ready')].message"),
    validation = (
        "has(self.spec.service) || self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
        "spec.service must be set when metadata.name isn't a DNS label"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TailnetServiceSpec {
    /// The name, such as `svc:db`; `svc:` and the object's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 5, max = 67))]
    #[x_kube(validation = (
        "self.matches('^svc:[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
        "service must be svc: and one DNS label: lower case letters, digits and '-', without the tailnet's suffix"
    ))]
    pub service: Option<String>,
    /// The ProxyGroup whose replicas are its hosts; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub proxy_group_name: Option<String>,
    /// Tags of the Service itself, which auto-approvers of the tailnet's policy can name; the Tailnet's when
    /// empty. Others only as far as the ProxyGroup allows them.
    #[serde(default)]
    #[schemars(
        length(max = 16),
        inner(length(max = 64), regex(pattern = r"^tag:[A-Za-z][A-Za-z0-9-]*$"))
    )]
    pub tags: Vec<String>,
    /// Join a Service that other clusters, or the Tailscale operator, serve already. Without it such a name
    /// is left alone.
    #[serde(default)]
    pub shared: bool,
    /// What is served on which port.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub ports: Vec<TailnetServicePort>,
    /// Who gets in where a rule or port doesn't say it; absent: whoever the tailnet's policy lets through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Which identity headers backends get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Answer on port 80 with a redirect to HTTPS.
    #[serde(default)]
    pub http_redirect: bool,
    /// Own certificates, for own domains.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub tls: Vec<Tls>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "has(self.backend) != (has(self.rules) && size(self.rules) > 0)",
    "exactly one of backend and rules must be set"
))]
#[x_kube(validation = (
    "!has(self.rules) || size(self.rules) == 0 || self.protocol in ['HTTPS', 'HTTP']",
    "rules need protocol HTTPS or HTTP: of bytes nobody knows a path"
))]
#[x_kube(validation = (
    "!has(self.proxyProtocol) || self.protocol in ['TCP', 'TLS']",
    "proxyProtocol needs protocol TCP or TLS: over HTTP the caller is told in headers"
))]
#[serde(rename_all = "camelCase")]
pub struct TailnetServicePort {
    /// TCP port.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// What is spoken there: `HTTPS`, `HTTP`, `TLS` (ended here, bytes go on) or `TCP`.
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// Everything goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// By path; with HTTPS and HTTP.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub rules: Vec<IngressRule>,
    /// Announce the caller's address to the backend; with TCP and TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Who gets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

/// What is spoken on a port, as Gateway API names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceProtocol {
    /// TLS, then HTTP/1.1 or HTTP/2.
    #[default]
    #[serde(rename = "HTTPS")]
    Https,
    /// HTTP/1.1 without TLS.
    #[serde(rename = "HTTP")]
    Http,
    /// TLS is ended here, bytes go on.
    #[serde(rename = "TLS")]
    Tls,
    /// Bytes.
    #[serde(rename = "TCP")]
    Tcp,
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// What is known about a TailnetService.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TailnetServiceStatus {
    /// `Ready`, `Accepted`, `ResolvedRefs`, and in their order `Defined`, `Offered`, `Approved`,
    /// `CertificateReady`, `Advertised`, `Serving`.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The Tailnet that has a definition made for this object; written before the definition is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tailnet: Option<String>,
    /// The name of that definition, such as `svc:db`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The full name on the tailnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its addresses, which every host answers for.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Replicas that serve it.
    #[serde(default)]
    pub hosts: i32,
    /// End of the served certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub certificate_expires: Option<Timestamp>,
}
