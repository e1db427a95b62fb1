//! Look-ups by address and key, rebuilt by the merge.

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

impl Netmap {
    /// The node (self or peer) that owns `ip` as one of its own addresses.
    pub fn node_by_ip(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        self.node_by_id(*self.index.by_ip.get(&ip)?)
    }

    /// The peer with this WireGuard key.
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
