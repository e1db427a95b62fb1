//! `status` (Go: `ipn/ipnstate`, `LocalBackend.updateStatusLocked`).

use std::{collections::BTreeMap, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use postern_node::{
    control::LocalState,
    derp_map::RegionId,
    engine::Traffic,
    magicsock::Path,
    netmap::{Netmap, Node, NodeId, PeerApi, UserId},
    node,
    tailcfg::DnsRecord,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Answer, LocalApi, Query,
    json::{self, Time, UserJson},
};

/// A peer that was sent something so lately is active (Go: `sessionActiveTimeout`).
const ACTIVE: SignedDuration = SignedDuration::from_secs(45);
/// Go puts it before the old list of capabilities.
const DEPRECATED: &str =
    "HTTPS://TAILSCALE.COM/s/DEPRECATED-NODE-CAPS#see-https://github.com/tailscale/tailscale/issues/11508";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status<'a> {
    version: &'static str,
    #[serde(rename = "TUN")]
    tun: bool,
    backend_state: &'static str,
    have_node_key: bool,
    #[serde(rename = "AuthURL")]
    auth_url: &'a str,
    #[serde(rename = "TailscaleIPs")]
    tailscale_ips: Option<Vec<IpAddr>>,
    #[serde(rename = "Self")]
    own: PeerStatus<'a>,
    health: &'a [String],
    #[serde(rename = "MagicDNSSuffix")]
    magic_dns_suffix: &'a str,
    current_tailnet: Option<CurrentTailnet<'a>>,
    cert_domains: Option<&'a [String]>,
    extra_records: Option<Vec<Record<'a>>>,
    peer: Option<BTreeMap<String, PeerStatus<'a>>>,
    user: Option<BTreeMap<UserId, UserJson<'a>>>,
    client_version: Option<()>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CurrentTailnet<'a> {
    name: &'a str,
    #[serde(rename = "MagicDNSSuffix")]
    magic_dns_suffix: &'a str,
    #[serde(rename = "MagicDNSEnabled")]
    magic_dns_enabled: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Record<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    r#type: &'a str,
    value: &'a str,
}

impl<'a> From<&'a DnsRecord> for Record<'a> {
    fn from(record: &'a DnsRecord) -> Self {
        Self {
            name: &record.name,
            r#type: &record.r#type,
            value: &record.value,
        }
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct PeerStatus<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "NodeID")]
    node_id: NodeId,
    public_key: String,
    host_name: &'a str,
    #[serde(rename = "DNSName")]
    dns_name: String,
    #[serde(rename = "OS")]
    os: &'a str,
    #[serde(rename = "UserID")]
    user_id: UserId,
    #[serde(rename = "AltSharerUserID", skip_serializing_if = "is_zero")]
    alt_sharer_user_id: UserId,
    #[serde(rename = "TailscaleIPs")]
    tailscale_ips: Option<Vec<IpAddr>>,
    #[serde(rename = "AllowedIPs", skip_serializing_if = "Vec::is_empty")]
    allowed_ips: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    primary_routes: Vec<String>,
    addrs: Option<Vec<String>>,
    cur_addr: String,
    relay: &'a str,
    peer_relay: &'static str,
    rx_bytes: u64,
    tx_bytes: u64,
    created: Time,
    last_write: Time,
    last_seen: Time,
    last_handshake: Time,
    online: bool,
    exit_node: bool,
    exit_node_option: bool,
    active: bool,
    #[serde(rename = "PeerAPIURL")]
    peer_api_url: Option<Vec<String>>,
    taildrop_target: u8,
    no_file_sharing_reason: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    capabilities: Vec<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    cap_map: BTreeMap<&'a str, Option<&'a [Box<RawValue>]>>,
    #[serde(rename = "sshHostKeys", skip_serializing_if = "Vec::is_empty")]
    ssh_host_keys: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sharee_node: bool,
    in_network_map: bool,
    in_magic_sock: bool,
    in_engine: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_expiry: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Box<RawValue>>,
}

