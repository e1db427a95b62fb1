//! The direct path to one peer (Go: `wgengine/magicsock/endpoint.go`).

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    bucket::TokenBucket,
    candidates::Candidates,
    relays::ReplyRoute,
    score::{self, Measured},
};
use crate::{
    derp_map::RegionId,
    disco::TxId,
    key::{DiscoPublic, NodePublic},
};

/// A pong proves a path for this long, so that a dead one is left within 6 s (Go: 6.5 s).
pub(super) const TRUST: Duration = Duration::from_millis(5500);
const HEARTBEAT: Duration = Duration::from_secs(3);
/// A heartbeat without an answer is repeated after this time: a lost datagram doesn't cost the trust.
const REPEAT: Duration = Duration::from_secs(1);
/// Heartbeats go on for this long after the last packet that we sent.
pub(super) const ACTIVE: Duration = Duration::from_secs(45);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// No candidate is pinged more often than this by discovery.
const DISCOVERY: Duration = Duration::from_secs(5);
/// How often a better path is looked for while there is one that isn't perfect.
const UPGRADE: Duration = Duration::from_secs(60);
const GOOD_ENOUGH: Duration = Duration::from_millis(5);
/// After as many lost pings in a row packets are no longer sent there beside the relay.
const MAX_LOST: u8 = 5;
const MAX_PINGS: usize = 64;
/// Transactions of the peer's pings that are remembered, against replays.
const MAX_SEEN: usize = 64;

/// What a peer's state wants to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Ping { to: SocketAddr, tx: TxId },
    CallMeMaybe,
}

/// The path that pongs came back on.
#[derive(Debug, Clone, Copy)]
struct Best {
    path: Measured,
    trusted_until: Instant,
    lost: u8,
}

/// A ping whose pong may still come.
#[derive(Debug, Clone, Copy)]
struct Sent {
    tx: TxId,
    to: SocketAddr,
    at: Instant,
}

/// All that is known of the ways to a peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) key: NodePublic,
    /// `None`: a WireGuard-only peer. It is believed to be where its packets come from.
    pub(super) disco: Option<DiscoPublic>,
    /// The region where the peer listens.
    pub(super) home: Option<RegionId>,
    /// The region that its packets last came through.
    pub(super) reply: Option<ReplyRoute>,
    /// Under which its next deadline is filed.
    pub(super) filed: Option<Instant>,
    /// What was last said about its path.
    pub(super) announced: super::Path,
    candidates: Candidates,
    best: Option<Best>,
    /// In the order of sending.
    pings: VecDeque<Sent>,
    seen: VecDeque<TxId>,
    last_send: Option<Instant>,
    discovered: Option<Instant>,
    heartbeat: Option<Instant>,
    repeat: Option<Instant>,
    pong_limit: TokenBucket,
    ping_limit: TokenBucket,
    call_limit: TokenBucket,
}

impl Peer {
    pub(super) fn new(key: NodePublic, now: Instant) -> Self {
        Self {
            key,
            disco: None,
            home: None,
            reply: None,
            filed: None,
            announced: super::Path::None,
            candidates: Candidates::default(),
            best: None,
            pings: VecDeque::new(),
            seen: VecDeque::new(),
            last_send: None,
            discovered: None,
            heartbeat: None,
            repeat: None,
            pong_limit: TokenBucket::new(20.0, 64.0, now),
            ping_limit: TokenBucket::new(5.0, 32.0, now),
            call_limit: TokenBucket::new(0.5, 4.0, now),
        }
    }

    /// What control says of the peer.
    pub(super) fn update(&mut self, node: &crate::netmap::Node) {
        self.home = node.home_derp;
        if self.disco != node.disco {
            // It has started anew: nothing that was measured holds any more.
            self.disco = node.disco;
            self.best = None;
            self.discovered = None;
            self.pings.clear();
            self.seen.clear();
            self.candidates.forget_heard();
        }
        if self.candidates.set_netmap(&node.endpoints) {
            self.discovered = None;
        }
    }

