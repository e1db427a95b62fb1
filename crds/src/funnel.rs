//! What the internet may have of a name, through Funnel.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Opens a name to the internet. Who gets in has to be said: by `auth`, by `sources`, or in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Funnel {
    /// 443, 8443 and 10000 are the ports that Funnel has; 443 when absent.
    #[serde(default = "https")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(validation = ("self.all(port, port in [443, 8443, 10000])", "Funnel has the ports 443, 8443 and 10000"))]
    pub ports: Vec<u16>,
    /// The tailnet doesn't reach these ports.
    #[serde(default)]
    pub only: bool,
    /// The paths of `spec.rules` that are public; nothing else is. With `spec.backend`, everything is.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024), regex(pattern = r"^/")))]
    pub rules: Vec<String>,
    /// A key or a password is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<FunnelAuth>,
    /// Networks in CIDR form that clients have to be in, such as `192.0.2.0/24`.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub sources: Vec<String>,
    /// Everybody gets in: to be said where there is neither `auth` nor `sources`.
    #[serde(default)]
    pub unauthenticated: bool,
    /// Bounds on clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<FunnelLimits>,
}

fn https() -> Vec<u16> {
    vec![443]
}

/// What a client has to show; either does where both are given. The header that shows it doesn't reach the
/// backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("has(self.bearerKeys) || has(self.basic)", "bearerKeys or basic must be set"))]
#[serde(rename_all = "camelCase")]
pub struct FunnelAuth {
    /// `Authorization: Bearer KEY`. Each entry of the Secret is a key under its name, each line of it one that
    /// holds, of at least 16 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_keys: Option<KeysFrom>,
    /// `Authorization: Basic`. Each entry of the Secret is a user, each line of it a password of at least 8
    /// characters; or it is of type `kubernetes.io/basic-auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<KeysFrom>,
}

/// Where keys are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeysFrom {
    /// A Secret of the object's namespace.
    pub secret_ref: KeysSecret,
}

/// A Secret by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeysSecret {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Bounds on clients from the internet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunnelLimits {
    /// For each key, or user with a password; requests from the tailnet that show it count as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_key: Option<Quota>,
    /// For each address; of IPv6 for each /64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_address: Option<AddressQuota>,
}

/// How much one caller may ask for; more is answered with 429 and `Retry-After`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Requests, all of a minute's at once if need be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: Option<u32>,
    /// Requests whose answers haven't ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrent: Option<u32>,
}

/// A [`Quota`], and connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressQuota {
    /// Requests, all of a minute's at once if need be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: Option<u32>,
    /// Requests whose answers haven't ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrent: Option<u32>,
    /// Open connections; more are closed at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: Option<u32>,
}
