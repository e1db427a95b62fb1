//! WireGuard over gotatun: who is at the other end of a datagram, and sealing for it.
//!
//! Peers are made lazily, by an inbound handshake or by outbound traffic, and forgotten when their
//! session has ended: a node with thousands of peers in its netmap pays only for those that talk.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use ahash::AHashMap;
use bytes::{Bytes, BytesMut};
use gotatun::{
    noise::{Tunn, TunnResult, errors::WireGuardError, index_table::IndexTable},
    packet::{Packet, WgKind},
    tun::MtuWatcher,
    x25519::{PublicKey, StaticSecret},
};
use parking_lot::{Mutex, RwLock};

use self::{
    initiation::Tai64n,
    limiter::{Limiter, Verified},
    peer::Session,
};
pub(crate) use self::{
    limiter::{Source, network},
    peer::Peer,
};
use crate::{
    key::{NodePrivate, NodePublic},
    netmap::Node,
    netstack::packet::MTU,
};

mod initiation;
mod limiter;
mod peer;

/// All WireGuard peers that have, or had lately, a session with us.
pub(crate) struct Peers {
    identity: RwLock<Identity>,
    live: RwLock<AHashMap<NodePublic, Arc<Peer>>>,
    /// Our session index → peer. gotatun keeps its indices to itself, so they are learnt from the handshake
    /// messages that it makes, and forgotten when they have left its table.
    by_index: RwLock<AHashMap<u32, Arc<Peer>>>,
    /// This node, while it talks to itself.
    ourselves: Mutex<Option<Arc<Peer>>>,
    table: IndexTable,
    /// The newest handshake initiation of each peer, also of those that were forgotten.
    initiations: Mutex<AHashMap<NodePublic, Tai64n>>,
    newest_initiation: Mutex<Option<SystemTime>>,
}

struct Identity {
    key: NodePrivate,
    limiter: Limiter,
}

impl Identity {
    fn new(key: &NodePrivate) -> Self {
        Self {
            key: key.clone(),
            limiter: Limiter::new(&PublicKey::from(&StaticSecret::from(*key.expose_bytes()))),
        }
    }
}

/// What an accepted datagram was.
pub(crate) enum Incoming {
    /// A packet from inside the tunnel; empty for a keepalive.
    Data(Arc<Peer>, Packet),
    /// A new handshake, whose answer is among the replies. Whoever sent it may have it from somebody else.
    Initiation(Arc<Peer>),
    /// The answer to our own handshake; the first packet of the session is among the replies.
    Established(Arc<Peer>),
    /// There are too many handshakes: the address must first return this cookie.
    Cookie(SocketAddr, Bytes),
    /// A cookie for our own next handshake.
    Done,
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// Not WireGuard, not for this key, not authentic.
    Invalid,
    /// Seen before, or older than what was seen.
    Replayed,
    /// Nobody who may talk to us, or a session that is gone.
    Unknown,
    /// A handshake, while there are too many.
    TooMany,
}

impl Peers {
    pub(crate) fn new(key: &NodePrivate) -> Self {
        Self {
            identity: RwLock::new(Identity::new(key)),
            live: RwLock::default(),
            by_index: RwLock::default(),
            ourselves: Mutex::default(),
            table: IndexTable::from_os_rng(),
            initiations: Mutex::default(),
            newest_initiation: Mutex::default(),
        }
    }

