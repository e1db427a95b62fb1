//! DERP relays: the framing (pure) and a client per region (Go: `derp/`, `derp/derphttp/`).

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    derp_map::{DerpMap, RegionId},
    key::{NodePrivate, NodePublic},
};

/// What relays tell us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DerpEvent {
    /// A packet from a peer.
    Packet {
        /// The relay's region.
        region: RegionId,
        /// Who sent it, as the relay says.
        from: NodePublic,
        /// The packet: WireGuard or disco.
        packet: Bytes,
    },
    /// The peer isn't connected to this region.
    PeerGone {
        /// The relay's region.
        region: RegionId,
        /// The peer.
        peer: NodePublic,
    },
    /// A connection came up or went down.
    State {
        /// The relay's region.
        region: RegionId,
        /// Up or down.
        connected: bool,
    },
}

/// Connections to relays: one task per region that is wanted, reconnecting with backoff.
#[derive(Debug)]
pub struct DerpClients {
    // filled in by the implementation
}

impl DerpClients {
    /// No connections yet. Events go to `events` (bounded; when it is full, packets are dropped and counted).
    pub fn new(
        _key: NodePrivate,
        _roots: Arc<rustls::RootCertStore>,
        _events: mpsc::Sender<DerpEvent>,
        _tasks: TaskTracker,
        _cancel: CancellationToken,
    ) -> Self {
        Self {}
    }

    /// Keeps connections to exactly these regions; the first one is home (`NotePreferred`).
    pub fn set_regions(&mut self, _map: &Arc<DerpMap>, _regions: &[RegionId]) {}

    /// The node logged in with a new key: all connections are made anew.
    pub fn set_key(&mut self, _key: NodePrivate) {}

    /// Queues a packet; `false` when there is no connection or its queue is full (the packet is lost, as UDP
    /// would lose it).
    pub fn send(&self, _region: RegionId, _to: NodePublic, _packet: Bytes) -> bool {
        false
    }
}
