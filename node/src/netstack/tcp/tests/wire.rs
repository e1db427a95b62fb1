//! A machine of ours at the end of a wire in real time; somebody else's TCP is at the other one.

use std::{cmp::Reverse, collections::BinaryHeap, net::SocketAddr};

use super::*;
use crate::netstack::packet::{Header, Segment};

pub(super) const OURS: [u8; 4] = [100, 64, 7, 1];
pub(super) const THEIRS: [u8; 4] = [100, 64, 7, 2];
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Carries packets to and from the other TCP.
pub(super) trait Link {
    fn receive(&mut self) -> Option<Vec<u8>>;
    fn send(&mut self, packet: &[u8]);
    /// Until a packet can be received, or for so long.
    fn wait(&mut self, most: Duration);
    /// The other TCP is gone, and with it perhaps its last packets.
    fn has_ended(&self) -> bool {
        false
    }
}

/// What the path between the two does to packets, in both directions.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) delay: Duration,
    /// Of 1,000 packets so many are lost, or come this much later.
    pub(super) loss: u32,
    pub(super) late: u32,
}

pub(super) const FAIR: Weather = Weather {
    delay: Duration::ZERO,
    loss: 0,
    late: 0,
};
pub(super) const FOUL: Weather = Weather {
    delay: Duration::from_millis(5),
    loss: 15,
    late: 50,
};

/// When a packet arrives, its number, and whether it comes to us.
type UnderWay = (Instant, u64, bool, Vec<u8>);

/// Carries packets between two others until the first of them says that it is done.
pub(super) fn join<L: Link>(
    ends: &mut [L; 2],
    weather: Weather,
    seed: u64,
    mut done: impl FnMut(&mut L) -> bool,
) {
    let start = std::time::Instant::now();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut under_way = std::collections::VecDeque::<(std::time::Duration, usize, Vec<u8>)>::new();
    let delay: std::time::Duration = weather.delay.into();
    while !done(&mut ends[0]) {
        let now = start.elapsed();
        assert!(now < PATIENCE, "it takes too long");
        for (from, end) in ends.iter_mut().enumerate() {
            while let Some(packet) = end.receive() {
                if random.u32(..1000) >= weather.loss {
                    under_way.push_back((now + delay, 1 - from, packet));
                }
            }
        }
        while let Some((_, to, packet)) = under_way.pop_front_if(|(at, ..)| *at <= now) {
            ends[to].send(&packet);
        }
        ends[0].wait(Duration::from_millis(1));
    }
}

/// A machine of ours, and the wire.
pub(super) struct Wire<L> {
    pub(super) link: L,
    pub(super) tcp: Option<Tcp>,
    weather: Weather,
    start: std::time::Instant,
    random: fastrand::Rng,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    count: u64,
}

impl<L: Link> Wire<L> {
    pub(super) fn new(link: L, weather: Weather) -> Self {
        Self::with_seed(link, weather, 1)
    }

    pub(super) fn with_seed(link: L, weather: Weather, seed: u64) -> Self {
        Self {
            link,
            tcp: None,
            weather,
            start: std::time::Instant::now(),
            random: fastrand::Rng::with_seed(seed),
            under_way: BinaryHeap::new(),
            count: 0,
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as i64)
    }

    pub(super) fn dial(&mut self, to: SocketAddr) {
        let key = FlowKey {
            local: (OURS, 40_000).into(),
            remote: to,
        };
        self.tcp = Tcp::connecting(&key, ample(), self.now(), fastrand::u64(..));
    }

    fn carry(&mut self, inwards: bool, packet: Vec<u8>) {
        if self.random.u32(..1000) < self.weather.loss {
            return;
        }
        let late = self.random.u32(..1000) < self.weather.late;
        let at = self.now()
            + self.weather.delay
            + if late {
                self.weather.delay / 2
            } else {
                Duration::ZERO
            };
        self.count += 1;
        self.under_way.push(Reverse((at, self.count, inwards, packet)));
    }

    fn arrive(&mut self, packet: &[u8], out: &mut Vec<BytesMut>) {
        let Some(header) =
            Header::parse(packet).filter(|header| header.proto == crate::netstack::packet::TCP)
        else {
            return;
        };
        let segment = Segment::parse(&packet[header.payload.clone()]).unwrap();
        let (key, now) = (header.flow(&segment), self.now());
        if self.tcp.is_none() && segment.is_opening() {
            self.tcp = Tcp::listening(&key, ample(), now, fastrand::u64(..));
        }
        match &mut self.tcp {
            Some(tcp) if tcp.key == key => tcp.ingress(now, packet, out),
            _ => out.extend(refusal(&key, packet)),
        }
    }

    /// Carries packets until `act` says that it is done, or there is nobody to carry them to.
    pub(super) fn run(&mut self, mut act: impl FnMut(&mut Tcp) -> bool) {
        loop {
            assert!(self.start.elapsed() < PATIENCE, "it takes too long");
            let mut out = Vec::new();
            while let Some(packet) = self.link.receive() {
                self.carry(true, packet);
            }
            let now = self.now();
            while let Some(Reverse((at, ..))) = self.under_way.peek()
                && *at <= now
                && let Some(Reverse((_, _, inwards, packet))) = self.under_way.pop()
            {
                if inwards {
                    self.arrive(&packet, &mut out);
                } else {
                    // Without WireGuard's padding.
                    let len = Header::parse(&packet).unwrap().payload.end;
                    self.link.send(&packet[..len]);
                }
            }
            let mut done = false;
            if let Some(tcp) = &mut self.tcp {
                done = act(tcp);
                tcp.egress(now, &mut out);
            }
            for packet in out {
                self.carry(false, packet.to_vec());
            }
            if done || self.link.has_ended() {
                return;
            }
            let timer = self.tcp.as_ref().and_then(Tcp::poll_at);
            let arrival = self.under_way.peek().map(|Reverse((at, ..))| *at);
            let next = [timer, arrival].into_iter().flatten().min();
            let wait = next.map_or(Duration::from_millis(50), |next| {
                if next > now { next - now } else { Duration::ZERO }
            });
            self.link.wait(wait);
        }
    }

    /// Sends back what comes, then closes its half, until the end.
    pub(super) fn echo(&mut self) {
        let mut pending = Vec::new();
        self.run(|tcp| {
            if pending.is_empty() {
                let read = tcp.read(|bytes| {
                    pending.extend_from_slice(bytes);
                    bytes.len()
                });
                if read == Read::Eof {
                    tcp.close();
                }
            }
            let written = tcp.write(&pending);
            pending.drain(..written);
            tcp.is_over() || tcp.state == State::TimeWait
        });
    }
}
