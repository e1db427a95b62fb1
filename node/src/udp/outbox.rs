//! Gathers datagrams into batches that one GSO send takes.

use std::{collections::VecDeque, net::SocketAddr};

use bytes::Bytes;

/// A GSO send takes at most 65,507 bytes, and 64 segments in older kernels.
const MAX_BATCH_BYTES: usize = 65_000;
pub(super) const MAX_BATCH_SEGMENTS: usize = 64;
/// Batches that wait for a full socket; 64 KiB each at most.
const MAX_BATCHES: usize = 64;
/// Lists kept for reuse.
const MAX_SPARE: usize = 8;

/// Datagrams on their way out, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Batch>,
    spare: Vec<Vec<Bytes>>,
}

/// Datagrams for one destination: all of `segment` bytes, the last one may be shorter.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) to: SocketAddr,
    pub(super) datagrams: Vec<Bytes>,
    pub(super) segment: usize,
    /// Of all of them.
    pub(super) bytes: usize,
}

impl Batch {
    fn takes(&self, to: SocketAddr, len: usize, max_segments: usize) -> bool {
        let closed = !self.bytes.is_multiple_of(self.segment);
        self.to == to
            && !closed
            && len <= self.segment
            && self.datagrams.len() < max_segments.min(MAX_BATCH_SEGMENTS)
            && self.bytes + len <= MAX_BATCH_BYTES
    }
}

impl Outbox {
    /// Adds a datagram; `false` when it was dropped because too much waits already (or it is empty).
    pub(super) fn push(&mut self, to: SocketAddr, datagram: Bytes, max_segments: usize) -> bool {
        if datagram.is_empty() {
            return false;
        }
        let waiting = self.queue.len();
        match self.queue.back_mut() {
            Some(batch) if batch.takes(to, datagram.len(), max_segments) => {
                batch.bytes += datagram.len();
                batch.datagrams.push(datagram);
            }
            _ if waiting >= MAX_BATCHES => return false,
            _ => {
                let mut datagrams = self.spare.pop().unwrap_or_default();
                let segment = datagram.len();
                datagrams.push(datagram);
                self.queue.push_back(Batch {
                    to,
                    datagrams,
                    segment,
                    bytes: segment,
                });
            }
        }
        true
    }

    /// The first batch, if it can't grow any more because another follows.
    pub(super) fn pop_full(&mut self) -> Option<Batch> {
        if self.queue.len() > 1 {
            self.queue.pop_front()
        } else {
            None
        }
    }

    pub(super) fn pop(&mut self) -> Option<Batch> {
        self.queue.pop_front()
    }

    pub(super) fn put_back(&mut self, batch: Batch) {
        self.queue.push_front(batch);
    }

    /// Keeps the list of a batch that was sent.
    pub(super) fn recycle(&mut self, mut batch: Batch) {
        batch.datagrams.clear();
        if self.spare.len() < MAX_SPARE {
            self.spare.push(batch.datagrams);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(datagrams: &[(u16, usize)], max_segments: usize) -> Vec<(u16, usize, usize)> {
        let mut outbox = Outbox::default();
        for (port, len) in datagrams {
            outbox.push(([127, 0, 0, 1], *port).into(), vec![0; *len].into(), max_segments);
        }
        std::iter::from_fn(|| outbox.pop())
            .map(|b| (b.to.port(), b.segment, b.datagrams.len()))
            .collect()
    }

    #[test]
    fn equal_datagrams_share_a_batch_that_a_shorter_one_ends() {
        assert_eq!(
            batches(&[(1, 100), (1, 100), (1, 60), (1, 60), (1, 100)], 64),
            [(1, 100, 3), (1, 60, 1), (1, 100, 1)]
        );
    }

    #[test]
    fn a_destination_the_kernels_limits_and_missing_gso_each_end_a_batch() {
        assert_eq!(
            batches(&[(1, 10), (2, 10), (1, 10)], 64),
            [(1, 10, 1), (2, 10, 1), (1, 10, 1)]
        );
        assert_eq!(batches(&[(1, 10); 3], 1), [(1, 10, 1); 3]);
        assert_eq!(batches(&[(1, 10); 70], 100), [(1, 10, 64), (1, 10, 6)]);
        assert_eq!(batches(&[(1, 1312); 50], 64), [(1, 1312, 49), (1, 1312, 1)]);
    }

    #[test]
    fn a_blocked_socket_costs_bounded_memory() {
        let mut outbox = Outbox::default();
        let to = ([127, 0, 0, 1], 1).into();
        let sent = (0..10_000)
            .filter(|_| outbox.push(to, Bytes::from_static(&[0; 1000]), 1))
            .count();
        assert_eq!(sent, MAX_BATCHES);
    }
}
