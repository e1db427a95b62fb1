//! How many handshake messages are computed: each costs some Diffie-Hellmans, and the address that it comes from may be
//! a lie (Go: wireguard-go's `device/cookie.go`, `ratelimiter`). A relay vouches for who sends, so that its peers prove
//! nothing, and come in while strangers flood the UDP port.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use gotatun::{
    noise::{TunnResult, rate_limiter::RateLimiter},
    packet::{Packet, WgKind},
    x25519::PublicKey,
};
use parking_lot::Mutex;

use super::Rejected;
use crate::key::NodePublic;

/// Counts are of one.
const SECOND: Duration = Duration::from_secs(1);
/// Handshakes that are computed for all addresses together before each has to return a cookie first; by relays, at all.
pub(super) const LOAD: u32 = 1_000;
/// Handshakes that an address with a cookie gets computed meanwhile.
const PER_ADDRESS: u32 = 50;
/// Handshakes that one peer gets computed by relays. It has reason for one in 5 s, and some more when both sides start anew.
const PER_PEER: u32 = 10;
/// Handshakes that are looked at meanwhile: gotatun counts them by source, and anyone can invent sources.
const LOOKED_AT: u32 = 50_000;

/// Where a datagram came from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// Said to be this address.
    Udp(SocketAddr),
    /// By a relay, which has checked that this is the sender.
    Relay(NodePublic),
}

/// Who gets a handshake computed.
pub(super) struct Limiter {
    /// Lets all pass that know our key.
    open: Arc<RateLimiter>,
    /// Asks everyone for a cookie.
    closed: RateLimiter,
    counts: Mutex<Counts>,
}

struct Counts {
    since: Instant,
    computed: u32,
    looked_at: u32,
    with_cookie: AHashMap<IpAddr, u32>,
    relayed: u32,
    relayed_of: AHashMap<NodePublic, u32>,
}

impl Counts {
    fn new(since: Instant) -> Self {
        Self {
            since,
            computed: 0,
            looked_at: 0,
            with_cookie: AHashMap::new(),
            relayed: 0,
            relayed_of: AHashMap::new(),
        }
    }
}

/// What may be taken in, or a cookie for an address.
pub(super) enum Verified {
    Message(WgKind),
    Cookie(SocketAddr, Packet),
}

impl Limiter {
    pub(super) fn new(public: &PublicKey) -> Self {
        Self {
            open: Arc::new(RateLimiter::new(public, u64::MAX)),
            closed: RateLimiter::new(public, 0),
            counts: Mutex::new(Counts::new(Instant::now())),
        }
    }

    /// What gotatun's tunnels want to have.
    pub(super) fn of_tunnels(&self) -> Arc<RateLimiter> {
        self.open.clone()
    }

    /// Whether a datagram is WireGuard, a handshake in it is for us, and its source's turn has come. `knows` says who may
    /// talk to us.
    pub(super) fn verify(
        &self,
        now: Instant,
        source: Source,
        packet: Packet,
        knows: impl FnOnce(&NodePublic) -> bool,
    ) -> Result<Verified, Rejected> {
        // Initiations and responses; all else is for a session, which is looked up by its index.
        if !matches!(packet.first(), Some(1 | 2)) {
            return self.pass(packet);
        }
        let mut counts = self.counts.lock();
        if now.saturating_duration_since(counts.since) >= SECOND {
            *counts = Counts::new(now);
            self.open.try_reset_count();
            self.closed.try_reset_count();
        }
        match source {
            Source::Udp(from) => self.verify_from(from, packet, &mut counts),
            Source::Relay(key) if !knows(&key) => Err(Rejected::Unknown),
            Source::Relay(key) => self.verify_relayed(key, packet, &mut counts),
        }
    }

