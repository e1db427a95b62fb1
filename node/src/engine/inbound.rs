//! A datagram's way in: path selection, WireGuard, source check, packet filter, flow.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::AcqRel},
    time,
};

use ahash::AHashMap;
use bytes::Bytes;
use jiff::Timestamp;
use smoltcp::time::Instant;

use super::{
    DropReason,
    flow::{Conn, Flow, Guard, Stage},
    listener::Door,
    shared::Shared,
    view::View,
};
use crate::{
    derp_map::RegionId,
    filter::Inbound,
    key::NodePublic,
    magicsock::{Path, Route},
    netstack::{
        echo,
        packet::{self, FlowKey, Header, Segment},
        tcp::{Share, Tcp, refusal},
        udp,
    },
    wg::{Incoming, Peer, Rejected, Source},
};

/// Connections that are being opened, of all peers and of one.
const MAX_HALF_OPEN: usize = 1024;
const MAX_HALF_OPEN_PER_PEER: usize = 128;
/// Segments of no connection that are answered with a RST, per second: to all peers and to one.
const MAX_REFUSALS: u32 = 1000;
const MAX_REFUSALS_PER_PEER: u32 = 200;

/// Where a datagram came from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    Udp(SocketAddr),
    Derp(RegionId, NodePublic),
}

impl Origin {
    fn addr(self) -> Option<SocketAddr> {
        match self {
            Self::Udp(from) => Some(from),
            Self::Derp(..) => None,
        }
    }

    /// The way back.
    fn route(self) -> Route {
        match self {
            Self::Udp(from) => Route {
                udp: Some(from),
                derp: None,
            },
            Self::Derp(region, _) => Route {
                udp: None,
                derp: Some(region),
            },
        }
    }

    /// Whom handshakes are counted for.
    fn source(self) -> Source {
        match self {
            Self::Udp(from) => Source::Udp(from),
            Self::Derp(_, from) => Source::Relay(from),
        }
    }
}

/// The receiving half of the engine.
pub(super) struct Inbox {
    shared: Arc<Shared>,
    /// Flows that got packets in this round.
    pub(super) touched: Vec<Arc<Flow>>,
    refusals: Refusals,
}

