use std::collections::VecDeque;

use super::*;
use crate::netstack::arena::Arena;

/// Two ends, a link between them, and a clock that jumps to the next event.
struct Pair {
    now: Instant,
    ends: [Tcp; 2],
    links: [VecDeque<BytesMut>; 2],
    /// Of 1000 packets so many are lost.
    loss: u32,
    random: fastrand::Rng,
}

impl Pair {
    fn connected(loss: u32, seed: u64) -> Self {
        let arena = Arena::new(2);
        let now = Instant::from_secs(1);
        let (a, b) = (
            "100.64.0.1:5000".parse().unwrap(),
            "100.64.0.2:80".parse().unwrap(),
        );
        let key = |local, remote| FlowKey { local, remote };
        let dialling = Tcp::connecting(&key(a, b), arena.socket().unwrap(), now, 1).unwrap();
        let listening = Tcp::listening(&key(b, a), arena.socket().unwrap(), now, 2).unwrap();
        let mut pair = Self {
            now,
            ends: [dialling, listening],
            links: Default::default(),
            loss: 0,
            random: fastrand::Rng::with_seed(seed),
        };
        while !pair.ends.iter().all(Tcp::is_synchronized) {
            pair.step();
        }
        pair.ends.iter_mut().for_each(Tcp::opened);
        pair.loss = loss;
        pair
    }

    /// Delivers what is under way, or lets time pass until somebody has something to send.
    fn step(&mut self) {
        let mut sent = Vec::new();
        for (i, end) in self.ends.iter_mut().enumerate() {
            end.egress(self.now, &mut sent);
            for packet in sent.drain(..) {
                if self.random.u32(..1000) >= self.loss {
                    self.links[1 - i].push_back(packet);
                }
            }
        }
        for i in 0..2 {
            // A burst at a time, so that both directions interleave.
            for _ in 0..self.random.usize(1..40) {
                let Some(packet) = self.links[i].pop_front() else {
                    break;
                };
                self.ends[i].ingress(self.now, &packet, &mut sent);
            }
            self.links[1 - i].extend(sent.drain(..));
        }
        if self.links.iter().all(VecDeque::is_empty) {
            let next = self.ends.iter_mut().filter_map(|end| end.poll_at(self.now)).min();
            self.now = next.unwrap_or(self.now).max(self.now + Duration::from_millis(1));
        }
    }
}

/// One end sends and reads as it comes, the other one sends back what it has read before it reads more.
fn echo_everything(loss: u32, seed: u64) {
    let data: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 7 / 5) as u8).collect();
    let mut pair = Pair::connected(loss, seed);
    let (mut sent, mut got, mut pending) = (0, Vec::new(), VecDeque::new());
    while got.len() < data.len() {
        sent += pair.ends[0].write(&data[sent..]);
        pair.ends[0].read(|bytes| {
            got.extend_from_slice(bytes);
            bytes.len()
        });
        let room = 128_000_usize.saturating_sub(pair.ends[1].send_queue());
        let piece: Vec<u8> = pending.iter().take(room).copied().collect();
        pending.drain(..pair.ends[1].write(&piece));
        if pending.is_empty() {
            let most = pair.random.usize(1..20_000);
            pair.ends[1].read(|bytes| {
                let n = bytes.len().min(most);
                pending.extend(&bytes[..n]);
                n.min(bytes.len())
            });
        }
        pair.step();
        assert!(
            pair.ends.iter().all(Tcp::may_send),
            "seed {seed}: gave up after {} s with {} of {} bytes",
            pair.now.secs(),
            got.len(),
            data.len()
        );
    }
    assert!(got == data);
}

#[test]
fn both_directions_full_at_once_do_not_hang() {
    for seed in 0..6 {
        echo_everything(0, seed);
        echo_everything(10, seed);
    }
}
