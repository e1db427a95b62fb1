//! The DERP map: which relay regions there are and how to reach their nodes (Go: `tailcfg/derpmap.go`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A DERP region's number.
pub type RegionId = u16;

/// All relay regions of a tailnet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DerpMap {
    /// Regions by number.
    pub regions: BTreeMap<RegionId, DerpRegion>,
    /// Latency factors by region, from the map's `HomeParams.RegionScore`; absent means 1.
    pub region_score: BTreeMap<RegionId, f64>,
}

/// A region: nodes that know of each other's clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DerpRegion {
    /// The region's number.
    pub id: RegionId,
    /// A short code such as `fra`.
    pub code: String,
    /// Never chosen as home by measurement.
    pub avoid: bool,
    /// Not to be measured, and never home (capability version 115).
    pub no_measure_no_home: bool,
    /// In the order in which they are to be tried.
    pub nodes: Vec<DerpNode>,
}

/// One relay server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DerpNode {
    /// Unique over all regions, such as `1a`.
    pub name: String,
    /// For TLS and, without the literals below, for DNS.
    pub host_name: String,
    /// The name in the certificate when it isn't `host_name`, or `sha256-raw:` and the certificate's hash.
    pub cert_name: Option<String>,
    /// How to reach it by IPv4.
    pub ipv4: DerpAddr,
    /// How to reach it by IPv6.
    pub ipv6: DerpAddr,
    /// UDP port of STUN; `None` when the node has no STUN.
    pub stun_port: Option<u16>,
    /// Answers STUN but relays nothing.
    pub stun_only: bool,
    /// TCP port of DERP.
    pub derp_port: u16,
    /// TLS without verification. Only for tests.
    pub insecure_for_tests: bool,
    /// Overrides the address for STUN, in tests.
    pub stun_test_ip: Option<std::net::IpAddr>,
}

/// One address family of a relay server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DerpAddr {
    /// Ask DNS for `host_name`.
    #[default]
    Dns,
    /// Use this address.
    Literal(std::net::IpAddr),
    /// Don't use this family.
    Disabled,
}
