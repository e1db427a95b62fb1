//! The peers of the netmap, and what is known of the ways to them.
//!
//! Nothing is ever sent to most peers of a large tailnet, so a peer's state is made when it is first needed.

use std::{sync::Arc, time::Instant};

use ahash::{AHashMap, AHashSet};

use super::peer::Peer;
use crate::{
    disco::SharedKey,
    key::{DiscoPrivate, DiscoPublic, NodePublic},
    netmap::Node,
};

#[derive(Debug, Default)]
pub(super) struct Peers {
    nodes: AHashMap<NodePublic, Arc<Node>>,
    states: AHashMap<NodePublic, Peer>,
    /// Sorted by disco key; a machine that is logged in twice uses one for two nodes.
    discos: Vec<(DiscoPublic, NodePublic)>,
    /// Made when they are first needed, too.
    shared: AHashMap<DiscoPublic, SharedKey>,
}

impl Peers {
    /// Takes over the netmap's.
    pub(super) fn set(&mut self, nodes: impl Iterator<Item = Arc<Node>>) {
        self.nodes.clear();
        self.discos.clear();
        for node in nodes {
            if let Some(state) = self.states.get_mut(&node.key) {
                state.update(&node);
            }
            self.discos.extend(node.disco.map(|disco| (disco, node.key)));
            self.nodes.insert(node.key, node);
        }
        // Stable: of two nodes with one key the netmap's first stays the first.
        self.discos.sort_by_key(|(disco, _)| *disco);
        self.states.retain(|key, _| self.nodes.contains_key(key));
        let present: AHashSet<_> = self.discos.iter().map(|(disco, _)| *disco).collect();
        self.shared.retain(|disco, _| present.contains(disco));
    }

    pub(super) fn contains(&self, key: &NodePublic) -> bool {
        self.nodes.contains_key(key)
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
        let node = self.nodes.get(key)?;
        let mut peer = Peer::new(*key, now);
        peer.update(node);
        Some(peer)
    }

    pub(super) fn all_used(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.states.values_mut()
    }

    pub(super) fn disco(&self, key: &NodePublic) -> Option<DiscoPublic> {
        self.nodes.get(key)?.disco
    }

    /// The nodes that use this disco key.
    pub(super) fn with_disco(&self, disco: &DiscoPublic) -> Vec<NodePublic> {
        let start = self.discos.partition_point(|(other, _)| other < disco);
        let found = self.discos[start..]
            .iter()
            .take_while(|(other, _)| other == disco);
        found.map(|(_, key)| *key).collect()
    }

    /// The key for messages to and from a peer of the netmap.
    pub(super) fn shared(&mut self, ours: &DiscoPrivate, theirs: DiscoPublic) -> &SharedKey {
        self.shared
            .entry(theirs)
            .or_insert_with(|| SharedKey::new(ours, &theirs))
    }
}