/// What only a machine's hostinfo says.
#[derive(Default, Deserialize)]
struct FromHostinfo {
    #[serde(rename = "ShareeNode", default)]
    sharee_node: bool,
    #[serde(rename = "sshHostKeys", default)]
    ssh_host_keys: Vec<String>,
    #[serde(rename = "Location", default)]
    location: Option<Box<RawValue>>,
}

impl LocalApi {
    pub(super) fn status(&self, query: &Query) -> Answer {
        let with_peers = query.get("peers").is_none_or(|text| !is_false(text));
        let Some(running) = self.nodes.first() else {
            return Answer::json(&Status::without_netmap("NoState", ""));
        };
        let status = running.status().borrow().clone();
        let (state, auth_url) = backend_state(&status);
        let Some(netmap) = running.netmap() else {
            return Answer::json(&Status::without_netmap(state, auth_url));
        };
        let now = Timestamp::now();
        let peers: BTreeMap<String, PeerStatus<'_>> = netmap
            .peers
            .values()
            .filter(|_| with_peers)
            .map(|peer| {
                let status = PeerStatus::of_peer(&netmap, peer, &running.traffic(&peer.key), now);
                (peer.key.to_string(), status)
            })
            .collect();
        // Without peers there is the own user all the same, so that a name can be shown.
        let users = netmap
            .users
            .iter()
            .filter(|(id, _)| with_peers || **id == netmap.self_node.user);
        Answer::json(&Status {
            have_node_key: true,
            tailscale_ips: Some(netmap.self_node.ips().collect()),
            own: PeerStatus::of_self(&netmap, &running.local(), running.is_online()),
            health: &netmap.health,
            magic_dns_suffix: &netmap.magic_dns_suffix,
            current_tailnet: Some(CurrentTailnet {
                name: &netmap.domain,
                magic_dns_suffix: &netmap.magic_dns_suffix,
                magic_dns_enabled: netmap.magic_dns,
            }),
            cert_domains: (!netmap.cert_domains.is_empty()).then_some(&netmap.cert_domains),
            extra_records: (!netmap.extra_records.is_empty())
                .then(|| netmap.extra_records.iter().map(Record::from).collect()),
            peer: (!peers.is_empty()).then_some(peers),
            user: Some(users.map(|(id, user)| (*id, UserJson::from(&**user))).collect()),
            ..Status::without_netmap(state, auth_url)
        })
    }
}

impl<'a> Status<'a> {
    fn without_netmap(backend_state: &'static str, auth_url: &'a str) -> Self {
        Self {
            version: concat!(env!("CARGO_PKG_VERSION"), "-postern"),
            tun: false,
            backend_state,
            have_node_key: false,
            auth_url,
            tailscale_ips: None,
            own: PeerStatus::default(),
            health: &[],
            magic_dns_suffix: "",
            current_tailnet: None,
            cert_domains: None,
            extra_records: None,
            peer: None,
            user: None,
            client_version: None,
        }
    }
}

impl<'a> PeerStatus<'a> {
    fn of_node(netmap: &'a Netmap, node: &'a Node) -> Self {
        let details = node.details.as_deref();
        let hostinfo: FromHostinfo = details
            .and_then(|d| serde_json::from_str(d.hostinfo.as_deref()?).ok())
            .unwrap_or_default();
        let every = |text: &str| node.allowed_ips.iter().any(|net| net.to_string() == text);
        Self {
            id: &node.stable_id,
            node_id: node.id,
            public_key: node.key.to_string(),
            host_name: &node.hostname,
            dns_name: json::absolute(&node.name),
            os: &node.os,
            user_id: node.user,
            alt_sharer_user_id: details.map_or(0, |d| d.sharer),
            tailscale_ips: Some(node.ips().collect()),
            allowed_ips: json::texts(&node.allowed_ips),
            tags: &node.tags,
            primary_routes: details.map_or_else(Vec::new, |d| json::texts(&d.primary_routes)),
            relay: region_code(netmap, node.home_derp),
            created: Time(details.and_then(|d| d.created)),
            last_seen: Time(details.and_then(|d| d.last_seen)),
            online: node.online.unwrap_or_default(),
            exit_node_option: every("0.0.0.0/0") && every("::/0"),
            cap_map: json::caps(&node.cap_map),
            ssh_host_keys: hostinfo.ssh_host_keys,
            sharee_node: hostinfo.sharee_node,
            location: hostinfo.location,
            in_network_map: true,
            expired: node.expired,
            key_expiry: node.key_expiry.and_then(|t| t.round(jiff::Unit::Second).ok()),
            ..Self::default()
        }
    }