impl Inbox {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            touched: Vec::new(),
            refusals: Refusals::default(),
        }
    }

    /// Takes one datagram.
    pub(super) fn datagram(&mut self, now: Instant, origin: Origin, datagram: &[u8]) {
        // Some senders end a GSO batch with a single byte (Go: `net/batching`, never-gso-equal-tail).
        if datagram.len() <= 1 {
            return;
        }
        let clock = time::Instant::now();
        let done = match origin {
            Origin::Udp(_) if self.shared.derp_only => true,
            Origin::Udp(from) => self.shared.paths.lock().on_udp(clock, from, datagram),
            Origin::Derp(region, from) => self.shared.paths.lock().on_derp(clock, region, from, datagram),
        };
        if !done && let Err(reason) = self.wireguard(now, clock, origin, datagram) {
            self.shared.stats.count_drop(reason);
        }
    }

    /// Takes a packet that we sent to ourselves.
    pub(super) fn own_packet(&mut self, now: Instant, ourselves: &Arc<Peer>, packet: &[u8]) {
        let Some(view) = self.shared.view.load_full() else {
            return;
        };
        if let Err(reason) = self.packet(now, &view, ourselves, packet) {
            self.shared.stats.count_drop(reason);
        }
    }

    fn wireguard(
        &mut self,
        now: Instant,
        time: time::Instant,
        origin: Origin,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        // Until the first netmap nobody is known.
        let view = self.shared.view.load_full().ok_or(DropReason::UnknownPeer)?;
        let clock = Timestamp::now();
        let mut replies = Vec::new();
        let incoming = self.shared.peers.receive(
            time,
            origin.source(),
            datagram,
            |key| view.peer(key),
            &mut replies,
        );
        match incoming {
            Err(rejected) => Err(rejected.into()),
            Ok(Incoming::Done) => Ok(()),
            Ok(Incoming::Cookie(to, cookie)) => {
                self.shared.udp.queue(to, [cookie]);
                self.shared.wake_engine();
                Ok(())
            }
            Ok(Incoming::Initiation(peer)) => {
                // It moves no path: its data will, if it is where it says (Go: `lazyEndpoint.FromPeer`).
                peer.note_seen(clock, None);
                self.answer(&peer, origin, replies);
                Ok(())
            }
            Ok(Incoming::Established(peer)) => {
                self.heard(&peer, origin, clock);
                self.answer(&peer, origin, replies);
                Ok(())
            }
            Ok(Incoming::Data(peer, packet)) => {
                self.heard(&peer, origin, clock);
                self.shared.send_sealed(&peer, replies);
                self.packet(now, &view, &peer, packet.as_ref())
            }
        }
    }

    fn heard(&self, peer: &Peer, origin: Origin, clock: Timestamp) {
        if peer.note_seen(clock, origin.addr())
            && let Some(from) = origin.addr()
        {
            self.shared
                .paths
                .lock()
                .on_wireguard(time::Instant::now(), peer.key, from);
        }
    }

    /// Handshake messages go back to where the question came from, and by every other way that is in use:
    /// one that is lost costs 5 s.
    fn answer(&self, peer: &Arc<Peer>, origin: Origin, replies: Vec<Bytes>) {
        let back = origin.route();
        self.shared.send_by(back, peer, replies.clone());
        let usual = self.shared.route(peer);
        let others = Route {
            udp: usual.udp.filter(|_| usual.udp != back.udp),
            derp: usual.derp.filter(|_| usual.derp != back.derp),
        };
        self.shared.send_by(others, peer, replies);
    }

    /// A packet out of the tunnel.
    fn packet(
        &mut self,
        now: Instant,
        view: &View,
        peer: &Arc<Peer>,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        if packet.is_empty() {
            return Ok(()); // a keepalive
        }
        let header = Header::parse(packet).ok_or(DropReason::Malformed)?;
        let segment = match header.proto {
            packet::TCP if !header.fragmented => {
                Some(Segment::parse(&packet[header.payload.clone()]).ok_or(DropReason::Malformed)?)
            }
            _ => None,
        };
        // The addresses of a known flow were checked when it began, and are again with each netmap.
        if let Some(segment) = &segment
            && !segment.is_opening()
            && let Some(flow) = self.flow(&header.flow(segment), peer)
        {
            self.ingress(now, &flow, packet);
            return Ok(());
        }
        if !peer.is_self() && !peer.may_send_from(header.src) {
            return Err(DropReason::SourceNotAllowed);
        }
        if !view.is_ours(header.dst) && !self.shared.listeners.has_address(header.dst) {
            return Err(DropReason::NotForUs);
        }
        if header.fragmented {
            return Err(DropReason::Unsupported);
        }
        let mut inbound = Inbound::parse(&header, packet).ok_or(DropReason::Malformed)?;
        inbound.reply = header.proto == packet::UDP && self.shared.packets.is_answer(&inbound);
        self.admit(view, peer, &inbound)?;
        match segment {
            Some(segment) => self.segment(now, view, peer, &header, &segment, packet),
            None if header.proto == packet::UDP => self.udp(&header, packet),
            None => self.question(peer, &header, packet),
        }
    }

    /// A SYN, or a segment of no flow, that the filter has let in.
    fn segment(
        &mut self,
        now: Instant,
        view: &View,
        peer: &Arc<Peer>,
        header: &Header,
        segment: &Segment,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        let key = header.flow(segment);
        if !segment.is_opening() {
            return self.refuse(now, peer, &key, segment, packet);
        }
        if let Some(flow) = self.flow(&key, peer) {
            // It came again, or both connect to each other at once (RFC 9293 §3.5).
            let dials = || matches!(flow.conn.lock().stage, Stage::Dialling);
            if flow.opened_by == Some(segment.seq) || dials() {
                self.ingress(now, &flow, packet);
                return Ok(());
            }
            // The peer restarted and uses a port again. WireGuard authenticated it, so the old flow may go at once:
            // a challenge ACK (RFC 5961 §4) would only cost a round trip.
            self.shared.remove(&flow);
            flow.kill();
        }
        let service = view.service(key.local.ip());
        let listener = match self.shared.listeners.door(key.local, service) {
            Door::Open(listener) => listener,
            Door::Closed => {
                self.shared.note_refused(key.local.port());
                return self.refuse(now, peer, &key, segment, packet);
            }
            Door::Moved => return Err(DropReason::NotForUs),
        };
        if listener.capacity() == 0 {
            return Err(DropReason::AcceptQueueFull);
        }
        let conn = (|| {
            let half_open = [
                Guard::take(&peer.half_open, MAX_HALF_OPEN_PER_PEER)?,
                Guard::take(&self.shared.half_open, MAX_HALF_OPEN)?,
            ];
            let open = self.shared.count_flow(peer)?;
            let seed = getrandom::u64().ok()?;
            let share = Share::new(peer.memory.clone(), self.shared.memory.clone());
            let tcp = Tcp::listening(&key, share, now, seed)?;
            let stage = Stage::Accepting {
                listener,
                _half_open: half_open,
            };
            Some(Conn::new(tcp, stage, open, now))
        })()
        .ok_or(DropReason::TooManyFlows)?;
        let flow = Flow::new(key, peer.clone(), Some(segment.seq), service.is_some(), conn);
        self.shared.flows.lock().insert(key, flow.clone());
        self.ingress(now, &flow, packet);
        Ok(())
    }

    /// A datagram goes to the socket that is bound where it is sent to.
    fn udp(&self, header: &Header, packet: &[u8]) -> Result<(), DropReason> {
        let datagram = udp::parse(header, packet).ok_or(DropReason::Malformed)?;
        self.shared.packets.deliver(datagram)
    }

    /// Something that is answered without a flow: echo requests and TSMP pings.
    fn question(&self, peer: &Arc<Peer>, header: &Header, packet: &[u8]) -> Result<(), DropReason> {
        let peer_api = self.shared.local.borrow().peer_api;
        let reply = match header.proto {
            packet::TSMP => {
                if let Some((token, port)) = echo::tsmp_pong(header, packet) {
                    self.shared.pings.answered(&peer.key, &token, Path::None, port);
                    return Ok(());
                }
                let port = if header.dst.is_ipv4() {
                    peer_api.v4
                } else {
                    peer_api.v6
                };
                echo::tsmp_reply(header, packet, port.unwrap_or(0))
            }
            packet::ICMP | packet::ICMPV6 => {
                if let Some(token) = echo::answered(header, packet) {
                    self.shared.pings.answered(&peer.key, &token, Path::None, 0);
                    return Ok(());
                }
                echo::reply(header, packet)
            }
            _ => None,
        };
        self.shared
            .send(peer, vec![reply.ok_or(DropReason::Unsupported)?]);
        Ok(())
    }

    /// The packet filter lets it in. What we send to ourselves isn't its business.
    fn admit(&self, view: &View, peer: &Peer, packet: &Inbound) -> Result<(), DropReason> {
        if peer.is_self() {
            return Ok(());
        }
        view.admit(&peer.node(), packet, self.shared.local.borrow().peer_api)
    }

    fn flow(&self, key: &FlowKey, peer: &Peer) -> Option<Arc<Flow>> {
        let flows = self.shared.flows.lock();
        flows.get(key).filter(|flow| flow.peer.key == peer.key).cloned()
    }

    fn ingress(&mut self, now: Instant, flow: &Arc<Flow>, packet: &[u8]) {
        self.shared
            .drive(flow, |conn, out| conn.ingress(now, packet, out));
        if !flow.dirty.swap(true, AcqRel) {
            self.touched.push(flow.clone());
        }
    }

    fn refuse(
        &mut self,
        now: Instant,
        peer: &Arc<Peer>,
        key: &FlowKey,
        segment: &Segment,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        if segment.is_reset() {
            return Ok(());
        }
        if !self.refusals.allow(now, peer.key) {
            return Err(DropReason::StrayUnanswered);
        }
        self.shared.send(peer, refusal(key, packet).into_iter().collect());
        Ok(())
    }
}

