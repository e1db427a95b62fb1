//! The netmap as the data plane looks at it for every packet, and who is let in by it.

use std::{net::IpAddr, sync::Arc};

use ahash::{AHashMap, AHashSet};
use ipnet::IpNet;

use super::DropReason;
use crate::{
    filter::{Inbound, Verdict},
    key::NodePublic,
    netmap::{Netmap, Node, PeerApi},
};

/// A netmap with its look-ups for packets.
pub(super) struct View {
    pub(super) netmap: Arc<Netmap>,
    own: AHashSet<IpAddr>,
    /// Addresses of the `svc:` services that control lets us host.
    services: AHashMap<IpAddr, Arc<str>>,
}

impl View {
    pub(super) fn new(netmap: Arc<Netmap>) -> Self {
        let own = netmap.self_node.ips().collect();
        let hosted = netmap.self_node.service_hosts().into_iter();
        let services = hosted.flat_map(|(name, addrs)| {
            let name: Arc<str> = name.into();
            addrs.into_iter().map(move |addr| (addr, name.clone()))
        });
        Self {
            services: services.collect(),
            netmap,
            own,
        }
    }

    /// `ip` is one of the node's own addresses.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        self.own.contains(&ip)
    }

    /// `ip` is one of the node's own addresses, or of a Tailscale Service that we may host.
    pub(super) fn is_ours(&self, ip: IpAddr) -> bool {
        self.is_own(ip) || self.service(ip).is_some()
    }

    /// The Tailscale Service that we may host and that has this address.
    pub(super) fn service(&self, ip: IpAddr) -> Option<&Arc<str>> {
        self.services.get(&ip)
    }

    /// The peer with this key, if it may talk to us now.
    pub(super) fn peer(&self, key: &NodePublic) -> Option<Arc<Node>> {
        let node = self.netmap.peer_by_key(key)?;
        (!node.expired).then(|| node.clone())
    }

    /// The peer that packets to `ip` go to: its owner, else the narrowest route.
    pub(super) fn peer_for(&self, ip: IpAddr) -> Option<Arc<Node>> {
        if let Some(node) = self.netmap.node_by_ip(ip) {
            return (node.id != self.netmap.self_node.id).then(|| node.clone());
        }
        let narrowest = |node: &&Arc<Node>| {
            let routes = node.allowed_ips.iter().filter(|net| net.contains(&ip));
            routes.map(IpNet::prefix_len).max()
        };
        self.netmap
            .peers
            .values()
            .filter(|node| narrowest(node).is_some())
            .max_by_key(narrowest)
            .cloned()
    }

    /// Our address to talk to `to` from.
    pub(super) fn source_for(&self, to: IpAddr) -> Option<IpAddr> {
        self.netmap
            .self_node
            .ips()
            .find(|ip| ip.is_ipv4() == to.is_ipv4())
    }

    /// Whether `packet` of `node` (whose source address has been checked) is let in (Go: `wgengine/filter`,
    /// and `net/tstun/wrap.go` for jailed peers and the PeerAPI).
    pub(super) fn admit(&self, node: &Node, packet: &Inbound, peer_api: PeerApi) -> Result<(), DropReason> {
        let packet = Inbound {
            jailed: node.is_jailed || node.unsigned_peer_api_only,
            ..*packet
        };
        if self.netmap.filter.check(&packet) == Verdict::Accept {
            return Ok(());
        }
        // The PeerAPI authorises its callers itself.
        let port = if packet.dst.is_ipv4() {
            peer_api.v4
        } else {
            peer_api.v6
        };
        let to_peer_api = packet.tcp_syn && port == Some(packet.dst.port()) && self.is_own(packet.dst.ip());
        if to_peer_api && !node.is_jailed {
            Ok(())
        } else {
            Err(DropReason::Filtered)
        }
    }
}