    fn verify_relayed(
        &self,
        key: NodePublic,
        packet: Packet,
        counts: &mut Counts,
    ) -> Result<Verified, Rejected> {
        let of_peer = counts.relayed_of.entry(key).or_default();
        if counts.relayed == LOAD || *of_peer == PER_PEER {
            return Err(Rejected::TooMany);
        }
        let message = self.pass(packet)?;
        counts.relayed += 1;
        *of_peer += 1;
        Ok(message)
    }

    fn verify_from(
        &self,
        source: SocketAddr,
        packet: Packet,
        counts: &mut Counts,
    ) -> Result<Verified, Rejected> {
        if counts.computed < LOAD {
            let message = self.pass(packet)?;
            counts.computed += 1;
            return Ok(message);
        }
        if counts.looked_at == LOOKED_AT {
            return Err(Rejected::TooMany);
        }
        let verified = match self.closed.verify_packet(source, packet) {
            Ok(message) => Verified::Message(message),
            Err(TunnResult::WriteToNetwork(cookie)) => Verified::Cookie(source, cookie.into()),
            Err(_) => return Err(Rejected::Invalid),
        };
        counts.looked_at += 1;
        if matches!(verified, Verified::Message(_)) {
            let computed = counts.with_cookie.entry(network(source.ip())).or_default();
            if *computed == PER_ADDRESS {
                return Err(Rejected::TooMany);
            }
            *computed += 1;
        }
        Ok(verified)
    }

    fn pass(&self, packet: Packet) -> Result<Verified, Rejected> {
        // It has no bound, so that the address means nothing to it.
        let anywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        match self.open.verify_packet(anywhere, packet) {
            Ok(message) => Ok(Verified::Message(message)),
            Err(_) => Err(Rejected::Invalid),
        }
    }
}