    /// Takes a datagram from `source` (which only limits the rate of handshakes). `admit` knows who may talk
    /// to us. What has to be sent to the peer for it is appended to `replies`.
    pub(crate) fn receive(
        &self,
        now: Instant,
        source: Source,
        received: &[u8],
        admit: impl Fn(&NodePublic) -> Option<Arc<Node>>,
        replies: &mut Vec<Bytes>,
    ) -> Result<Incoming, Rejected> {
        // One copy into a packet of its own: gotatun decrypts in place but wants a BytesMut.
        let packet = Packet::from_bytes(BytesMut::from(received));
        let identity = self.identity.read();
        let knows = |key: &NodePublic| admit(key).is_some();
        let message = match identity.limiter.verify(now, source, packet, knows)? {
            Verified::Message(message) => message,
            Verified::Cookie(to, cookie) => return Ok(Incoming::Cookie(to, datagram(cookie))),
        };
        let peer = match &message {
            WgKind::Data(m) => self.by_index(m.header.receiver_idx.get()),
            WgKind::HandshakeResp(m) => self.by_index(m.receiver_idx.get()),
            WgKind::CookieReply(m) => self.by_index(m.receiver_idx.get()),
            WgKind::HandshakeInit(_) => {
                let (key, stamp) =
                    initiation::open(&identity.key, received).map_err(|_| Rejected::Invalid)?;
                let node = admit(&key).ok_or(Rejected::Unknown)?;
                self.note_initiation(key, stamp)?;
                Some(self.peer_with(&identity, &node))
            }
        };
        drop(identity);
        let peer = peer.ok_or(Rejected::Unknown)?;
        let mut session = peer.session.lock();
        let begun = matches!(message, WgKind::HandshakeInit(_));
        let established = matches!(message, WgKind::HandshakeResp(_));
        let incoming = match session.tunn.handle_incoming_packet(message) {
            TunnResult::WriteToTunnel(packet) => {
                peer.set_active();
                Incoming::Data(peer.clone(), packet)
            }
            TunnResult::WriteToNetwork(answer) => {
                peer.set_active();
                replies.push(self.note(&peer, &mut session, answer));
                match begun {
                    true => Incoming::Initiation(peer.clone()),
                    false => Incoming::Established(peer.clone()),
                }
            }
            TunnResult::Done => Incoming::Done,
            TunnResult::Err(e) => return Err(Rejected::from(e)),
        };
        // What waited for the session goes out with its first packet.
        if session.waiting && (established || matches!(incoming, Incoming::Data(..))) {
            session.waiting = false;
            let queued: Vec<WgKind> = session
                .tunn
                .get_queued_packets(&mut MtuWatcher::new(MTU as u16))
                .collect();
            for message in queued {
                replies.push(self.note(&peer, &mut session, message));
            }
        }
        drop(session);
        Ok(incoming)
    }

    /// Takes note of an authentic initiation, unless it is a copy or has been overtaken.
    fn note_initiation(&self, key: NodePublic, stamp: Tai64n) -> Result<(), Rejected> {
        let mut initiations = self.initiations.lock();
        let newest = initiations.entry(key).or_default();
        if stamp <= *newest {
            return Err(Rejected::Replayed);
        }
        *newest = stamp;
        Ok(())
    }

    /// Seals `packets` for `peer` and appends the datagrams to `out`. Without a session they wait inside (a
    /// bounded number of them) and a handshake initiation comes out, unless one is under way.
    pub(crate) fn seal(&self, peer: &Arc<Peer>, packets: Vec<BytesMut>, out: &mut Vec<Bytes>) {
        let mut session = peer.session.lock();
        for packet in packets {
            match session.tunn.encapsulate_with_session(Packet::from_bytes(packet)) {
                Ok(sealed) => out.push(datagram(sealed.into_bytes())),
                Err(packet) => {
                    session.waiting = true;
                    peer.set_active();
                    if let Some(m) = session.tunn.handle_outgoing_packet(packet, None) {
                        out.push(self.note(peer, &mut session, m));
                    }
                }
            }
        }
    }

