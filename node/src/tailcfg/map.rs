use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{DerpMap, FilterRule, Hostinfo, List, Node, PeerChange, UserProfile, lax};
use crate::{
    key::{DiscoPublic, NodePublic},
    netmap::NodeId,
};

/// Asks for the map, and says where and what we are.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MapRequest {
    /// Capability version.
    pub version: u16,
    /// The server should send something at least every minute.
    pub keep_alive: bool,
    /// Who asks.
    pub node_key: NodePublic,
    /// The key of our disco messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoPublic>,
    /// `true`: a stream of maps; `false`: an update of what we say.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// What we say about ourselves.
    pub hostinfo: Hostinfo,
    /// Where our UDP socket is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<SocketAddr>,
    /// How we know, for each endpoint (Go: `tailcfg.EndpointType`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoint_types: Vec<u8>,
    /// We don't want the map.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub omit_peers: bool,
}

/// A message of the map stream. The first holds everything, later ones what has changed: `None` (or
/// empty, where no `Option` is) means unchanged.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MapResponse {
    /// Nothing but ping and time is to be read.
    #[serde(deserialize_with = "lax::or_default")]
    pub keep_alive: bool,
    /// A question to be answered.
    #[serde(deserialize_with = "lax::optional")]
    pub ping_request: Option<PingRequest>,
    /// Ourselves.
    #[serde(deserialize_with = "lax::optional")]
    pub node: Option<Node>,
    /// Relays.
    #[serde(rename = "DERPMap", deserialize_with = "lax::optional")]
    pub derp_map: Option<DerpMap>,
    /// When not empty, all peers; the other lists of peers are then ignored.
    #[serde(deserialize_with = "lax::counted_list")]
    pub peers: List<Node>,
    /// New peers, and peers to be replaced.
    #[serde(deserialize_with = "lax::counted_list")]
    pub peers_changed: List<Node>,
    /// Peers that are gone.
    #[serde(deserialize_with = "lax::list")]
    pub peers_removed: Vec<NodeId>,
    /// Changes of single fields of peers.
    #[serde(deserialize_with = "lax::counted_list")]
    pub peers_changed_patch: List<PeerChange>,
    /// `true`: seen now; `false`: unknown.
    #[serde(deserialize_with = "lax::map")]
    pub peer_seen_change: BTreeMap<NodeId, bool>,
    /// Whether control sees the peer.
    #[serde(deserialize_with = "lax::map")]
    pub online_change: BTreeMap<NodeId, bool>,
    /// DNS.
    #[serde(rename = "DNSConfig", deserialize_with = "lax::optional")]
    pub dns_config: Option<DnsConfig>,
    /// The tailnet's name; empty: unchanged.
    #[serde(deserialize_with = "lax::or_default")]
    pub domain: String,
    /// Replaces the chunk `base` of the filter.
    #[serde(deserialize_with = "lax::optional")]
    pub packet_filter: Option<List<FilterRule>>,
    /// Chunks of the filter by name. `None` deletes one, and all of them under the name `*`.
    #[serde(deserialize_with = "lax::map")]
    pub packet_filters: BTreeMap<String, Option<List<FilterRule>>>,
    /// Added or replaced, never removed.
    #[serde(deserialize_with = "lax::counted_list")]
    pub user_profiles: List<UserProfile>,
    /// Problems of this node.
    #[serde(deserialize_with = "lax::optional_list")]
    pub health: Option<Vec<String>>,
    /// Messages by name. `None` deletes one, and all of them under the name `*`.
    #[serde(deserialize_with = "lax::map")]
    pub display_messages: BTreeMap<String, Option<DisplayMessage>>,
    /// The server's clock.
    #[serde(deserialize_with = "lax::time")]
    pub control_time: Option<Timestamp>,
    /// Wishes of the server.
    #[serde(deserialize_with = "lax::optional")]
    pub debug: Option<Debug>,
    /// Where the server may be reached when DNS fails us; `None`: unchanged.
    #[serde(deserialize_with = "lax::optional")]
    pub control_dial_plan: Option<DialPlan>,
}

/// Addresses of the control server.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DialPlan {
    /// They race, each after its delay. None: ask DNS.
    #[serde(deserialize_with = "lax::list")]
    pub candidates: Vec<DialCandidate>,
}