/// All that one sender on the internet may have to itself.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use gotatun::{
        noise::{Tunn, index_table::IndexTable},
        x25519::StaticSecret,
    };

    use super::*;

    /// Somebody who wants to talk to us.
    struct Initiator(Tunn);

    impl Initiator {
        fn to(us: &PublicKey) -> Self {
            let secret = StaticSecret::from([7; 32]);
            let unused = Arc::new(RateLimiter::new(us, 0));
            Self(Tunn::new(
                secret,
                *us,
                None,
                None,
                IndexTable::from_os_rng(),
                unused,
            ))
        }

        fn initiation(&mut self) -> BytesMut {
            let initiation = self.0.format_handshake_initiation(true).unwrap();
            BytesMut::from(initiation.into_bytes().as_ref())
        }

        fn take(&mut self, cookie: Packet) {
            let taken = self.0.handle_incoming_packet(cookie.try_into_wg().unwrap());
            assert!(matches!(taken, TunnResult::Done));
        }
    }

    fn us() -> (PublicKey, Limiter) {
        let public = PublicKey::from(&StaticSecret::from([8; 32]));
        (public, Limiter::new(&public))
    }

    fn address(i: u32) -> Source {
        Source::Udp(((0x0a00_0000 + i).to_be_bytes(), 41_641).into())
    }

    fn verify(
        limiter: &Limiter,
        now: Instant,
        source: Source,
        packet: &BytesMut,
    ) -> Result<Verified, Rejected> {
        limiter.verify(now, source, Packet::from_bytes(packet.clone()), |_| true)
    }

    #[derive(Default)]
    struct Outcomes {
        computed: u32,
        cookies: u32,
        dropped: u32,
    }

    impl Outcomes {
        fn count(&mut self, verified: Result<Verified, Rejected>) {
            match verified {
                Ok(Verified::Message(_)) => self.computed += 1,
                Ok(Verified::Cookie(..)) => self.cookies += 1,
                Err(rejected) => {
                    assert_eq!(rejected, Rejected::TooMany);
                    self.dropped += 1;
                }
            }
        }
    }

    #[test]
    fn made_up_addresses_cost_a_bounded_number_of_handshakes_and_memory_a_second() {
        let (public, limiter) = us();
        let captured = Initiator::to(&public).initiation();
        let start = Instant::now();
        let flood = |now, count| {
            let mut outcomes = Outcomes::default();
            for i in 0..count {
                outcomes.count(verify(&limiter, now, address(i), &captured));
            }
            (outcomes.computed, outcomes.cookies, outcomes.dropped)
        };
        assert_eq!(flood(start, LOAD + LOOKED_AT + 500), (LOAD, LOOKED_AT, 500));
        assert_eq!(flood(start, 500), (0, 0, 500));
        // Nobody else has to do anything for the counts to begin anew.
        assert_eq!(flood(start + SECOND, LOAD + 500), (LOAD, 500, 0));
    }

    #[test]
    fn a_cookie_is_good_for_some_handshakes_of_its_owner() {
        let (public, limiter) = us();
        let (mut honest, mut flood) = (Initiator::to(&public), Initiator::to(&public));
        let captured = flood.initiation();
        let now = Instant::now();
        let verify = |from, packet: &BytesMut| verify(&limiter, now, from, packet);
        for i in 0..LOAD {
            assert!(matches!(verify(address(i), &captured), Ok(Verified::Message(_))));
        }
        let honest_one = Source::Udp("[2001:db8::1]:41641".parse().unwrap());
        let Ok(Verified::Cookie(_, cookie)) = verify(honest_one, &honest.initiation()) else {
            panic!("no cookie was asked for")
        };
        honest.take(cookie);
        let with_cookie = honest.initiation();
        let mut outcomes = Outcomes::default();
        for i in 0..PER_ADDRESS + 5 {
            outcomes.count(verify(address(i), &captured));
            outcomes.count(verify(honest_one, &with_cookie));
        }
        let Outcomes {
            computed,
            cookies,
            dropped,
        } = outcomes;
        assert_eq!((computed, cookies, dropped), (PER_ADDRESS, PER_ADDRESS + 5, 5));
    }

    #[test]
    fn peers_by_relay_get_handshakes_computed_beside_a_flood_and_each_some() {
        let (public, limiter) = us();
        let initiation = Initiator::to(&public).initiation();
        let now = Instant::now();
        for i in 0..LOAD + 500 {
            drop(verify(&limiter, now, address(i), &initiation));
        }
        let flood = |key| {
            let mut outcomes = Outcomes::default();
            for _ in 0..2 * PER_PEER {
                outcomes.count(verify(&limiter, now, Source::Relay(key), &initiation));
            }
            (outcomes.computed, outcomes.cookies)
        };
        let peer = |id: u32| NodePublic::from_bytes([id as u8; 32]);
        for id in 0..LOAD / PER_PEER {
            assert_eq!(flood(peer(id)), (PER_PEER, 0));
        }
        assert_eq!(flood(peer(200)), (0, 0), "a relay may lie");
        let later = now + SECOND;
        let taken = verify(&limiter, later, Source::Relay(peer(200)), &initiation);
        assert!(matches!(taken, Ok(Verified::Message(_))));
    }

    #[test]
    fn strangers_by_relay_get_nothing_computed() {
        let (public, limiter) = us();
        let initiation = Initiator::to(&public).initiation();
        let stranger = Source::Relay(NodePublic::from_bytes([1; 32]));
        let taken = limiter.verify(Instant::now(), stranger, Packet::from_bytes(initiation), |_| {
            false
        });
        assert!(matches!(taken, Err(Rejected::Unknown)));
    }

    #[test]
    fn what_is_no_handshake_for_us_counts_for_nothing() {
        let (public, limiter) = us();
        let other = PublicKey::from(&StaticSecret::from([9; 32]));
        let foreign = Initiator::to(&other).initiation();
        let now = Instant::now();
        for i in 0..2 * LOAD {
            let taken = verify(&limiter, now, address(i), &foreign);
            assert!(matches!(taken, Err(Rejected::Invalid)));
        }
        let ours = Initiator::to(&public).initiation();
        let taken = verify(&limiter, now, address(0), &ours);
        assert!(matches!(taken, Ok(Verified::Message(_))));
    }
}
