//! Look-ups by address and keys. The merge patches them; snapshots share what has not changed.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ahash::AHashMap;

use super::{Netmap, Node, NodeId};
use crate::key::{DiscoPublic, NodePublic};

/// Address and keys → node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub(crate) by_ip: Arc<AHashMap<IpAddr, NodeId>>,
    pub(crate) by_key: Arc<AHashMap<NodePublic, NodeId>>,
    /// A machine that is logged in twice uses one disco key for two nodes.
    pub(crate) by_disco: Arc<BTreeSet<(DiscoPublic, NodeId)>>,
}

impl Index {
    /// A node has come, gone or changed. Ourselves are found by address only, and
    /// whose key has ended, too.
    pub(super) fn replace(&mut self, old: Option<&Node>, new: Option<&Node>, is_self: bool) {
        let same_ips = match (old, new) {
            (Some(old), Some(new)) => old.id == new.id && old.addresses == new.addresses,
            _ => false,
        };
        if !same_ips {
            let by_ip = Arc::make_mut(&mut self.by_ip);
            for (ip, id) in old
                .into_iter()
                .flat_map(|node| node.ips().map(|ip| (ip, node.id)))
            {
                forget(by_ip, &ip, id);
            }
            by_ip.extend(
                new.into_iter()
                    .flat_map(|node| node.ips().map(|ip| (ip, node.id))),
            );
        }
        let good = |node: &&Node| !node.expired && !is_self;
        let (old, new) = (old.filter(good), new.filter(good));
        let key = |node: &Node| (node.key, node.id);
        if old.map(key) != new.map(key) {
            let by_key = Arc::make_mut(&mut self.by_key);
            if let Some((key, id)) = old.map(key) {
                forget(by_key, &key, id);
            }
            by_key.extend(new.map(key));
        }
        let disco = |node: &Node| Some((node.disco?, node.id));
        let (old, new) = (old.and_then(disco), new.and_then(disco));
        if old != new {
            let by_disco = Arc::make_mut(&mut self.by_disco);
            if let Some(old) = old {
                by_disco.remove(&old);
            }
            by_disco.extend(new);
        }
    }
}

/// Another node may have got it meanwhile.
fn forget<K: std::hash::Hash + Eq>(map: &mut AHashMap<K, NodeId>, key: &K, id: NodeId) {
    if map.get(key) == Some(&id) {
        map.remove(key);
    }
}

impl Netmap {
    /// The node (self or peer) that owns `ip` as one of its own addresses.
    pub fn node_by_ip(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        let node = self.node_by_id(*self.index.by_ip.get(&ip)?)?;
        // Should control give a peer our own number, the peer's addresses still aren't ours.
        node.ips().any(|own| own == ip).then_some(node)
    }

    /// The peer with this WireGuard key, unless the key has ended.
    pub fn peer_by_key(&self, key: &NodePublic) -> Option<&Arc<Node>> {
        self.peers.get(self.index.by_key.get(key)?)
    }

    /// The peers with this disco key, but for those whose node keys have ended.
    pub(crate) fn peers_by_disco(&self, disco: &DiscoPublic) -> impl Iterator<Item = &Arc<Node>> {
        let found = self
            .index
            .by_disco
            .range((*disco, NodeId::MIN)..=(*disco, NodeId::MAX));
        found.filter_map(|(_, id)| self.peers.get(id))
    }

    fn node_by_id(&self, id: NodeId) -> Option<&Arc<Node>> {
        if id == self.self_node.id {
            Some(&self.self_node)
        } else {
            self.peers.get(&id)
        }
    }
}

#[cfg(test)]
impl Netmap {
    /// One with these peers, for tests of what goes by them.
    pub(crate) fn with_peers(peers: impl IntoIterator<Item = Node>) -> Arc<Self> {
        let us = serde_json::json!({"Node": {"ID": 0, "Key": format!("nodekey:{:064x}", 0)}});
        let us = crate::tailcfg::MapResponse::from_json(us.to_string().as_bytes()).unwrap();
        let netmap = super::Merger::new()
            .apply(us, jiff::Timestamp::UNIX_EPOCH)
            .unwrap();
        let mut netmap = Self::clone(&netmap.unwrap());
        for peer in peers {
            netmap.index.replace(None, Some(&peer), false);
            netmap.peers.insert(peer.id, Arc::new(peer));
        }
        Arc::new(netmap)
    }
}
