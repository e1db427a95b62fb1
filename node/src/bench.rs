//! What `benches/hot_path.rs` measures of the data plane, without a network, and what `tests/` compares of it.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use smoltcp::time::Instant;

use crate::{
    key::{NodePrivate, NodePublic},
    netmap::Node,
    netstack::{
        packet::{FlowKey, MTU},
        tcp::{Pool, Read, Share, Tcp},
    },
    tailcfg,
    wg::{Incoming, Peers, Source},
};

pub use crate::filter::go::compare as compare_filter;

/// Two ends of a WireGuard tunnel, with a session.
pub struct Tunnel {
    ends: [(Peers, Arc<Node>); 2],
}

impl Default for Tunnel {
    fn default() -> Self {
        let end = || {
            let key = NodePrivate::generate().expect("the system has randomness");
            let node = serde_json::json!({"ID": 1, "Key": key.public()});
            let node: tailcfg::Node = serde_json::from_str(&node.to_string()).expect("a node");
            (Peers::new(&key), Arc::new(node.into()))
        };
        let tunnel = Self { ends: [end(), end()] };
        let mut datagrams = tunnel.seal(0, &[0; 32], 1);
        for from in [0, 1, 0] {
            datagrams = tunnel.open(1 - from, &datagrams);
        }
        tunnel
    }
}

impl Tunnel {
    /// Seals copies of a packet for the other end.
    pub fn seal(&self, from: usize, packet: &[u8], count: usize) -> Vec<Bytes> {
        let [(peers, _), (_, other)] = self.seen_from(from);
        let mut sealed = Vec::with_capacity(count);
        let packets = (0..count).map(|_| BytesMut::from(packet)).collect();
        peers.seal(&peers.peer(other), packets, &mut sealed);
        sealed
    }

    /// Opens what the other end has sealed. Gives what has to go back.
    ///
    /// # Panics
    /// When a datagram isn't good.
    pub fn open(&self, at: usize, datagrams: &[Bytes]) -> Vec<Bytes> {
        let [(peers, _), (_, other)] = self.seen_from(at);
        let admit = |_: &NodePublic| Some(other.clone());
        let source = Source::Udp(([192, 0, 2, 1], 41_641).into());
        let mut replies = Vec::new();
        for datagram in datagrams {
            let taken = peers.receive(
                std::time::Instant::now(),
                source,
                datagram.as_ref(),
                admit,
                &mut replies,
            );
            assert!(matches!(
                taken,
                Ok(Incoming::Data(..) | Incoming::Initiation(_) | Incoming::Established(_))
            ));
        }
        replies
    }

    fn seen_from(&self, end: usize) -> [&(Peers, Arc<Node>); 2] {
        [&self.ends[end], &self.ends[1 - end]]
    }
}

/// The largest packet in a tunnel.
pub const LARGEST_PACKET: usize = MTU;

/// Two ends of a TCP connection.
pub struct Connection {
    ends: [Tcp; 2],
    now: Instant,
    packets: Vec<BytesMut>,
}

impl Default for Connection {
    fn default() -> Self {
        let (a, b): (SocketAddr, SocketAddr) = (([100, 64, 0, 1], 5000).into(), ([100, 64, 0, 2], 80).into());
        let key = |local, remote| FlowKey { local, remote };
        let share = || Share::new(Pool::new(64 << 20), Pool::new(128 << 20));
        let now = Instant::from_secs(1);
        let ends = [
            Tcp::connecting(&key(a, b), share(), now, 1),
            Tcp::listening(&key(b, a), share(), now, 2),
        ];
        let mut connection = Self {
            ends: ends.map(|end| end.expect("an address of a host")),
            now,
            packets: Vec::new(),
        };
        while !connection.ends.iter().all(Tcp::is_synchronized) {
            connection.carry();
        }
        connection
    }
}

impl Connection {
    /// Brings bytes from one end to the other, over a path on which all takes a tenth of a millisecond.
    ///
    /// # Panics
    /// When the connection ends.
    pub fn transfer(&mut self, from: usize, data: &[u8]) {
        let (mut written, mut read) = (0, 0);
        while read < data.len() {
            written += self.ends[from].write(&data[written..]);
            self.carry();
            if let Read::Data(count) = self.ends[1 - from].read(<[u8]>::len) {
                read += count;
            }
            assert!(self.ends[from].may_send());
        }
    }

    fn carry(&mut self) {
        for from in [0, 1] {
            self.now += smoltcp::time::Duration::from_micros(100);
            self.ends[from].egress(self.now, &mut self.packets);
            let mut answers = Vec::new();
            for packet in self.packets.drain(..) {
                self.ends[1 - from].ingress(self.now, &packet, &mut answers);
            }
        }
    }
}
