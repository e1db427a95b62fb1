//! `whois` (Go: `ipn/localapi` `serveWhoIsWithBackend`, `LocalBackend.WhoIs`).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use postern_node::{
    key::NodePublic,
    netmap::{CapMap, Netmap, Node, UserProfile},
};
use serde::Serialize;

use super::{
    Answer, LocalApi, Query,
    json::{self, NodeJson, UserJson},
};

/// A backend may ask before the connection that it accepted is entered (Go waits as long).
const PATIENCE: [u64; 5] = [0, 10, 20, 50, 100];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WhoIsResponse<'a> {
    node: NodeJson<'a>,
    user_profile: UserJson<'a>,
    cap_map: Option<BTreeMap<&'a str, Option<&'a [Box<serde_json::value::RawValue>]>>>,
}

#[derive(serde::Deserialize)]
struct Sharee {
    #[serde(rename = "ShareeNode", default)]
    sharee_node: bool,
}

/// What `addr` names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Key(NodePublic),
    Address(IpAddr, u16),
}

/// A machine with its user, as somebody's netmap has them.
pub(crate) struct Found {
    pub(crate) netmap: Arc<Netmap>,
    pub(crate) node: Arc<Node>,
    pub(crate) user: Arc<UserProfile>,
}

impl LocalApi {
    pub(super) async fn whois(&self, query: &Query) -> Answer {
        let Some(addr) = query.get("addr").filter(|addr| !addr.is_empty()) else {
            return Answer::text(StatusCode::BAD_REQUEST, "missing 'addr' parameter");
        };
        let found = match Subject::parse(addr) {
            Ok(Subject::Key(key)) => self.by_key(&key),
            // Connections that we forward are TCP.
            Ok(Subject::Address(ip, port)) => {
                self.by_address(ip, port, query.get("proto") != Some("udp")).await
            }
            Err(reason) => return Answer::text(StatusCode::BAD_REQUEST, reason),
        };
        let Some(found) = found else {
            return Answer::text(StatusCode::NOT_FOUND, "no match for IP:port");
        };
        let caps = match destination(query, &found) {
            Ok(destination) => found.caps(destination),
            Err(reason) => return Answer::text(StatusCode::BAD_REQUEST, reason),
        };
        Answer::json(&WhoIsResponse {
            node: NodeJson::new(&found.netmap, &found.node),
            user_profile: UserJson::from(&*found.user),
            cap_map: (!caps.is_empty()).then(|| json::caps(&caps)),
        })
    }

    /// The machine behind a tailnet address, or behind the end of a connection that we forwarded.
    pub(crate) async fn by_address(&self, ip: IpAddr, port: u16, tcp: bool) -> Option<Found> {
        let ip = ip.to_canonical();
        if let Some(found) = self.by_tailnet_address(ip) {
            return Some(found);
        }
        if port == 0 || !tcp {
            return None;
        }
        for pause in PATIENCE {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if let Some(client) = self.forwarded.client(SocketAddr::new(ip, port)) {
                return self.by_tailnet_address(client);
            }
        }
        None
    }

    fn by_tailnet_address(&self, ip: IpAddr) -> Option<Found> {
        let netmap = self.nodes.that_knows(ip)?.netmap()?;
        let node = netmap.node_by_ip(ip)?.clone();
        // A machine without a user's profile is never shown as nobody.
        let user = netmap.users.get(&node.user)?.clone();
        Some(Found { netmap, node, user })
    }

    /// By its key a machine is found without a profile too.
    fn by_key(&self, key: &NodePublic) -> Option<Found> {
        self.nodes.running().into_iter().find_map(|node| {
            let netmap = node.netmap()?;
            let node = match netmap.peer_by_key(key) {
                Some(peer) => peer.clone(),
                None if netmap.self_node.key == *key => netmap.self_node.clone(),
                None => return None,
            };
            let user = netmap.users.get(&node.user).cloned().unwrap_or_default();
            Some(Found { netmap, node, user })
        })
    }
}

impl Found {
    /// The tailnet of the machine's name, with Go's dot at the end and without its old suffix; empty for
    /// machines of those whom something here was shared with (Go: `cmd/nginx-auth`).
    pub(crate) fn tailnet(&self) -> String {
        let details = self.node.details.as_deref();
        let sharee = details.is_some_and(|d| {
            let hostinfo: Option<Sharee> = d.hostinfo.as_deref().and_then(|h| serde_json::from_str(h).ok());
            hostinfo.is_some_and(|hostinfo| hostinfo.sharee_node)
        });
        if sharee {
            return String::new();
        }
        let (_, parent) = self.node.name.split_once('.').unwrap_or_default();
        parent
            .strip_suffix(".beta.tailscale.net")
            .map_or_else(|| json::absolute(parent), str::to_owned)
    }

    /// What the machine's first address may do at `destination`, as Go counts it.
    fn caps(&self, destination: Option<IpAddr>) -> CapMap {
        let source = self.node.addresses.first().map(|net| net.addr());
        let (Some(source), Some(destination)) = (source, destination) else {
            return CapMap::new();
        };
        self.netmap
            .whois(source, destination)
            .map_or_else(CapMap::new, |whois| whois.caps)
    }
}

impl Subject {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("nodekey:") {
            let key = text.parse().map_err(|_| "invalid nodekey in 'addr' parameter")?;
            return Ok(Self::Key(key));
        }
        if let Ok(ip) = text.parse() {
            return Ok(Self::Address(ip, 0));
        }
        let addr: SocketAddr = text.parse().map_err(|_| "invalid 'addr' parameter")?;
        Ok(Self::Address(addr.ip(), addr.port()))
    }
}

/// The address of ours whose grants count: of the service or address that was asked about, or the node's own.
fn destination(query: &Query, found: &Found) -> Result<Option<IpAddr>, &'static str> {
    let family = found.node.addresses.first().map(|net| net.addr().is_ipv4());
    let of_family = |ip: &IpAddr| Some(ip.is_ipv4()) == family;
    if let Some(name) = query.get("svc_name").filter(|name| !name.is_empty()) {
        if !is_service_name(name) {
            return Err("invalid svc_name");
        }
        let ips = found.netmap.self_node.service_hosts().remove(name);
        return Ok(ips.into_iter().flatten().find(of_family));
    }
    match query.get("dst_ip").filter(|ip| !ip.is_empty()) {
        Some(ip) => ip.parse().map(Some).map_err(|_| "invalid dst_ip"),
        None => Ok(found.netmap.self_node.ips().find(of_family)),
    }
}

/// `svc:` and a DNS label.
fn is_service_name(name: &str) -> bool {
    name.strip_prefix("svc:")
        .is_some_and(postern_proxy_config::serve::is_label)
}
