//! What a proxy group serves: one [`Shard`] per ConfigMap (key `config.json`), a name wholly in one shard.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    access::Access,
    funnel::{Funnel, Quota},
};

/// The key of the ConfigMap under which a shard's JSON stands.
pub const CONFIG_KEY: &str = "config.json";

/// A part of a group's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// Which coordination server the group is on.
    pub tailnet: Tailnet,
    /// Device names by their key, the hostname.
    #[serde(default)]
    pub names: BTreeMap<String, Name>,
    /// Services by their name, such as `svc:db`: every replica serves each of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Service>,
    /// The nodes that are hosts of services, by pod: each replica starts its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, Host>,
}

/// The coordination server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tailnet {
    /// For example `https://controlplane.tailscale.com`.
    pub control_url: String,
    /// PEM roots to trust beside the public ones, for control, relays and ACME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// ACME directory; absent: Let's Encrypt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme_directory: Option<String>,
    /// Never use UDP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub derp_only: bool,
}

/// One tailnet name with everything that it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Name {
    /// The object that asked for it.
    pub owner: Owner,
    /// The object's generation that this was made of.
    pub generation: i64,
    /// The node behind the name.
    pub node: NodeConfig,
    /// What is served on which port.
    pub listeners: Vec<Listener>,
    /// What the internet reaches of it; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub funnel: Option<Funnel>,
    /// Own certificates, looked up before the tailnet's. By SNI, exact or one `*.` label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<OwnCertificate>,
}

/// A Tailscale Service with everything that it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// The object that asked for it.
    pub owner: Owner,
    /// The object's generation that this was made of.
    pub generation: i64,
    /// What is served on which port.
    pub listeners: Vec<Listener>,
    /// The Secret (`kubernetes.io/tls`) where the issued certificate is kept, for all replicas; absent: no
    /// port needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<SecretRef>,
    /// Own certificates, as those of a [`Name`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<OwnCertificate>,
}

/// A replica's node that is a host of services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Whose it is, for reports: the ProxyGroup.
    pub owner: Owner,
    /// The node; it has tags, since no other may be a host, and no certificate of its own.
    pub node: NodeConfig,
}

/// A Kubernetes object, for reports and logs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// For example `TailnetIngress`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The node of a device name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfig {
    /// The host name to register.
    pub hostname: String,
    /// `tag:…` to ask for.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The Secret with keys `state` (node state) and `authkey` (one-time auth key, made by the operator).
    /// The proxy gets and patches it by name.
    pub state: SecretRef,
    /// The Secret (`kubernetes.io/tls`) where the issued certificate is kept; absent: the tailnet has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<SecretRef>,
}

/// A Secret in the proxy's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    pub name: String,
    /// Changes when it has to be read again.
    #[serde(default)]
    pub revision: String,
}

/// A certificate brought by the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnCertificate {
    /// SNI names that it is for; empty: those in the certificate.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// `kubernetes.io/tls`.
    pub secret: SecretRef,
}

/// A port of a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// TCP port on the name's addresses. 0, with bytes to an address of port 0: every port that has no other
    /// listener, each to the same port there; in files of people only.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What a listener speaks and does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Protocol {
    /// TLS, then HTTP/1.1 or HTTP/2.
    Https(Http),
    /// HTTP/1.1 without TLS; answers only for the name's own hosts.
    Http(Http),
    /// Answers every request with a redirect to `https://` of the same host.
    #[serde(rename_all = "camelCase")]
    RedirectToHttps {
        /// The HTTPS port to name; 443 is left out of the URL.
        port: u16,
    },
    /// Bytes.
    Tcp(Tcp),
    /// TLS is ended here, bytes go on.
    TlsTerminatedTcp(Tcp),
    /// TLS, then the identity provider whose issuer is the name.
    IdentityProvider(IdentityProvider),
}

/// An identity provider; written by the operator alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityProvider {
    /// What the names of its documents begin with: ConfigMaps, and one Secret with the signing keys.
    pub documents: String,
    /// The Secret with the clients that objects declare; absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<SecretRef>,
    /// How ID tokens of new clients are signed.
    #[serde(default)]
    pub signing: Signing,
    /// Tokens may be exchanged (RFC 8693).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub token_exchange: bool,
    /// Clients may register themselves, as far as the tailnet's policy grants it, and go after so many
    /// seconds; absent: they may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_seconds: Option<u32>,
    /// Serve what clients ask inside of the cluster too, at [`crate::names::BACK_CHANNEL_PORT`] of the pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back_channel: bool,
    /// The life of ID and access tokens.
    pub token_seconds: u32,
    /// The life of a refresh token that isn't used.
    pub refresh_seconds: u32,
}