    pub(super) fn last_send(&self) -> Option<Instant> {
        self.last_send
    }

    /// Our own network has changed: what was measured has to be measured again.
    pub(super) fn distrust(&mut self, now: Instant) {
        if let Some(best) = &mut self.best {
            best.trusted_until = now;
        }
        self.discovered = None;
    }

    /// Is there more to it than what control says?
    pub(super) fn is_in_use(&self) -> bool {
        self.filed.is_some() || self.announced != super::Path::None || self.best.is_some()
    }

    /// We are about to send the peer a packet.
    pub(super) fn on_send(&mut self, now: Instant, wants: &mut Vec<Want>) {
        self.last_send = Some(now);
        if self.disco.is_none() {
            return;
        }
        self.heartbeat.get_or_insert(now + HEARTBEAT);
        if self.trusted(now).is_none() {
            self.discover(now, wants);
        }
    }

    /// A ping of the peer has arrived, from an address or (`None`) over a relay. `true`: answer it.
    pub(super) fn on_ping(
        &mut self,
        now: Instant,
        from: Option<SocketAddr>,
        tx: TxId,
        wants: &mut Vec<Want>,
    ) -> bool {
        // Every ping has a transaction of its own, so a second one is a copy, maybe sent by somebody else.
        if self.seen.contains(&tx) || !self.pong_limit.take(now, 1.0) {
            return false;
        }
        if self.seen.len() == MAX_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(tx);
        if let Some(from) = from {
            self.candidates.learn(now, from);
            self.ping_back(now, from, wants);
        }
        true
    }

    /// The peer's packet came from here and it is authentic.
    pub(super) fn on_wireguard(&mut self, now: Instant, from: SocketAddr, wants: &mut Vec<Want>) {
        if self.best.is_some_and(|best| best.path.addr == from) {
            return;
        }
        if self.disco.is_none() {
            let latency = Duration::ZERO;
            self.best = Some(Best {
                path: Measured { addr: from, latency },
                trusted_until: now,
                lost: 0,
            });
        } else if self.candidates.learn(now, from) {
            self.ping_back(now, from, wants);
        }
    }

    /// Our way to a peer often opens only after its packet has come in: use it at once, rather than with the
    /// next round of discovery.
    fn ping_back(&mut self, now: Instant, to: SocketAddr, wants: &mut Vec<Want>) {
        let pinged = self.candidates.last_ping(to);
        let due = match self.trusted(now) {
            None => pinged.is_none_or(|at| now.saturating_duration_since(at) >= DISCOVERY),
            Some(best) => best != to && pinged.is_none(),
        };
        if due && self.ping_limit.take(now, 1.0) {
            self.ping(now, to, wants);
        }
    }

    /// A pong of the peer has arrived by UDP. What counts is where its ping went: that way works.
    /// `false`: it answers nothing that we sent.
    pub(super) fn on_pong(&mut self, now: Instant, tx: TxId) -> bool {
        let Some(position) = self.pings.iter().position(|sent| sent.tx == tx) else {
            return false;
        };
        let Some(sent) = self.pings.remove(position) else {
            return false;
        };
        let path = Measured {
            addr: sent.to,
            latency: now.saturating_duration_since(sent.at),
        };
        let keep = self.best.is_some_and(|best| {
            best.path.addr != path.addr && now < best.trusted_until && !score::is_better(&path, &best.path)
        });
        if !keep {
            self.best = Some(Best {
                path,
                trusted_until: now + TRUST,
                lost: 0,
            });
            self.repeat = None;
        }
        true
    }

    /// The peer has pinged us and says where it can be pinged: its firewall is open for us now.
    pub(super) fn on_call_me_maybe(&mut self, now: Instant, addrs: &[SocketAddr], wants: &mut Vec<Want>) {
        if !self.call_limit.take(now, 1.0) {
            return;
        }
        self.candidates.set_call_me_maybe(addrs);
        for addr in addrs {
            if self.candidates.contains(*addr) && self.ping_limit.take(now, 1.0) {
                self.ping(now, *addr, wants);
            }
        }
    }

