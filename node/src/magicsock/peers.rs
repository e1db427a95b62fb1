//! The peers of the netmap, and what is known of the ways to them.
//!
//! Nothing is ever sent to most peers of a large tailnet, so a peer's state is made when it is first needed.

use std::{sync::Arc, time::Instant};

use ahash::AHashMap;

use super::peer::Peer;
use crate::{
    disco::SharedKey,
    key::{DiscoPrivate, DiscoPublic, NodePublic},
    netmap::{Netmap, Node},
};

#[derive(Debug, Default)]
pub(super) struct Peers {
    netmap: Option<Arc<Netmap>>,
    states: AHashMap<NodePublic, Peer>,
    /// Made when they are first needed, too.
    shared: AHashMap<DiscoPublic, SharedKey>,
}

impl Peers {
    /// Takes over the netmap's. What there is to do depends on how many are in use, not on how many there are.
    pub(super) fn set(&mut self, netmap: Arc<Netmap>) {
        self.states.retain(|key, state| {
            let node = netmap.peer_by_key(key);
            if let Some(node) = node {
                state.update(node);
            }
            node.is_some()
        });
        self.shared
            .retain(|disco, _| netmap.peers_by_disco(disco).next().is_some());
        self.netmap = Some(netmap);
    }

    fn node(&self, key: &NodePublic) -> Option<&Arc<Node>> {
        self.netmap.as_ref()?.peer_by_key(key)
    }

    pub(super) fn contains(&self, key: &NodePublic) -> bool {
        self.node(key).is_some()
    }

    /// The peer's state; made if this is the first use of it.
    pub(super) fn get_mut(&mut self, now: Instant, key: &NodePublic) -> Option<&mut Peer> {
        if !self.states.contains_key(key) {
            let new = self.unused(now, key)?;
            self.states.insert(*key, new);
        }
        self.states.get_mut(key)
    }

    /// The state of a peer that was used before.
    pub(super) fn used(&self, key: &NodePublic) -> Option<&Peer> {
        self.states.get(key)
    }

    /// What a peer's state is before anything has happened.
    pub(super) fn unused(&self, now: Instant, key: &NodePublic) -> Option<Peer> {
        let node = self.node(key)?;
        let mut peer = Peer::new(*key, now);
        peer.update(node);
        Some(peer)
    }

    pub(super) fn all_used(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.states.values_mut()
    }

    pub(super) fn disco(&self, key: &NodePublic) -> Option<DiscoPublic> {
        self.node(key)?.disco
    }

    /// The nodes that use this disco key.
    pub(super) fn with_disco(&self, disco: &DiscoPublic) -> Vec<NodePublic> {
        let netmap = self.netmap.iter();
        let found = netmap.flat_map(|netmap| netmap.peers_by_disco(disco));
        found.map(|node| node.key).collect()
    }

    /// The key for messages to and from a peer of the netmap.
    pub(super) fn shared(&mut self, ours: &DiscoPrivate, theirs: DiscoPublic) -> &SharedKey {
        self.shared
            .entry(theirs)
            .or_insert_with(|| SharedKey::new(ours, &theirs))
    }
}