    /// A handshake initiation for `peer`, unless one is under way.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn initiate(&self, peer: &Arc<Peer>) -> Option<Bytes> {
        self.begin_handshake(peer, false)
    }

    /// The same, instead of one that is under way.
    pub(crate) fn initiate_again(&self, peer: &Arc<Peer>) -> Option<Bytes> {
        self.begin_handshake(peer, true)
    }

    fn begin_handshake(&self, peer: &Arc<Peer>, again: bool) -> Option<Bytes> {
        let mut session = peer.session.lock();
        peer.set_active();
        let message = session.tunn.format_handshake_initiation(again)?;
        Some(self.note(peer, &mut session, message.into()))
    }

    /// The peer for a node of the netmap; made when it isn't live.
    pub(crate) fn peer(&self, node: &Arc<Node>) -> Arc<Peer> {
        self.peer_with(&self.identity.read(), node)
    }

    fn peer_with(&self, identity: &Identity, node: &Arc<Node>) -> Arc<Peer> {
        if let Some(peer) = self.live.read().get(&node.key) {
            return peer.clone();
        }
        let mut live = self.live.write();
        let peer = live
            .entry(node.key)
            .or_insert_with(|| Arc::new(Peer::new(node.clone(), self.tunnel(identity, &node.key), false)));
        peer.clone()
    }

    /// This node as a peer of its own, for connections to itself. There is never a session with it.
    pub(crate) fn ourselves(&self, node: &Arc<Node>) -> Arc<Peer> {
        let mut ourselves = self.ourselves.lock();
        if let Some(peer) = ourselves.as_ref().filter(|peer| peer.key == node.key) {
            peer.set_node(node.clone());
            return peer.clone();
        }
        let tunnel = self.tunnel(&self.identity.read(), &node.key);
        let peer = Arc::new(Peer::new(node.clone(), tunnel, true));
        *ourselves = Some(peer.clone());
        peer
    }

    fn tunnel(&self, identity: &Identity, peer: &NodePublic) -> Tunn {
        Tunn::new(
            StaticSecret::from(*identity.key.expose_bytes()),
            PublicKey::from(*peer.as_bytes()),
            None,
            None,
            self.table.clone(),
            identity.limiter.of_tunnels(),
        )
    }

    pub(crate) fn live_peer(&self, key: &NodePublic) -> Option<Arc<Peer>> {
        self.live.read().get(key).cloned()
    }

    pub(crate) fn live(&self) -> Vec<Arc<Peer>> {
        self.live.read().values().cloned().collect()
    }

    /// Keeps only peers that `node` still knows, with what it knows of them now. Returns those that went.
    pub(crate) fn retain(&self, node: impl Fn(&NodePublic) -> Option<Arc<Node>>) -> Vec<Arc<Peer>> {
        self.initiations.lock().retain(|key, _| node(key).is_some());
        let mut gone = Vec::new();
        self.live.write().retain(|key, peer| match node(key) {
            Some(node) => {
                peer.set_node(node);
                true
            }
            None => {
                gone.push(peer.clone());
                false
            }
        });
        for peer in &gone {
            let mut session = peer.session.lock();
            session.tunn.reset();
            self.forget_indices(peer, &mut session, |_| false);
        }
        gone
    }

    /// Starts over with a new key: all sessions end.
    pub(crate) fn set_key(&self, key: &NodePrivate) {
        let mut identity = self.identity.write();
        *identity = Identity::new(key);
        self.initiations.lock().clear();
        for peer in self.live() {
            let mut session = peer.session.lock();
            session.tunn = self.tunnel(&identity, &peer.key);
            session.waiting = false;
            self.forget_indices(&peer, &mut session, |_| false);
        }
    }

    /// To be called 4 times a second while somebody is live: gotatun measures time only here. Hands over what
    /// has to be sent, and forgets peers whose session has ended and that nobody else holds.
    pub(crate) fn tick(&self, mut send: impl FnMut(&Arc<Peer>, Bytes)) {
        // Those without a session too: else a new one would seem to be as old as the last look at the clock.
        for peer in self.live() {
            let mut session = peer.session.lock();
            match session.tunn.update_timers() {
                Ok(None) => {}
                Ok(Some(message)) => {
                    let packet = self.note(&peer, &mut session, message);
                    drop(session);
                    send(&peer, packet);
                }
                Err(_) => {
                    session.waiting = false;
                    peer.set_idle();
                    self.forget_indices(&peer, &mut session, |i| self.table.in_use(i));
                }
            }
        }
        self.live
            .write()
            .retain(|_, peer| peer.is_active() || Arc::strong_count(peer) > 1);
    }

    /// Whether [`Self::tick`] has anything to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.live.read().is_empty()
    }

    /// When the newest handshake initiation left. gotatun stamps them with the wall clock.
    pub(crate) fn newest_initiation(&self) -> Option<SystemTime> {
        *self.newest_initiation.lock()
    }

    fn by_index(&self, index: u32) -> Option<Arc<Peer>> {
        self.by_index.read().get(&index).cloned()
    }

    /// Remembers the session index of an outgoing handshake message.
    fn note(&self, peer: &Arc<Peer>, session: &mut Session, message: WgKind) -> Bytes {
        let index = match &message {
            WgKind::HandshakeInit(m) => {
                *self.newest_initiation.lock() = Some(SystemTime::now());
                Some(m.sender_idx.get())
            }
            WgKind::HandshakeResp(m) => Some(m.sender_idx.get()),
            WgKind::Data(_) | WgKind::CookieReply(_) => None,
        };
        if let Some(index) = index {
            self.forget_indices(peer, session, |i| self.table.in_use(i));
            session.indices.push(index);
            self.by_index.write().insert(index, peer.clone());
        }
        datagram(message.into())
    }

    fn forget_indices(&self, peer: &Arc<Peer>, session: &mut Session, keep: impl Fn(u32) -> bool) {
        let mut by_index = self.by_index.write();
        session.indices.retain(|&index| {
            let keep = keep(index);
            if !keep && by_index.get(&index).is_some_and(|p| Arc::ptr_eq(p, peer)) {
                by_index.remove(&index);
            }
            keep
        });
    }
}

/// The packet's own memory.
fn datagram(mut packet: Packet) -> Bytes {
    std::mem::take(packet.buf_mut()).freeze()
}

impl From<WireGuardError> for Rejected {
    fn from(error: WireGuardError) -> Self {
        match error {
            WireGuardError::DuplicateCounter
            | WireGuardError::InvalidCounter
            | WireGuardError::WrongTai64nTimestamp => Self::Replayed,
            WireGuardError::NoCurrentSession
            | WireGuardError::WrongIndex
            | WireGuardError::ConnectionExpired
            | WireGuardError::UnexpectedPacket => Self::Unknown,
            _ => Self::Invalid,
        }
    }
}

#[cfg(test)]
mod tests;