/// One address of the control server.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DialCandidate {
    /// The address.
    #[serde(rename = "IP", deserialize_with = "lax::optional")]
    pub ip: Option<IpAddr>,
    /// A proxy of Tailscale's to go through.
    #[serde(rename = "ACEHost", deserialize_with = "lax::or_default")]
    pub ace_host: String,
    /// Seconds to wait before it is tried.
    #[serde(deserialize_with = "lax::or_default")]
    pub dial_start_delay_sec: f64,
    /// Seconds that it may take then.
    #[serde(deserialize_with = "lax::or_default")]
    pub dial_timeout_sec: f64,
}

impl MapResponse {
    /// Reads a message.
    ///
    /// # Errors
    /// Only when it is no JSON object.
    pub fn from_json(message: &[u8]) -> Result<Self, serde_json::Error> {
        // As in Go, bytes that aren't UTF-8 don't break a message.
        serde_json::from_str(&String::from_utf8_lossy(message))
    }

    /// How many nodes, changes, profiles and rules made no sense and were left out.
    pub fn dropped(&self) -> usize {
        let filters = self.packet_filters.values().flatten();
        self.peers.dropped
            + self.peers_changed.dropped
            + self.peers_changed_patch.dropped
            + self.user_profiles.dropped
            + self.packet_filter.as_ref().map_or(0, |f| f.dropped)
            + filters.map(|f| f.dropped).sum::<usize>()
    }
}

/// A question of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PingRequest {
    /// Where the answer goes.
    #[serde(rename = "URL", deserialize_with = "lax::or_default")]
    pub url: String,
    /// The answer goes over the Noise session.
    #[serde(rename = "URLIsNoise", deserialize_with = "lax::or_default")]
    pub url_is_noise: bool,
    /// Empty: `HEAD` the URL; `c2n`: answer the HTTP request in `payload`; or a list of ways to ping.
    #[serde(deserialize_with = "lax::or_default")]
    pub types: String,
    /// Whom to ping.
    #[serde(rename = "IP", deserialize_with = "lax::optional")]
    pub ip: Option<IpAddr>,
    /// An HTTP/1 request, for `c2n`.
    #[serde(deserialize_with = "lax::base64")]
    pub payload: Vec<u8>,
}

/// DNS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DnsConfig {
    /// Resolvers for what no route names.
    #[serde(deserialize_with = "lax::list")]
    pub resolvers: Vec<Resolver>,
    /// Resolvers by suffix.
    #[serde(deserialize_with = "routes")]
    pub routes: BTreeMap<String, Vec<Resolver>>,
    /// Search domains.
    #[serde(deserialize_with = "lax::list")]
    pub domains: Vec<String>,
    /// MagicDNS is on.
    #[serde(deserialize_with = "lax::or_default")]
    pub proxied: bool,
    /// Names for which control accepts `set-dns`.
    #[serde(deserialize_with = "lax::list")]
    pub cert_domains: Vec<String>,
    /// Names beside those of nodes.
    #[serde(deserialize_with = "lax::list")]
    pub extra_records: Vec<DnsRecord>,
}

fn routes<'de, D>(d: D) -> Result<BTreeMap<String, Vec<Resolver>>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let routes: BTreeMap<String, Option<List<Resolver>>> = lax::map(d)?;
    Ok(routes
        .into_iter()
        .map(|(suffix, resolvers)| (suffix, resolvers.unwrap_or_default().items))
        .collect())
}

/// A DNS server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Resolver {
    /// An address, maybe with port, or a DoH URL.
    #[serde(deserialize_with = "lax::or_default")]
    pub addr: String,
}

/// A DNS record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DnsRecord {
    /// The FQDN, maybe with trailing dot.
    #[serde(deserialize_with = "lax::or_default")]
    pub name: String,
    /// Empty: A or AAAA, as the value is.
    #[serde(deserialize_with = "lax::or_default")]
    pub r#type: String,
    /// The address.
    #[serde(deserialize_with = "lax::or_default")]
    pub value: String,
}

/// Something for people to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DisplayMessage {
    /// In short.
    #[serde(deserialize_with = "lax::or_default")]
    pub title: String,
    /// In full.
    #[serde(deserialize_with = "lax::or_default")]
    pub text: String,
    /// `high`, `medium`, `low`.
    #[serde(deserialize_with = "lax::or_default")]
    pub severity: String,
}

/// Wishes of the server.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Debug {
    /// Wait so long before the next message is read.
    #[serde(deserialize_with = "lax::or_default")]
    pub sleep_seconds: f64,
}
