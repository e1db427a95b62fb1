use std::collections::BTreeMap;

use serde::Deserialize;

use super::lax;
use crate::derp_map::RegionId;

/// Relays; also a delta: what is `None` is unchanged.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DerpMap {
    /// How clients choose their home.
    #[serde(rename = "HomeParams", deserialize_with = "lax::optional")]
    pub home_params: Option<DerpHomeParams>,
    /// Regions by number. A `None` region does not exist.
    #[serde(rename = "Regions", deserialize_with = "lax::optional_map")]
    pub regions: Option<BTreeMap<RegionId, Option<DerpRegion>>>,
    /// Don't add the client's built-in regions.
    #[serde(rename = "omitDefaultRegions", deserialize_with = "lax::or_default")]
    pub omit_default_regions: bool,
}

/// How clients choose their home.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DerpHomeParams {
    /// Factors on the latency by region; `None`: unchanged.
    #[serde(rename = "RegionScore", deserialize_with = "lax::optional_map")]
    pub region_score: Option<BTreeMap<RegionId, f64>>,
}

/// A region.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DerpRegion {
    /// Its number.
    #[serde(rename = "RegionID", deserialize_with = "lax::or_default")]
    pub region_id: RegionId,
    /// A short code such as `fra`.
    #[serde(deserialize_with = "lax::or_default")]
    pub region_code: String,
    /// For people.
    #[serde(deserialize_with = "lax::or_default")]
    pub region_name: String,
    /// Never home by measurement.
    #[serde(deserialize_with = "lax::or_default")]
    pub avoid: bool,
    /// Not measured, never home.
    #[serde(deserialize_with = "lax::or_default")]
    pub no_measure_no_home: bool,
    /// In the order in which they are tried.
    #[serde(deserialize_with = "lax::list")]
    pub nodes: Vec<DerpNode>,
}

/// A relay server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DerpNode {
    /// Unique over all regions.
    #[serde(deserialize_with = "lax::or_default")]
    pub name: String,
    /// The region's number.
    #[serde(rename = "RegionID", deserialize_with = "lax::or_default")]
    pub region_id: RegionId,
    /// DNS name.
    #[serde(deserialize_with = "lax::or_default")]
    pub host_name: String,
    /// The name in the certificate when it is another, or `sha256-raw:` and a hash.
    // A pin that we can't read must not become no pin.
    #[serde(deserialize_with = "lax::null_default")]
    pub cert_name: String,
    /// Empty: by DNS; `none`: not by IPv4.
    #[serde(rename = "IPv4", deserialize_with = "lax::or_default")]
    pub ipv4: String,
    /// Empty: by DNS; `none`: not by IPv6.
    #[serde(rename = "IPv6", deserialize_with = "lax::or_default")]
    pub ipv6: String,
    /// 0: 3478; negative: no STUN.
    #[serde(rename = "STUNPort", deserialize_with = "lax::or_default")]
    pub stun_port: i32,
    /// No relay.
    #[serde(rename = "STUNOnly", deserialize_with = "lax::or_default")]
    pub stun_only: bool,
    /// 0: 443.
    #[serde(rename = "DERPPort", deserialize_with = "lax::or_default")]
    pub derp_port: u16,
    /// TLS without verification.
    #[serde(deserialize_with = "lax::or_default")]
    pub insecure_for_tests: bool,
    /// Overrides the address for STUN; empty: doesn't.
    #[serde(rename = "STUNTestIP", deserialize_with = "lax::or_default")]
    pub stun_test_ip: String,
}