/// Bounds how many strays are answered in each second, so that no peer takes the answers of the others.
#[derive(Debug, Default)]
struct Refusals {
    second: i64,
    count: u32,
    by_peer: AHashMap<NodePublic, u32>,
}

impl Refusals {
    fn allow(&mut self, now: Instant, peer: NodePublic) -> bool {
        let second = now.secs();
        if second != self.second {
            (self.second, self.count) = (second, 0);
            self.by_peer.clear();
        }
        if self.count == MAX_REFUSALS {
            return false;
        }
        let of_peer = self.by_peer.entry(peer).or_default();
        let allowed = *of_peer < MAX_REFUSALS_PER_PEER;
        if allowed {
            *of_peer += 1;
            self.count += 1;
        }
        allowed
    }
}

impl From<Rejected> for DropReason {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Invalid => Self::NotAuthentic,
            Rejected::Replayed => Self::Replayed,
            Rejected::Unknown => Self::UnknownPeer,
            Rejected::TooMany => Self::TooManyHandshakes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peer_takes_the_refusals_of_the_others_and_all_are_bounded() {
        let peer = |number| NodePublic::from_bytes([number; 32]);
        let mut refusals = Refusals::default();
        let now = Instant::from_millis(7_900);
        let mut allowed = |now, number| (0..500).filter(|_| refusals.allow(now, peer(number))).count();
        assert_eq!([1, 2, 1].map(|number| allowed(now, number)), [200, 200, 0]);
        assert_eq!(
            [3, 4, 5, 6].map(|number| allowed(now, number)),
            [200, 200, 200, 0]
        );
        assert_eq!(allowed(Instant::from_millis(8_000), 6), 200);
    }
}
