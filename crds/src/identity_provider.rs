use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector},
    jiff::Timestamp,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{funnel::AddressQuota, tailnet_ingress::Tls};

/// An OpenID Connect and OAuth issuer on a tailnet name: who is logged in to the tailnet is logged in here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "IdentityProvider",
    shortname = "tidp",
    namespaced,
    status = "IdentityProviderStatus",
    derive = "PartialEq",
    category = "postern",
    doc = "An OpenID Connect and OAuth issuer on a tailnet name: who is logged in to the tailnet is logged in here.",
    printcolumn(name = "Issuer", type_ = "string", json_path = ".status.issuer"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Clients", type_ = "integer", json_path = ".status.clients"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type=='Ready')].message"),
    validation = (
        "has(self.spec.hostname) || self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
        "spec.hostname must be set when metadata.name isn't a DNS label"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct IdentityProviderSpec {
    /// The device name, which the issuer's URL is made of; the object's name when absent. Another one is
    /// another issuer, whom no client knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = (
        "self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
        "hostname must be one DNS label: lower case letters, digits and '-', without the tailnet's suffix"
    ))]
    pub hostname: Option<String>,
    /// The ProxyGroup that serves it. Absent: one of its own, since signing keys shouldn't share a process
    /// with everybody's traffic.
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
    /// Who may register clients by an OIDCClient.
    #[serde(default)]
    pub clients: ClientRules,
    /// Token, userinfo, keys and introspection inside of the cluster too, for apps that can't reach the tailnet.
    #[serde(default)]
    pub back_channel: BackChannel,
    /// Clients that register themselves (RFC 7591).
    #[serde(default)]
    pub dynamic_registration: DynamicRegistration,
    /// Clients that are known by the URL of their metadata, as MCP clients are.
    #[serde(default)]
    pub client_id_metadata_documents: ClientIdMetadataDocuments,
    /// Exchange of tokens (RFC 8693).
    #[serde(default)]
    pub token_exchange: TokenExchange,
    /// How tokens are signed.
    #[serde(default)]
    pub signing: Signing,
    /// How long what is issued can be used.
    #[serde(default)]
    pub lifetimes: Lifetimes,
    /// Let clients on the internet reach what they ask: discovery, keys, tokens, userinfo, introspection and
    /// revocation. Logging in, registering and the admin pages stay on the tailnet.
    #[serde(default)]
    pub funnel: IssuerFunnel,
    /// Own certificates, where the tailnet issues none.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub tls: Vec<Tls>,
}

/// Who may register clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientRules {
    /// Namespaces whose OIDCClients are taken.
    #[serde(default)]
    pub allowed_namespaces: ClientNamespaces,
}

/// Namespaces of clients, as Gateway API has it for routes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "(self.from == 'Selector') == has(self.selector)",
    "selector must be set with from: Selector, and only with it"
))]
#[serde(rename_all = "camelCase")]
pub struct ClientNamespaces {
    /// `Same` as the provider's, `All`, or those that `selector` matches.
    #[serde(default)]
    pub from: ClientNamespacesFrom,
    /// Labels of the namespaces; `kubernetes.io/metadata.name` is their name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// See [`ClientNamespaces`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientNamespacesFrom {
    /// The provider's own namespace.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// Namespaces with matching labels.
    Selector,
}

/// A way in from inside of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackChannel {
    /// Make a Service for it in the provider's namespace.
    #[serde(default)]
    pub enabled: bool,
}

/// Registration without an OIDCClient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DynamicRegistration {
    /// Callers need the capability `allow_dcr` even so.
    #[serde(default)]
    pub enabled: bool,
    /// A client that hasn't been used for this long is forgotten: `12h`, `30d`.
    #[serde(default = "thirty_days")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(d|h|m|s)){1,4}$"))]
    pub expire_after: String,
}

/// Clients that are known by a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientIdMetadataDocuments {
    /// Documents are fetched from the internet, never from addresses of the cluster or the tailnet.
    #[serde(default)]
    pub enabled: bool,
    /// Hosts that they may be on: a name, or `*.` and a domain. Empty: any.
    #[serde(default)]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
        )
    )]
    pub allowed_hosts: Vec<String>,
}

/// Exchange of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenExchange {
    /// Which resources a user's tokens may be exchanged for is the tailnet policy's matter.
    #[serde(default)]
    pub enabled: bool,
}

/// Signing keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signing {
    /// `ES256`, or `RS256` for clients that know nothing else.
    #[serde(default)]
    pub algorithm: SigningAlgorithm,
    /// A key signs for this long; the next one is published as long before, the last one as long after, as
    /// the longest token lives.
    #[serde(default = "ninety_days")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(d|h|m|s)){1,4}$"))]
    pub rotate_after: String,
}

/// See [`Signing`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSA PKCS #1 v1.5, 2048 bits.
    #[serde(rename = "RS256")]
    Rs256,
}

/// How long what is issued can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifetimes {
    /// Access and ID tokens.
    #[serde(default = "five_minutes")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(d|h|m|s)){1,4}$"))]
    pub tokens: String,
    /// A refresh token that isn't used within this time ends its login.
    #[serde(default = "thirty_days")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]{1,5}(d|h|m|s)){1,4}$"))]
    pub refresh: String,
}

/// Funnel for an issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerFunnel {
    /// On port 443. There is no lock to name: whoever asks has to show a code, a token or a client's secret.
    #[serde(default)]
    pub enabled: bool,
    /// Networks in CIDR form that clients have to be in, such as `192.0.2.0/24`; empty: anywhere.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub sources: Vec<String>,
    /// Bounds on clients; absent: 600 requests a minute and 32 connections of each address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<IssuerLimits>,
}

/// Bounds on an issuer's clients from the internet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerLimits {
    /// For each address; of IPv6 for each /64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_address: Option<AddressQuota>,
}

/// What is known about an IdentityProvider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityProviderStatus {
    /// `Ready`, `Accepted`, `ResolvedRefs`, `Programmed`; with `spec.funnel` also `FunnelReady`.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// What clients configure: `https://` and the full name that the coordination server assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The Service of the back channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_channel: Option<String>,
    /// Its tailnet addresses.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// OIDCClients that it has taken.
    #[serde(default)]
    pub clients: i32,
    /// The device's identifier in the coordination server's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// End of the served certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub certificate_expires: Option<Timestamp>,
}

impl Default for DynamicRegistration {
    fn default() -> Self {
        Self {
            enabled: false,
            expire_after: thirty_days(),
        }
    }
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            algorithm: SigningAlgorithm::default(),
            rotate_after: ninety_days(),
        }
    }
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            tokens: five_minutes(),
            refresh: thirty_days(),
        }
    }
}

fn five_minutes() -> String {
    "5m".into()
}

fn thirty_days() -> String {
    "30d".into()
}

fn ninety_days() -> String {
    "90d".into()
}