    /// Time has passed.
    pub(super) fn on_timeout(&mut self, now: Instant, wants: &mut Vec<Want>) {
        while let Some(sent) = self.pings.pop_front_if(|sent| now >= sent.at + PING_TIMEOUT) {
            self.on_lost(now, sent.to);
        }
        if self.heartbeat.is_some_and(|at| now >= at) {
            let active = self
                .last_send
                .is_some_and(|at| now.saturating_duration_since(at) < ACTIVE);
            self.heartbeat = active.then_some(now + HEARTBEAT);
            if active {
                self.beat(now, wants);
            }
        }
        if self.repeat.take_if(|at| now >= *at).is_some()
            && let Some(best) = self.trusted(now)
        {
            self.ping(now, best, wants);
            self.repeat = Some(now + REPEAT);
        }
    }

    fn beat(&mut self, now: Instant, wants: &mut Vec<Want>) {
        let Some(best) = self.best else {
            return self.discover(now, wants);
        };
        self.ping(now, best.path.addr, wants);
        self.repeat = Some(now + REPEAT);
        let looked = self
            .discovered
            .is_some_and(|at| now.saturating_duration_since(at) < UPGRADE);
        if now >= best.trusted_until || (best.path.latency > GOOD_ENOUGH && !looked) {
            self.discover(now, wants);
        }
    }

    fn on_lost(&mut self, now: Instant, to: SocketAddr) {
        if let Some(best) = &mut self.best
            && best.path.addr == to
        {
            best.lost = best.lost.saturating_add(1);
            if best.lost >= MAX_LOST && now >= best.trusted_until {
                self.best = None;
            }
        }
    }

    /// Pings whatever may be the peer and asks it to do the same.
    fn discover(&mut self, now: Instant, wants: &mut Vec<Want>) {
        let recent = |at: Instant| now.saturating_duration_since(at) < DISCOVERY;
        if self.discovered.is_some_and(recent) {
            return;
        }
        self.discovered = Some(now);
        for addr in self.candidates.unpinged_since(now.checked_sub(DISCOVERY)) {
            self.ping(now, addr, wants);
        }
        wants.push(Want::CallMeMaybe);
    }

    fn ping(&mut self, now: Instant, to: SocketAddr, wants: &mut Vec<Want>) {
        if self.pings.len() >= MAX_PINGS {
            return;
        }
        let Some(tx) = super::random() else { return };
        self.candidates.pinged(now, to);
        self.pings.push_back(Sent { tx, to, at: now });
        wants.push(Want::Ping { to, tx });
    }

    /// The address to send to, proven or not.
    pub(super) fn udp(&self) -> Option<SocketAddr> {
        match self.best {
            Some(best) => Some(best.path.addr),
            None if self.disco.is_none() => self.candidates.first(),
            None => None,
        }
    }

    /// Where the peer may be.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.candidates.all()
    }

    /// The address that the peer has answered from within the last seconds.
    pub(super) fn trusted(&self, now: Instant) -> Option<SocketAddr> {
        let best = self.best.filter(|best| now < best.trusted_until)?;
        Some(best.path.addr)
    }

    /// When [`Self::on_timeout`] or the announcement of the path has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let lost = self.pings.front().map(|sent| sent.at + PING_TIMEOUT);
        let distrusted = match (self.announced, self.best) {
            (super::Path::Direct(_), Some(best)) if self.disco.is_some() => Some(best.trusted_until),
            _ => None,
        };
        let deadlines = [lost, distrusted, self.heartbeat, self.repeat];
        deadlines.into_iter().flatten().min()
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.candidates.len() + self.pings.len() + self.seen.len()
    }
}
