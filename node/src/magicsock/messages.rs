//! Disco messages on their way in and out: who may say what, and over which way.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use bytes::Bytes;

use super::{Magicsock, Output, random, region_of};
use crate::{
    derp_map::RegionId,
    disco::{Message, TxId},
    key::{DiscoPublic, NodePublic},
};

/// The address by which Go's nodes name a relay region (as the port) in disco messages.
const DERP_MAGIC_IP: Ipv4Addr = Ipv4Addr::new(127, 3, 3, 40);

/// How a disco message came.
#[derive(Debug, Clone, Copy)]
pub(super) enum Via {
    Udp(SocketAddr),
    Derp(RegionId, NodePublic),
}

impl Magicsock {
    pub(super) fn on_disco(&mut self, now: Instant, via: Via, sender: DiscoPublic, packet: &[u8]) {
        // Who isn't in the netmap gets no answer and no cryptography.
        let nodes = self.peers.with_disco(&sender);
        if nodes.is_empty() {
            return tracing::trace!(%sender, ?via, "Dropped a disco message of an unknown sender");
        }
        let Some(message) = self.peers.shared(&self.config.disco, sender).open(packet) else {
            return;
        };
        match (message, via) {
            (Message::Ping { tx, node, .. }, _) => {
                let claimed = match via {
                    Via::Derp(_, from) => nodes.iter().find(|key| **key == from),
                    Via::Udp(_) => {
                        let claimed = nodes.iter().find(|key| Some(**key) == node);
                        claimed.or_else(|| nodes.first())
                    }
                };
                if let Some(key) = claimed {
                    self.on_ping(now, key, via, tx);
                }
            }
            (Message::Pong { tx, .. }, _) => {
                if self.on_asked_pong(&nodes, via, tx) || matches!(via, Via::Derp(..)) {
                    return;
                }
                for key in nodes {
                    let peer = self.peers.get_mut(now, &key);
                    if peer.is_some_and(|peer| peer.on_pong(now, tx)) {
                        return self.settle(now, &key);
                    }
                }
            }
            (Message::CallMeMaybe(addrs), Via::Derp(_, from)) if nodes.contains(&from) => {
                let peer = self.peers.get_mut(now, &from);
                if let Some(peer) = peer.filter(|_| !self.config.derp_only) {
                    peer.on_call_me_maybe(now, &addrs, &mut self.wants);
                    self.settle(now, &from);
                }
            }
            // Without a relay's word of who sent it.
            (Message::CallMeMaybe(_), _) => {}
        }
    }

    fn on_ping(&mut self, now: Instant, key: &NodePublic, via: Via, tx: TxId) {
        let Some(peer) = self.peers.get_mut(now, key) else {
            return;
        };
        let (from, src) = match via {
            Via::Udp(from) => (Some(from), from),
            Via::Derp(region, _) => (None, SocketAddr::new(DERP_MAGIC_IP.into(), region)),
        };
        let answer = peer.on_ping(now, from, tx, &mut self.wants);
        if answer && let Some(sealed) = self.seal(key, &Message::Pong { tx, src }) {
            self.outputs.push_back(match via {
                Via::Udp(to) => Output::Udp { to, datagram: sealed },
                Via::Derp(region, to) => Output::Derp {
                    region,
                    to,
                    packet: sealed,
                },
            });
        }
        self.settle(now, key);
    }

    /// Tells a peer through a relay where to ping us.
    pub(super) fn call(&mut self, now: Instant, key: &NodePublic) {
        let addrs: Vec<_> = self.network.endpoints().iter().map(|e| e.addr).collect();
        let peer = self.peers.used(key);
        let region = peer.and_then(|peer| region_of(&self.relays, &self.map, peer));
        let Some(region) = region.filter(|_| !addrs.is_empty()) else {
            return;
        };
        if let Some(packet) = self.seal(key, &Message::CallMeMaybe(addrs)) {
            self.relays.touch(now, region);
            self.publish_regions();
            let to = *key;
            self.outputs.push_back(Output::Derp { region, to, packet });
        }
    }

    pub(super) fn seal(&mut self, to: &NodePublic, message: &Message) -> Option<Bytes> {
        let disco = self.peers.disco(to)?;
        let shared = self.peers.shared(&self.config.disco, disco);
        Some(shared.seal(&self.disco, random()?, message))
    }
}
