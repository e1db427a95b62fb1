//! DERP relays: the framing (pure) and a client per region (Go: `derp/`, `derp/derphttp/`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    derp_map::{DerpMap, DerpRegion, RegionId},
    key::{NodePrivate, NodePublic},
    proxy::Outbound,
};

mod client;
mod connect;
mod danger;
pub(crate) mod frame;
mod session;

/// Packets that wait for a relay's socket: what a burst leaves, not what a dead relay collects.
const QUEUE: usize = 512;

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
    /// A connection came up, or went down, or could not be made once more.
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
    key: NodePrivate,
    shared: Arc<client::Shared>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    regions: BTreeMap<RegionId, Region>,
}

/// The handle on a region's task, which ends when this is dropped.
#[derive(Debug)]
struct Region {
    // Dropped before the queue, whose end would look like one of the connection.
    _end: DropGuard,
    definition: DerpRegion,
    home: watch::Sender<bool>,
    queue: mpsc::Sender<(NodePublic, Bytes)>,
}

impl DerpClients {
    /// No connections yet. Events go to `events` (bounded; when it is full, packets are dropped and counted).
    pub fn new(
        key: NodePrivate,
        outbound: Outbound,
        events: mpsc::Sender<DerpEvent>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let shared = client::Shared {
            outbound,
            events,
            dropped: AtomicU64::new(0),
        };
        Self {
            key,
            shared: Arc::new(shared),
            tasks,
            cancel,
            regions: BTreeMap::new(),
        }
    }

    /// Keeps connections to exactly these regions; the first one is home (`NotePreferred`). A region whose
    /// definition has changed is connected to anew; one that `map` doesn't know is left out.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn set_regions(&mut self, map: &Arc<DerpMap>, regions: &[RegionId]) {
        self.regions
            .retain(|id, region| regions.contains(id) && map.regions.get(id) == Some(&region.definition));
        for (position, id) in regions.iter().enumerate() {
            let home = position == 0;
            if let Some(region) = self.regions.get(id) {
                region
                    .home
                    .send_if_modified(|is| std::mem::replace(is, home) != home);
            } else if let Some(definition) = map.regions.get(id) {
                let region = self.start(definition.clone(), home);
                self.regions.insert(*id, region);
            }
        }
    }

    /// The node logged in with a new key: all connections are made anew.
    pub fn set_key(&mut self, key: NodePrivate) {
        self.key = key;
        for (id, old) in std::mem::take(&mut self.regions) {
            let home = *old.home.borrow();
            let region = self.start(old.definition, home);
            self.regions.insert(id, region);
        }
    }

    /// Queues a packet; `false` when the region isn't wanted, its queue is full or the packet is too long (the
    /// packet is lost, as UDP would lose it). While a connection is being made packets wait: they are often the
    /// reason for it, and a lost handshake is repeated only after 5 s.
    pub fn send(&self, region: RegionId, to: NodePublic, packet: Bytes) -> bool {
        packet.len() <= frame::MAX_PACKET
            && self
                .regions
                .get(&region)
                .is_some_and(|r| r.queue.try_send((to, packet)).is_ok())
    }

    /// Packets that arrived and were dropped because the events' channel was full.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn start(&self, definition: DerpRegion, home: bool) -> Region {
        let (home, home_rx) = watch::channel(home);
        let (queue, queue_rx) = mpsc::channel(QUEUE);
        let cancel = self.cancel.child_token();
        let client = client::Client {
            region: definition.clone(),
            key: self.key.clone(),
            shared: Arc::clone(&self.shared),
            home: home_rx,
            queue: queue_rx,
        };
        self.tasks.spawn(client.run(cancel.clone()));
        Region {
            _end: cancel.drop_guard(),
            definition,
            home,
            queue,
        }
    }
}

#[cfg(test)]
mod tests;