/// Algorithm of a signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signing {
    /// ECDSA on P-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSA PKCS #1 v1.5.
    #[serde(rename = "RS256")]
    Rs256,
}

/// HTTP routing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http {
    /// Tried by host (exact before none), then exact path, then the longest prefix.
    pub routes: Vec<Route>,
    /// Which identity headers backends get.
    #[serde(default)]
    pub identity: Identity,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// A host that this route is for, lower case, without port; absent: every host of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Which paths.
    pub path: PathMatch,
    /// Replaces the matched prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_prefix: Option<String>,
    /// Where to.
    pub backend: Backend,
    /// Capabilities to pass in `Tailscale-App-Capabilities` instead of the listener's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_capabilities: Option<Vec<String>>,
    /// Who gets in from the tailnet; absent: whoever its policy lets reach the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// The internet reaches it too, on the ports and under the lock of [`Name::funnel`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub funnel: bool,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// Times.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// A path condition, as Gateway API has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type", content = "value")]
pub enum PathMatch {
    /// This path and everything below it, element by element.
    Prefix(String),
    /// This path alone.
    Exact(String),
}

/// Where requests or bytes go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Backend {
    /// A Service, by the key of [`crate::endpoints::Endpoints::backends`].
    #[serde(rename_all = "camelCase")]
    Service {
        /// `NAMESPACE/NAME:PORT`.
        key: String,
        /// How to speak to it.
        #[serde(default)]
        scheme: Scheme,
    },
    /// A fixed address: in files of people only, never written by the operator.
    #[serde(rename_all = "camelCase")]
    Address {
        /// `host:port`.
        address: String,
        /// How to speak to it.
        #[serde(default)]
        scheme: Scheme,
        /// Prepended to the request's path.
        #[serde(default)]
        path: String,
    },
    /// A unix socket: in files of people only.
    #[serde(rename_all = "camelCase")]
    Unix {
        /// Its path.
        path: String,
    },
    /// A file, or what is in a directory: in files of people only.
    #[serde(rename_all = "camelCase")]
    Files {
        /// Absolute.
        path: String,
    },
    /// A fixed text.
    #[serde(rename_all = "camelCase")]
    Text {
        /// `text/plain`.
        text: String,
    },
    /// A redirect; `${HOST}` and `${REQUEST_URI}` are replaced.
    #[serde(rename_all = "camelCase")]
    Redirect {
        /// 301, 302, 303, 307, 308.
        status: u16,
        /// The Location.
        location: String,
    },
    /// The object names a backend that can't be used; requests get 503 with this reason in the log.
    #[serde(rename_all = "camelCase")]
    Unavailable {
        /// Why, for people.
        reason: String,
    },
}

/// How to speak to a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scheme {
    /// HTTP/1.1; gRPC requests by HTTP/2 with prior knowledge.
    #[default]
    Http,
    /// HTTP/2 with prior knowledge, always.
    H2c,
    /// TLS, verified against the public roots.
    Https,
    /// TLS without verification, as Go's `https+insecure`.
    HttpsInsecure,
}

/// A byte stream's target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tcp {
    /// Where to.
    pub backend: Backend,
    /// Announce the client's address to the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Who gets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Which identity headers backends get.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// `Tailscale-User-*`: on unless said otherwise.
    #[serde(default)]
    pub headers: IdentityHeaders,
    /// Capabilities to pass in `Tailscale-App-Capabilities`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub app_capabilities: Vec<String>,
}

/// A set of identity headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdentityHeaders {
    /// As Go's serve sets them.
    #[default]
    Tailscale,
    /// None.
    None,
}

/// Bounds of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Largest request body in bytes; absent: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
    /// For each user of the tailnet; a tagged node counts as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_user: Option<Quota>,
}

/// Times of a route, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// For the backend's connection.
    pub connect_ms: u64,
    /// For the backend's response head.
    pub response_ms: u64,
    /// Longest silence within a body, each way.
    pub idle_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        // Long answers of model servers think for minutes before their first byte.
        Self {
            connect_ms: 5_000,
            response_ms: 300_000,
            idle_ms: 600_000,
        }
    }
}
