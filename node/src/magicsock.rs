//! Where a peer's packets go: directly over UDP, or through a DERP relay (Go: `wgengine/magicsock`).
//!
//! [`Magicsock`] is sans-IO: datagrams, netmaps and the time go in, [`Output`]s come out. The engine owns
//! the socket and the DERP connections and is the one that calls it.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    control::{Endpoint, NetInfo},
    derp_map::{DerpMap, RegionId},
    disco::{self, Message},
    key::{DiscoPrivate, DiscoPublic, NodePublic},
    netmap::Netmap,
    stun,
};

mod asked;
pub(crate) mod bucket;
mod candidates;
mod endpoints;
mod home;
mod messages;
mod netcheck;
mod network;
mod peer;
mod peers;
mod relays;
mod score;

pub use asked::AskToken;
use asked::Asked;
use messages::Via;
use network::Network;
use peer::{Peer, Want};
use peers::Peers;
use relays::Relays;

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
    /// The first answer to [`Magicsock::ask`].
    Pong {
        /// Who has answered.
        peer: NodePublic,
        /// As given there.
        token: AskToken,
        /// The way that the ping took.
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
///
/// After every call take the outputs until there is none, and only then send what [`Self::route`] routed: a
/// relay region may have to be connected to first.
#[derive(Debug)]
pub struct Magicsock {
    config: MagicsockConfig,
    disco: DiscoPublic,
    map: Arc<DerpMap>,
    peers: Peers,
    /// The next deadline of each peer that has one.
    timers: BTreeSet<(Instant, NodePublic)>,
    relays: Relays,
    network: Network,
    outputs: VecDeque<Output>,
    /// Who is sent a call-me-maybe when we know our address again.
    calls: Vec<NodePublic>,
    wants: Vec<Want>,
    asked: Vec<Asked>,
}

impl Magicsock {
    /// No peers yet.
    pub fn new(config: MagicsockConfig, _now: Instant) -> Self {
        Self {
            disco: config.disco.public(),
            map: Arc::default(),
            peers: Peers::default(),
            timers: BTreeSet::new(),
            relays: Relays::default(),
            network: Network::new(&config),
            outputs: VecDeque::new(),
            calls: Vec::new(),
            wants: Vec::new(),
            asked: Vec::new(),
            config,
        }
    }

    /// Takes over peers, their disco keys, endpoints and regions, and the DERP map.
    pub fn set_netmap(&mut self, now: Instant, netmap: &Arc<Netmap>) {
        self.set_peers(now, netmap);
        self.set_map(now, &netmap.derp);
    }

    fn set_peers(&mut self, now: Instant, netmap: &Arc<Netmap>) {
        self.peers.set(netmap.clone());
        self.timers.retain(|(_, key)| self.peers.contains(key));
        let in_use = self.peers.all_used().filter(|peer| peer.is_in_use());
        let touched: Vec<_> = in_use.map(|peer| peer.key).collect();
        for key in touched {
            self.settle(now, &key);
        }
    }

    fn set_map(&mut self, now: Instant, map: &Arc<DerpMap>) {
        self.map = Arc::clone(map);
        self.relays.keep_only(map);
        self.network.set_map(now, map);
        self.advance(now);
    }

    /// The node logged in with a new key.
    pub fn set_node_key(&mut self, node: NodePublic) {
        self.config.node = node;
    }

    /// The addresses that [`Self::set_interfaces`] was told last.
    pub fn interfaces(&self) -> &[IpAddr] {
        self.network.interfaces()
    }

    /// The addresses of this machine's interfaces, read now and then by the engine.
    pub fn set_interfaces(&mut self, now: Instant, addrs: &[IpAddr]) {
        if self.network.set_interfaces(now, addrs) {
            self.peers.all_used().for_each(|peer| peer.distrust(now));
        }
        self.advance(now);
    }

    /// Host names of STUN servers whose addresses the map leaves to DNS; see [`Self::set_stun_addrs`].
    pub fn stun_hosts(&self) -> Vec<String> {
        self.network.stun_hosts()
    }

    /// What DNS says about one of [`Self::stun_hosts`].
    pub fn set_stun_addrs(&mut self, now: Instant, host: &str, addrs: &[IpAddr]) {
        self.network.set_stun_addrs(now, host, addrs);
        self.advance(now);
    }

    /// A datagram from the UDP socket. `true`: it was disco or STUN (or junk that is neither) and is done with;
    /// `false`: it is WireGuard's.
    pub fn on_udp(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if self.config.derp_only {
            return true;
        }
        if stun::is_stun(datagram) {
            if let Some((tx, mapped)) = stun::parse_response(datagram) {
                self.network.on_stun(now, &tx, mapped);
                self.advance(now);
            }
            return true;
        }
        if let Some(sender) = disco::sender(datagram) {
            self.on_disco(now, Via::Udp(from), sender, datagram);
            return true;
        }
        !is_wireguard(datagram)
    }

    /// A packet that a relay delivered. `true`: it was disco and is done with; `false`: it is WireGuard's.
    /// Either way the region is remembered as the way back to `from`.
    pub fn on_derp(&mut self, now: Instant, region: RegionId, from: NodePublic, packet: &[u8]) -> bool {
        let route = self.relays.on_packet(now, region);
        if let (Some(peer), Some(_)) = (self.peers.get_mut(now, &from), route) {
            peer.reply = route;
        }
        let Some(sender) = disco::sender(packet) else {
            return false;
        };
        self.on_disco(now, Via::Derp(region, from), sender, packet);
        true
    }

    /// The relay says that `peer` isn't connected there (any more).
    pub fn on_peer_gone(&mut self, now: Instant, region: RegionId, peer: NodePublic) {
        if let Some(gone) = self.peers.get_mut(now, &peer)
            && gone.reply.is_some_and(|route| route.region() == region)
        {
            gone.reply = None;
            self.settle(now, &peer);
        }
    }

    /// A connection to a relay came up, or went down, or could not be made once more.
    pub fn on_derp_state(&mut self, now: Instant, region: RegionId, connected: bool) {
        if connected {
            self.relays.on_up(region);
        } else {
            self.relays.on_down(now, region);
            // Often it's our network that has changed.
            self.network.ask_again(now);
            self.advance(now);
        }
    }

    /// WireGuard has accepted an authenticated packet from this address: it belongs to `peer`.
    pub fn on_wireguard(&mut self, now: Instant, peer: NodePublic, from: SocketAddr) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let sender = self.peers.get_mut(now, &peer);
        let Some(sender) = sender.filter(|_| !self.config.derp_only) else {
            return;
        };
        sender.on_wireguard(now, from, &mut self.wants);
        if !self.wants.is_empty() {
            self.settle(now, &peer);
        }
    }

    /// Where a packet for `peer` goes now. Counts as activity: may start pings (see [`Self::poll_output`]).
    pub fn route(&mut self, now: Instant, peer: &NodePublic) -> Route {
        let Some(state) = self.peers.get_mut(now, peer) else {
            return Route::default();
        };
        let mut route = Route::default();
        let mut trusted = false;
        if !self.config.derp_only {
            state.on_send(now, &mut self.wants);
            trusted = state.trusted(now).is_some();
            route.udp = state.udp();
        }
        if !trusted {
            route.derp = region_of(&self.relays, &self.map, state);
            if let Some(region) = route.derp {
                self.relays.touch(now, region);
            }
        }
        if !self.wants.is_empty() || state.deadline() != state.filed {
            self.settle(now, peer);
        }
        if self.network.on_activity(now) {
            self.advance(now);
        }
        self.publish_regions();
        route
    }

    /// How `peer` is reached, without counting as activity.
    pub fn path(&self, now: Instant, peer: &NodePublic) -> Path {
        if let Some(used) = self.peers.used(peer) {
            return self.path_of(now, used);
        }
        let unused = self.peers.unused(now, peer);
        unused.map_or(Path::None, |peer| self.path_of(now, &peer))
    }

    /// When something was routed to `peer` last.
    pub fn last_send(&self, peer: &NodePublic) -> Option<Instant> {
        self.peers.used(peer)?.last_send()
    }

    fn path_of(&self, now: Instant, peer: &Peer) -> Path {
        let udp = if self.config.derp_only {
            None
        } else if peer.disco.is_none() {
            peer.udp()
        } else {
            peer.trusted(now)
        };
        match (udp, region_of(&self.relays, &self.map, peer)) {
            (Some(addr), _) => Path::Direct(addr),
            (None, Some(region)) => Path::Derp(region),
            (None, None) => Path::None,
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// How long until [`Self::on_timeout`] has something to do.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        let peers = self.timers.first().map(|(at, _)| *at);
        let deadlines = [peers, self.network.deadline(), self.relays.deadline()];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, key));
            if let Some(peer) = self.peers.get_mut(now, &key) {
                peer.filed = None;
                peer.on_timeout(now, &mut self.wants);
                self.settle(now, &key);
            }
        }
        if self.relays.deadline().is_some_and(|at| at <= now) {
            self.relays.on_timeout(now);
        }
        self.advance(now);
    }

    /// Carries on with what concerns all peers: STUN, home, our addresses.
    fn advance(&mut self, now: Instant) {
        let known = self
            .network
            .advance(now, &self.config, &mut self.relays, &mut self.outputs);
        if known {
            for key in std::mem::take(&mut self.calls) {
                self.call(now, &key);
            }
        }
        self.publish_regions();
    }

    /// Carries out what a peer's state wants, files its deadline, tells of its path.
    fn settle(&mut self, now: Instant, key: &NodePublic) {
        let mut wants = std::mem::take(&mut self.wants);
        for want in wants.drain(..) {
            match want {
                Want::Ping { to, tx } => {
                    let node = Some(self.config.node);
                    let message = Message::Ping { tx, node, padding: 0 };
                    if let Some(datagram) = self.seal(key, &message) {
                        self.outputs.push_back(Output::Udp { to, datagram });
                    }
                }
                Want::CallMeMaybe if self.network.knows_own_address(now) => self.call(now, key),
                Want::CallMeMaybe => {
                    self.network.ask_again(now);
                    if !self.calls.contains(key) {
                        self.calls.push(*key);
                    }
                    self.advance(now);
                }
            }
        }
        self.wants = wants;
        self.file(now, key);
    }

    fn file(&mut self, now: Instant, key: &NodePublic) {
        let Some(peer) = self.peers.used(key) else { return };
        let path = self.path_of(now, peer);
        let Some(peer) = self.peers.get_mut(now, key) else {
            return;
        };
        let direct = |path| matches!(path, Path::Direct(_));
        if path != peer.announced && (direct(path) || direct(peer.announced)) {
            self.outputs.push_back(Output::Path { peer: *key, path });
        }
        peer.announced = path;
        let deadline = peer.deadline();
        if deadline != peer.filed {
            if let Some(old) = peer.filed {
                self.timers.remove(&(old, *key));
            }
            if let Some(new) = deadline {
                self.timers.insert((new, *key));
            }
            peer.filed = deadline;
        }
    }

    fn publish_regions(&mut self) {
        if let Some(regions) = self.relays.changed() {
            self.outputs.push_back(Output::Regions(regions));
        }
    }
}

/// The relay region for a peer: the one it came from, else the one where it listens.
fn region_of(relays: &Relays, map: &DerpMap, peer: &Peer) -> Option<RegionId> {
    let home = || peer.home.filter(|home| map.regions.contains_key(home));
    relays.valid(peer.reply).or_else(home)
}

/// Message types 1 to 4 with their three reserved bytes; a stray byte of a GSO batch is not (§5.4 of the
/// WireGuard paper).
fn is_wireguard(datagram: &[u8]) -> bool {
    matches!(datagram, [1..=4, 0, 0, 0, ..]) && datagram.len() >= 32
}

/// Bytes that nobody can guess; `None` when the system has none to give, and then nothing is sent.
fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Some(bytes),
        Err(error) => {
            tracing::warn!(%error, "The system has no randomness to give");
            None
        }
    }
}

#[cfg(test)]
mod tests;
