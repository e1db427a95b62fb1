//! From control's types to ours, with the old forms of fields turned into the new ones
//! (Go: `upgradeNode`, `control/controlclient/map.go`).

use std::{net::IpAddr, sync::Arc};

use super::{Details, Node, PeerApi, UserProfile};
use crate::{
    derp_map::{DerpAddr, DerpNode, DerpRegion, RegionId},
    tailcfg,
};

impl From<tailcfg::Node> for Node {
    fn from(node: tailcfg::Node) -> Self {
        let allowed_ips = match node.allowed_ips {
            // Such a peer's key is not signed, so control must not give it routes.
            Some(allowed) if !node.unsigned_peer_api_only => allowed,
            _ => node.addresses.clone(),
        };
        let mut cap_map = node.cap_map;
        for cap in node.capabilities {
            cap_map.entry(cap).or_default();
        }
        Self {
            id: node.id,
            stable_id: node.stable_id,
            name: node.name.trim_matches('.').to_owned(),
            user: node.user,
            key: node.key,
            key_expiry: node.key_expiry,
            expired: node.expired,
            machine: node.machine,
            disco: node.disco_key,
            addresses: node.addresses,
            allowed_ips,
            endpoints: node.endpoints,
            home_derp: home_derp(node.home_derp, &node.legacy_derp),
            machine_authorized: node.machine_authorized,
            tags: node.tags,
            cap: node.cap,
            cap_map,
            online: node.online,
            unsigned_peer_api_only: node.unsigned_peer_api_only,
            is_jailed: node.is_jailed,
            peer_api: peer_api(&node.hostinfo.services),
            hostname: node.hostinfo.hostname,
            os: node.hostinfo.os,
            details: node.hostinfo.json.is_some().then(|| {
                Arc::new(Details {
                    hostinfo: node.hostinfo.json,
                    created: node.created,
                    last_seen: node.last_seen,
                    sharer: node.sharer,
                    primary_routes: node.primary_routes,
                    is_wire_guard_only: node.is_wire_guard_only,
                })
            }),
        }
    }
}

impl From<tailcfg::UserProfile> for UserProfile {
    fn from(user: tailcfg::UserProfile) -> Self {
        Self {
            id: user.id,
            login_name: user.login_name,
            display_name: user.display_name,
            profile_pic_url: user.profile_pic_url,
            groups: user.groups,
        }
    }
}

impl DerpRegion {
    pub(super) fn new(id: RegionId, region: tailcfg::DerpRegion) -> Self {
        Self {
            id,
            code: region.region_code,
            avoid: region.avoid,
            no_measure_no_home: region.no_measure_no_home,
            nodes: region.nodes.into_iter().map(DerpNode::from).collect(),
        }
    }
}

impl From<tailcfg::DerpNode> for DerpNode {
    fn from(node: tailcfg::DerpNode) -> Self {
        Self {
            ipv4: derp_addr(&node.ipv4, IpAddr::is_ipv4),
            ipv6: derp_addr(&node.ipv6, IpAddr::is_ipv6),
            name: node.name,
            host_name: node.host_name,
            cert_name: Some(node.cert_name).filter(|name| !name.is_empty()),
            stun_port: match node.stun_port {
                0 => Some(3478),
                port => u16::try_from(port).ok(),
            },
            stun_only: node.stun_only,
            derp_port: if node.derp_port == 0 { 443 } else { node.derp_port },
            insecure_for_tests: node.insecure_for_tests,
            stun_test_ip: node.stun_test_ip.parse().ok(),
        }
    }
}

/// Whatever is there and no address of the family turns it off, such as the text `none`
/// (Go: `derphttp.shouldDialProto`).
fn derp_addr(text: &str, is_of_family: fn(&IpAddr) -> bool) -> DerpAddr {
    if text.is_empty() {
        return DerpAddr::Dns;
    }
    let literal = text.parse().ok().filter(is_of_family);
    literal.map_or(DerpAddr::Disabled, DerpAddr::Literal)
}

fn home_derp(region: RegionId, legacy: &str) -> Option<RegionId> {
    let legacy = || legacy.strip_prefix("127.3.3.40:")?.parse().ok();
    let region = if region == 0 { legacy() } else { Some(region) };
    region.filter(|region| *region != 0)
}

fn peer_api(services: &[tailcfg::Service]) -> PeerApi {
    let port = |proto| {
        services
            .iter()
            .find(|service| service.proto == proto)
            .map(|service| service.port)
    };
    PeerApi {
        v4: port("peerapi4"),
        v6: port("peerapi6"),
    }
}
