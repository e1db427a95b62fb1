//! Look-ups by address and key. The merge patches them; snapshots share what has not changed.

use std::{net::IpAddr, sync::Arc};

use ahash::AHashMap;

use super::{Netmap, Node, NodeId};
use crate::key::NodePublic;

/// Address and key → node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub(crate) by_ip: Arc<AHashMap<IpAddr, NodeId>>,
    pub(crate) by_key: Arc<AHashMap<NodePublic, NodeId>>,
}

impl Index {
    /// A node has come, gone or changed. Ourselves are found by address only.
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
        let key = |node: &Node| (!node.expired && !is_self).then_some((node.key, node.id));
        let (old, new) = (old.and_then(key), new.and_then(key));
        if old != new {
            let by_key = Arc::make_mut(&mut self.by_key);
            if let Some((key, id)) = old {
                forget(by_key, &key, id);
            }
            by_key.extend(new);
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

    fn node_by_id(&self, id: NodeId) -> Option<&Arc<Node>> {
        if id == self.self_node.id {
            Some(&self.self_node)
        } else {
            self.peers.get(&id)
        }
    }
}
