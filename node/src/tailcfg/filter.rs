use ipnet::IpNet;
use serde::Deserialize;

use super::lax;
use crate::netmap::CapMap;

/// A rule of the packet filter. Rules only allow, so what is left out of one makes it narrower; where it
/// would make it wider, the rule is broken.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct FilterRule {
    /// Each an address, a prefix, `a-b`, `*` or `cap:NAME`.
    #[serde(rename = "SrcIPs", deserialize_with = "lax::list")]
    pub src_ips: Vec<String>,
    /// Obsolete; its presence makes the whole rule set invalid.
    #[serde(rename = "SrcBits", deserialize_with = "lax::null_default")]
    pub src_bits: Vec<i64>,
    /// What may be reached. Empty when the rule only grants capabilities.
    #[serde(rename = "DstPorts", deserialize_with = "lax::list")]
    pub dst_ports: Vec<NetPortRange>,
    /// Protocol numbers; empty: TCP, UDP, ICMP.
    #[serde(rename = "IPProto", deserialize_with = "lax::null_default")]
    pub ip_proto: Vec<i64>,
    /// Capabilities that the sources have towards destinations.
    #[serde(rename = "CapGrant", deserialize_with = "lax::list")]
    pub cap_grant: Vec<CapGrant>,
}

/// Addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NetPortRange {
    /// As in [`FilterRule::src_ips`], without `cap:`.
    #[serde(rename = "IP")]
    pub ip: String,
    /// Obsolete; its presence makes the whole rule set invalid.
    #[serde(rename = "Bits", default)]
    pub bits: Option<i64>,
    /// Both ends included.
    #[serde(rename = "Ports")]
    pub ports: PortRange,
}

/// Ports from first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// Capabilities towards destinations.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CapGrant {
    /// Where they hold.
    #[serde(deserialize_with = "lax::list")]
    pub dsts: Vec<IpNet>,
    /// Capabilities without values, the old form.
    #[serde(deserialize_with = "lax::list")]
    pub caps: Vec<String>,
    /// Capabilities with their values.
    #[serde(deserialize_with = "lax::cap_map")]
    pub cap_map: CapMap,
}