    fn of_peer(netmap: &'a Netmap, node: &'a Node, traffic: &Traffic, now: Timestamp) -> Self {
        let is_active = traffic
            .last_send
            .is_some_and(|at| now.duration_since(at) < ACTIVE);
        let cur_addr = match traffic.path {
            Path::Direct(addr) if traffic.last_send.is_some() => addr.to_string(),
            Path::Direct(_) | Path::Derp(_) | Path::None => String::new(),
        };
        let peer_api = peer_api_urls(node.ips(), node.peer_api);
        Self {
            cur_addr,
            rx_bytes: traffic.rx_bytes,
            tx_bytes: traffic.tx_bytes,
            last_write: Time(traffic.last_send),
            last_handshake: Time(traffic.last_handshake),
            active: is_active,
            peer_api_url: (!peer_api.is_empty()).then_some(peer_api),
            in_magic_sock: true,
            in_engine: traffic.is_live,
            ..Self::of_node(netmap, node)
        }
    }

    fn of_self(netmap: &'a Netmap, local: &LocalState, is_online: bool) -> Self {
        let node = &*netmap.self_node;
        let mut capabilities: Vec<&str> = node.cap_map.keys().map(String::as_str).collect();
        if !capabilities.is_empty() {
            capabilities.insert(0, DEPRECATED);
        }
        let peer_api = peer_api_urls(node.ips(), local.peer_api);
        Self {
            os: "linux",
            addrs: Some(local.endpoints.iter().map(|e| e.addr.to_string()).collect()),
            relay: region_code(netmap, local.net_info.preferred_derp),
            online: is_online,
            peer_api_url: (!peer_api.is_empty()).then_some(peer_api),
            // Go says these of peers alone.
            last_seen: Time(None),
            alt_sharer_user_id: 0,
            ssh_host_keys: Vec::new(),
            capabilities,
            ..Self::of_node(netmap, node)
        }
    }
}

fn region_code(netmap: &Netmap, region: Option<RegionId>) -> &str {
    region
        .and_then(|region| netmap.derp.regions.get(&region))
        .map_or("", |region| &region.code)
}

fn peer_api_urls(ips: impl Iterator<Item = IpAddr>, ports: PeerApi) -> Vec<String> {
    let mut ips: Vec<IpAddr> = ips.collect();
    ips.sort_by_key(IpAddr::is_ipv6);
    ips.dedup_by_key(|ip| ip.is_ipv6());
    ips.into_iter()
        .filter_map(|ip| {
            let port = if ip.is_ipv4() { ports.v4 } else { ports.v6 }?;
            Some(format!("http://{}", std::net::SocketAddr::new(ip, port)))
        })
        .collect()
}

/// Go's name of the state, and where to log in.
fn backend_state(status: &node::Status) -> (&'static str, &str) {
    match status {
        node::Status::Starting { .. } => ("Starting", ""),
        node::Status::NeedsLogin { url } => ("NeedsLogin", url),
        node::Status::Refused { .. } | node::Status::KeyExpired => ("NeedsLogin", ""),
        node::Status::NeedsApproval => ("NeedsMachineAuth", ""),
        node::Status::Running(_) => ("Running", ""),
        node::Status::Closed => ("Stopped", ""),
    }
}

/// As Go's `strconv.ParseBool`.
fn is_false(text: &str) -> bool {
    matches!(text, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

fn is_zero(id: &UserId) -> bool {
    *id == 0
}
