use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lax;

/// What a machine says about itself; only what we say or read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Hostinfo {
    /// The client's version.
    #[serde(
        rename = "IPNVersion",
        deserialize_with = "lax::or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub ipn_version: String,
    /// Any opaque hex; Go refuses to register without.
    #[serde(
        rename = "BackendLogID",
        deserialize_with = "lax::or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub backend_log_id: String,
    /// `linux`, …
    #[serde(
        rename = "OS",
        deserialize_with = "lax::or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os: String,
    /// The kernel's version.
    #[serde(
        rename = "OSVersion",
        deserialize_with = "lax::or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Runs in a container.
    #[serde(deserialize_with = "lax::optional", skip_serializing_if = "Option::is_none")]
    pub container: Option<bool>,
    /// The program.
    #[serde(
        deserialize_with = "lax::or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub app: String,
    /// The name that the machine wants.
    #[serde(
        deserialize_with = "lax::or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub hostname: String,
    /// `true`: sends no logs anywhere.
    #[serde(
        deserialize_with = "lax::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub no_logs_no_support: bool,
    /// Funnel may be enabled later.
    #[serde(
        deserialize_with = "lax::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub wire_ingress: bool,
    /// Funnel is enabled.
    #[serde(
        deserialize_with = "lax::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub ingress_enabled: bool,
    /// Must be `false`: nobody tells our pods to update themselves.
    #[serde(
        deserialize_with = "lax::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub allows_update: bool,
    /// The architecture (`uname -m`).
    #[serde(
        deserialize_with = "lax::or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub machine: String,
    /// Tags to be given, sorted and unique.
    #[serde(deserialize_with = "lax::list", skip_serializing_if = "Vec::is_empty")]
    pub request_tags: Vec<String>,
    /// Where the PeerAPI listens, above all.
    #[serde(deserialize_with = "lax::list", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// What was measured about the network.
    #[serde(deserialize_with = "lax::optional", skip_serializing_if = "Option::is_none")]
    pub net_info: Option<NetInfo>,
    /// No tun device.
    #[serde(deserialize_with = "lax::optional", skip_serializing_if = "Option::is_none")]
    pub userspace: Option<bool>,
    /// No tun device for routes.
    #[serde(deserialize_with = "lax::optional", skip_serializing_if = "Option::is_none")]
    pub userspace_router: Option<bool>,
    /// Changes when the hosted `svc:` services change; control then asks for them by c2n.
    #[serde(
        deserialize_with = "lax::or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub services_hash: String,
    /// The JSON that this was read from, where it was read: there is more in it. Not sent.
    #[serde(skip)]
    pub json: Option<Box<str>>,
}

/// Something that a machine serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// `peerapi4`, `peerapi6`, `peerapi-dns-proxy`, `tcp`, `udp`.
    pub proto: String,
    /// The port.
    pub port: u16,
}

/// What was measured about the network. Go's `opt.Bool` is an `Option<bool>`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetInfo {
    /// The NAT is a hard one.
    #[serde(
        rename = "MappingVariesByDestIP",
        deserialize_with = "lax::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub mapping_varies_by_dest_ip: Option<bool>,
    /// IPv6 reaches the internet.
    #[serde(
        rename = "WorkingIPv6",
        deserialize_with = "lax::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub working_ipv6: Option<bool>,
    /// UDP reaches the internet.
    #[serde(
        rename = "WorkingUDP",
        deserialize_with = "lax::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub working_udp: Option<bool>,
    /// The home region; 0: none.
    #[serde(
        rename = "PreferredDERP",
        deserialize_with = "lax::or_default",
        skip_serializing_if = "is_zero"
    )]
    pub preferred_derp: u16,
    /// Seconds by `"<region>-v4"` and `"<region>-v6"`.
    #[serde(
        rename = "DERPLatency",
        deserialize_with = "lax::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub derp_latency: BTreeMap<String, f64>,
}

fn is_zero(region: &u16) -> bool {
    *region == 0
}
