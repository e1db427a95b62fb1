//! A network in virtual time: its clock jumps to whatever happens next.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

/// One direction of a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub(super) delay: Duration,
    /// A packet takes up to this much longer than the one before: packets overtake each other.
    pub(super) jitter: Duration,
    /// Of 10,000 packets so many are lost, arrive twice, or are jittered.
    pub(super) loss: u32,
    pub(super) duplication: u32,
    pub(super) reordering: u32,
    /// Of 10,000 packets so many aren't delayed and so overtake others.
    pub(super) early: u32,
    /// Bytes per second, and how many of them may wait.
    pub(super) rate: u64,
    pub(super) queue: u64,
}

impl Path {
    pub(super) const fn clean(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss: 0,
            duplication: 0,
            reordering: 0,
            early: 0,
            rate: 100 << 20,
            queue: 2 << 20,
        }
    }
}

/// When a packet arrives, its number, and at which end.
type UnderWay = (Instant, u64, usize, Vec<u8>);

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) ends: [Tcp; 2],
    pub(super) path: Path,
    pub(super) random: fastrand::Rng,
    /// Packets that were handed to the network, by each end.
    pub(super) sent: [u64; 2],
    /// Nothing arrives any more.
    pub(super) cut: bool,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    busy_until: [Instant; 2],
    count: u64,
}

pub(super) fn keys() -> [FlowKey; 2] {
    let (a, b) = (
        "100.64.0.1:5000".parse().unwrap(),
        "100.64.0.2:80".parse().unwrap(),
    );
    let key = |local, remote| FlowKey { local, remote };
    [key(a, b), key(b, a)]
}

impl Net {
    /// One end connects to the other.
    pub(super) fn new(path: Path, seed: u64, shares: [Share; 2]) -> Self {
        let now = Instant::from_secs(1);
        let [a, b] = keys();
        let [share_a, share_b] = shares;
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            now,
            ends: [
                Tcp::connecting(&a, share_a, now, random.u64(..)).unwrap(),
                Tcp::listening(&b, share_b, now, random.u64(..)).unwrap(),
            ],
            path,
            random,
            sent: [0; 2],
            cut: false,
            under_way: BinaryHeap::new(),
            busy_until: [now; 2],
            count: 0,
        }
    }

    /// Both ends are connected.
    pub(super) fn connected(path: Path, seed: u64) -> Self {
        let mut net = Self::new(path, seed, [ample(), ample()]);
        while !net.ends.iter().all(Tcp::is_synchronized) {
            assert!(net.step(), "seed {seed}: no connection");
        }
        net
    }

    /// Lets both ends send, then goes on to the next arrival or timer. `false` when nothing will ever happen.
    pub(super) fn step(&mut self) -> bool {
        self.flush();
        let Some(next) = self.next_event() else {
            return false;
        };
        self.now = self.now.max(next);
        let mut answers = Vec::new();
        while let Some(Reverse((at, ..))) = self.under_way.peek()
            && *at <= self.now
            && let Some(Reverse((_, _, to, packet))) = self.under_way.pop()
        {
            self.ends[to].ingress(self.now, &packet, &mut answers);
            for answer in answers.drain(..) {
                self.carry(to, answer.to_vec());
            }
        }
        true
    }

    /// When the next packet arrives or the next timer is due.
    pub(super) fn next_event(&self) -> Option<Instant> {
        let arrival = self.under_way.peek().map(|Reverse((at, ..))| *at);
        let timer = self.ends.iter().filter_map(Tcp::poll_at).min();
        [arrival, timer].into_iter().flatten().min()
    }

    pub(super) fn flush(&mut self) {
        let mut out = Vec::new();
        for from in 0..2 {
            self.ends[from].egress(self.now, &mut out);
            for packet in out.drain(..) {
                self.carry(from, packet.to_vec());
            }
        }
    }

    fn carry(&mut self, from: usize, packet: Vec<u8>) {
        self.sent[from] += 1;
        let chance = |random: &mut fastrand::Rng, of: u32| random.u32(..10_000) < of;
        let Path {
            loss,
            duplication,
            reordering,
            early,
            jitter,
            delay,
            rate,
            queue,
        } = self.path;
        let start = self.busy_until[from].max(self.now);
        let waiting = (start - self.now).total_micros() * rate / 1_000_000;
        if self.cut || chance(&mut self.random, loss) || waiting > queue {
            return;
        }
        let leaves = start + Duration::from_micros(packet.len() as u64 * 1_000_000 / rate);
        self.busy_until[from] = leaves;
        for _ in 0..1 + u32::from(chance(&mut self.random, duplication)) {
            let late = if chance(&mut self.random, reordering) {
                Duration::from_micros(self.random.u64(..=jitter.total_micros()))
            } else {
                Duration::ZERO
            };
            let delay = if chance(&mut self.random, early) {
                Duration::ZERO
            } else {
                delay + late
            };
            self.count += 1;
            self.under_way
                .push(Reverse((leaves + delay, self.count, 1 - from, packet.clone())));
        }
    }
}
