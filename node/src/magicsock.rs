//! Where a peer's packets go: directly over UDP, or through a DERP relay (Go: `wgengine/magicsock`).
//!
//! [`Magicsock`] is sans-IO: datagrams, netmaps and the time go in, [`Output`]s come out. The engine owns
//! the socket and the DERP connections and is the one that calls it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    control::{Endpoint, NetInfo},
    derp_map::RegionId,
    key::{DiscoPrivate, NodePublic},
    netmap::Netmap,
};

/// What the engine has to do for the path selection.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this datagram (disco or STUN).
    Udp {
        /// Destination.
        to: SocketAddr,
        /// Payload.
        datagram: Bytes,
    },
    /// Send this packet (disco) through a relay.
    Derp {
        /// The peer's region.
        region: RegionId,
        /// The peer.
        to: NodePublic,
        /// Payload.
        packet: Bytes,
    },
    /// The set of relay regions to be connected to has changed; the first is home.
    Regions(Vec<RegionId>),
    /// The addresses to announce have changed.
    Endpoints(Vec<Endpoint>),
    /// The measurements have changed.
    NetInfo(NetInfo),
    /// The peer's direct path has come up or gone; for logs and status only.
    Path {
        /// The peer.
        peer: NodePublic,
        /// The new path.
        path: Path,
    },
}

/// How a peer is reached at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// By UDP to this address.
    Direct(SocketAddr),
    /// Through this relay region.
    Derp(RegionId),
    /// Not at all.
    None,
}

/// Where to send one packet now. Both are set while a direct path is not trusted (any more): the
/// receiver's replay window removes the duplicate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Route {
    /// Directly.
    pub udp: Option<SocketAddr>,
    /// Through this relay region.
    pub derp: Option<RegionId>,
}

/// Fixed facts and wishes.
#[derive(Debug, Clone)]
pub struct MagicsockConfig {
    /// Our disco key.
    pub disco: DiscoPrivate,
    /// Our node key: pings carry it.
    pub node: NodePublic,
    /// The UDP port that the socket is bound to.
    pub port: u16,
    /// Announced as they are (NodePort, host network).
    pub static_endpoints: Vec<SocketAddr>,
    /// Never use UDP (for tests, and for networks that forbid it).
    pub derp_only: bool,
}

/// The state of all paths.
#[derive(Debug)]
pub struct Magicsock {
    // filled in by the implementation
}

impl Magicsock {
    /// No peers yet.
    pub fn new(_config: MagicsockConfig, _now: Instant) -> Self {
        Self {}
    }

    /// Takes over peers, their disco keys, endpoints and regions, and the DERP map.
    pub fn set_netmap(&mut self, _now: Instant, _netmap: &Netmap) {}

    /// The node logged in with a new key.
    pub fn set_node_key(&mut self, _node: NodePublic) {}

    /// The addresses of this machine's interfaces, read now and then by the engine.
    pub fn set_interfaces(&mut self, _now: Instant, _addrs: &[std::net::IpAddr]) {}

    /// A datagram from the UDP socket. `true`: it was disco or STUN (or junk that is neither) and is done with;
    /// `false`: it is WireGuard's.
    pub fn on_udp(&mut self, _now: Instant, _from: SocketAddr, _datagram: &[u8]) -> bool {
        false
    }

    /// A packet that a relay delivered. `true`: it was disco and is done with; `false`: it is WireGuard's.
    /// Either way the region is remembered as the way back to `from`.
    pub fn on_derp(&mut self, _now: Instant, _region: RegionId, _from: NodePublic, _packet: &[u8]) -> bool {
        false
    }

    /// The relay says that `peer` isn't connected there (any more).
    pub fn on_peer_gone(&mut self, _now: Instant, _region: RegionId, _peer: NodePublic) {}

    /// A connection to a relay came up or went down.
    pub fn on_derp_state(&mut self, _now: Instant, _region: RegionId, _connected: bool) {}

    /// WireGuard has accepted an authenticated packet from this address: it belongs to `peer`.
    pub fn on_wireguard(&mut self, _now: Instant, _peer: NodePublic, _from: SocketAddr) {}

    /// Where a packet for `peer` goes now. Counts as activity: may start pings (see [`Self::poll_output`]).
    pub fn route(&mut self, _now: Instant, _peer: &NodePublic) -> Route {
        Route::default()
    }

    /// How `peer` is reached, without counting as activity.
    pub fn path(&self, _now: Instant, _peer: &NodePublic) -> Path {
        Path::None
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// How long until [`Self::on_timeout`] has something to do.
    pub fn timeout(&self, _now: Instant) -> Option<Duration> {
        None
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, _now: Instant) {}
}
