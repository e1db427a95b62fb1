//! The peers, as control described them and as we show them.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::PeerDelta;
use crate::{
    netmap::{Node, NodeId, index::Index, shared::share},
    tailcfg,
};

#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<NodeId, Peer>);

#[derive(Debug)]
struct Peer {
    /// As control described it.
    told: Arc<Node>,
    /// The same, or cut off since its key has ended.
    shown: Arc<Node>,
}

/// What a merge has done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changes {
    /// Some peer is another than before.
    pub(super) any: bool,
    /// One with an unsigned key, now or before: the packet filter must not let it in.
    pub(super) unsigned: bool,
    /// Other addresses have node capabilities than before: those can be sources of the packet filter.
    pub(super) caps: bool,
}

impl Changes {
    pub(super) fn add(&mut self, other: Self) {
        self.any |= other.any;
        self.unsigned |= other.unsigned;
        self.caps |= other.caps;
    }
}

impl Peers {
    pub(super) fn shown(&self) -> impl Iterator<Item = &Node> + Clone {
        self.0.values().map(|peer| &*peer.shown)
    }

    pub(super) fn snapshot(&self) -> BTreeMap<NodeId, Arc<Node>> {
        let peers = self.0.iter();
        peers.map(|(id, peer)| (*id, peer.shown.clone())).collect()
    }

    pub(super) fn merge(&mut self, delta: PeerDelta, now: Timestamp, index: &mut Index) -> Changes {
        let mut merge = Merge {
            peers: &mut self.0,
            now,
            index,
            changes: Changes::default(),
        };
        merge.apply(delta);
        merge.changes
    }

    /// Cuts off peers whose keys have ended since (Go: `flagExpiredPeers`).
    pub(super) fn expire(&mut self, now: Timestamp, index: &mut Index) -> Changes {
        let ended = |peer: &&Peer| !peer.shown.expired && peer.told.has_ended(now);
        let ended: Vec<_> = self
            .0
            .values()
            .filter(ended)
            .map(|peer| peer.told.clone())
            .collect();
        let mut merge = Merge {
            peers: &mut self.0,
            now,
            index,
            changes: Changes::default(),
        };
        for node in ended {
            merge.put(node);
        }
        merge.changes
    }
}

struct Merge<'a> {
    peers: &'a mut BTreeMap<NodeId, Peer>,
    now: Timestamp,
    index: &'a mut Index,
    changes: Changes,
}

impl Merge<'_> {
    /// In Go's order (`updatePeersStateFromResponse`).
    fn apply(&mut self, delta: PeerDelta) {
        // A list of which nothing could be read is still a complete one.
        if !delta.all.is_empty() || delta.all.dropped > 0 {
            let stay: std::collections::BTreeSet<_> = delta.all.iter().map(|node| node.id).collect();
            let gone: Vec<_> = self
                .peers
                .keys()
                .filter(|id| !stay.contains(id))
                .copied()
                .collect();
            gone.into_iter().for_each(|id| self.remove(id));
            delta
                .all
                .into_iter()
                .for_each(|node| self.put(share(node.into())));
            return;
        }
        delta.removed.into_iter().for_each(|id| self.remove(id));
        delta
            .changed
            .into_iter()
            .for_each(|node| self.put(share(node.into())));
        let now = self.now;
        for (id, seen) in delta.seen {
            self.edit(id, |node| set_last_seen(node, seen.then_some(now)));
        }
        for (id, online) in delta.online {
            self.edit(id, |node| node.online = Some(online));
        }
        for patch in delta.patches {
            self.edit(patch.node_id, |node| apply_patch(node, patch));
        }
    }

    fn edit(&mut self, id: NodeId, edit: impl FnOnce(&mut Node)) {
        if let Some(peer) = self.peers.get(&id) {
            let mut node = Node::clone(&peer.told);
            edit(&mut node);
            self.put(share(node));
        }
    }

    fn put(&mut self, told: Arc<Node>) {
        let shown = if told.has_ended(self.now) {
            told.cut_off()
        } else {
            told.clone()
        };
        let id = told.id;
        let old = self.peers.get(&id).map(|peer| peer.shown.clone());
        self.note(old.as_deref(), Some(&shown));
        self.peers.insert(id, Peer { told, shown });
    }

    fn remove(&mut self, id: NodeId) {
        if let Some(old) = self.peers.remove(&id) {
            self.note(Some(&old.shown), None);
        }
    }

    fn note(&mut self, old: Option<&Node>, new: Option<&Node>) {
        self.index.replace(old, new, false);
        self.changes.any = true;
        let unsigned = |node: Option<&Node>| node.is_some_and(|node| node.unsigned_peer_api_only);
        self.changes.unsigned |= unsigned(old) || unsigned(new);
        let same_caps = match (old, new) {
            (Some(old), Some(new)) => {
                old.addresses == new.addresses && old.cap_map.keys().eq(new.cap_map.keys())
            }
            _ => false,
        };
        self.changes.caps |= !same_caps;
    }
}

fn apply_patch(node: &mut Node, patch: tailcfg::PeerChange) {
    if patch.derp_region != 0 {
        node.home_derp = Some(patch.derp_region);
    }
    if patch.cap != 0 {
        node.cap = patch.cap;
    }
    if let Some(cap_map) = patch.cap_map {
        node.cap_map = cap_map;
    }
    if let Some(endpoints) = patch.endpoints {
        node.endpoints = endpoints;
    }
    if let Some(key) = patch.key {
        node.key = key;
    }
    if let Some(disco) = patch.disco_key {
        node.disco = Some(disco);
    }
    if let Some(online) = patch.online {
        node.online = Some(online);
    }
    if let Some(key_expiry) = patch.key_expiry {
        node.key_expiry = key_expiry;
    }
    if patch.last_seen.is_some() {
        set_last_seen(node, patch.last_seen);
    }
}

fn set_last_seen(node: &mut Node, at: Option<Timestamp>) {
    if let Some(details) = &mut node.details {
        Arc::make_mut(details).last_seen = at;
    }
}
