//! What the data plane counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters since the engine's start. Read them one by one; together they are no snapshot.
#[derive(Debug, Default)]
pub struct Stats {
    /// Datagrams received by UDP.
    pub rx_packets: AtomicU64,
    /// Their bytes.
    pub rx_bytes: AtomicU64,
    /// Receive calls that failed.
    pub rx_errors: AtomicU64,
    /// Datagrams sent by UDP.
    pub tx_packets: AtomicU64,
    /// Their bytes.
    pub tx_bytes: AtomicU64,
    /// Datagrams that the socket refused, or that waited too long for it.
    pub tx_dropped: AtomicU64,
    /// Packets received from relays.
    pub rx_derp: AtomicU64,
    /// Packets handed to relays.
    pub tx_derp: AtomicU64,
    /// Packets for relays that found a queue full or no connection.
    pub tx_derp_dropped: AtomicU64,
    /// Packets for peers to which no way is known.
    pub tx_no_route: AtomicU64,
    /// TCP connections accepted and opened.
    pub flows: AtomicU64,
    /// Inbound packets dropped, by reason (see [`DropReason::ALL`]).
    pub drops: [AtomicU64; DropReason::ALL.len()],
}

/// Why an inbound packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Not WireGuard, not for our key, not authentic.
    NotAuthentic,
    /// Seen before.
    Replayed,
    /// From nobody in the netmap, or of a session that has ended.
    UnknownPeer,
    /// A handshake, while there are too many.
    TooManyHandshakes,
    /// What came out of the tunnel is no packet.
    Malformed,
    /// The inner source is not an address of this peer.
    SourceNotAllowed,
    /// The inner destination is none of ours.
    NotForUs,
    /// The packet filter denies it.
    Filtered,
    /// A protocol that we don't speak, or a fragment.
    Unsupported,
    /// Too many connections, or too many that are being opened.
    TooManyFlows,
    /// Nobody accepts fast enough.
    AcceptQueueFull,
    /// A segment of no connection, beyond the rate at which they are answered.
    StrayUnanswered,
    /// A datagram to a port where no socket is bound.
    NoSocket,
    /// A datagram to a socket that nobody reads fast enough.
    PacketQueueFull,
}

impl DropReason {
    /// All reasons, in the order of [`Stats::drops`].
    pub const ALL: [Self; 14] = [
        Self::NotAuthentic,
        Self::Replayed,
        Self::UnknownPeer,
        Self::TooManyHandshakes,
        Self::Malformed,
        Self::SourceNotAllowed,
        Self::NotForUs,
        Self::Filtered,
        Self::Unsupported,
        Self::TooManyFlows,
        Self::AcceptQueueFull,
        Self::StrayUnanswered,
        Self::NoSocket,
        Self::PacketQueueFull,
    ];
}

impl Stats {
    /// How many packets were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Relaxed)
    }

    pub(super) fn count_drop(&self, reason: DropReason) {
        tracing::trace!(?reason, "Inbound packet dropped");
        self.drops[reason as usize].fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_counter() {
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
        }
    }
}
