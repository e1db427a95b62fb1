//! Where a peer may be reached directly: what is worth a ping.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// Addresses that are taken over from control, and as many from the peer's own word.
const MAX_TOLD: usize = 32;
/// Sources of the peer's packets that are remembered.
const MAX_LEARNED: usize = 16;

/// Where we know an address from. One address may come from several sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Origin {
    netmap: bool,
    call_me_maybe: bool,
    learned: Option<Instant>,
}

/// An address and what we did about it.
#[derive(Debug, Clone)]
struct Candidate {
    addr: SocketAddr,
    origin: Origin,
    pinged: Option<Instant>,
}

/// All addresses of a peer, bounded whatever the peer says and sends.
#[derive(Debug, Default)]
pub(super) struct Candidates(Vec<Candidate>);

impl Candidates {
    /// Control's list. `true` when it holds something new.
    pub(super) fn set_netmap(&mut self, addrs: &[SocketAddr]) -> bool {
        self.replace(addrs, |origin| &mut origin.netmap)
    }

    /// The list of the peer's newest call-me-maybe.
    pub(super) fn set_call_me_maybe(&mut self, addrs: &[SocketAddr]) {
        self.replace(addrs, |origin| &mut origin.call_me_maybe);
    }

    fn replace(&mut self, addrs: &[SocketAddr], told: fn(&mut Origin) -> &mut bool) -> bool {
        for candidate in &mut self.0 {
            *told(&mut candidate.origin) = false;
        }
        let before = self.0.len();
        for addr in addrs.iter().filter(|a| is_usable(a)).take(MAX_TOLD) {
            *told(&mut self.entry(*addr).origin) = true;
        }
        let grown = self.0.len() > before;
        self.0.retain(|c| c.origin != Origin::default());
        grown
    }

    /// An authentic packet of the peer came from here. `true` when that is new.
    pub(super) fn learn(&mut self, now: Instant, addr: SocketAddr) -> bool {
        if !is_usable(&addr) {
            return false;
        }
        let known = self.contains(addr);
        self.entry(addr).origin.learned = Some(now);
        let learned = self.0.iter().filter(|c| c.origin.learned.is_some());
        if learned.clone().count() > MAX_LEARNED
            && let Some(oldest) = learned.min_by_key(|c| c.origin.learned).map(|c| c.addr)
        {
            self.entry(oldest).origin.learned = None;
            self.0.retain(|c| c.origin != Origin::default());
        }
        !known
    }

    /// Forgets all but what control says: the peer has started anew.
    pub(super) fn forget_heard(&mut self) {
        self.0.retain_mut(|candidate| {
            candidate.origin.call_me_maybe = false;
            candidate.origin.learned = None;
            candidate.pinged = None;
            candidate.origin.netmap
        });
    }

    /// Those that were not pinged since `since`.
    pub(super) fn unpinged_since(&self, since: Option<Instant>) -> Vec<SocketAddr> {
        let due = |c: &&Candidate| c.pinged.is_none() || (since.is_some() && c.pinged <= since);
        self.0.iter().filter(due).map(|c| c.addr).collect()
    }

    pub(super) fn pinged(&mut self, now: Instant, addr: SocketAddr) {
        if let Some(candidate) = self.0.iter_mut().find(|c| c.addr == addr) {
            candidate.pinged = Some(now);
        }
    }

    /// When this address was pinged last.
    pub(super) fn last_ping(&self, addr: SocketAddr) -> Option<Instant> {
        self.0.iter().find(|c| c.addr == addr)?.pinged
    }

    pub(super) fn contains(&self, addr: SocketAddr) -> bool {
        self.0.iter().any(|c| c.addr == addr)
    }

    pub(super) fn all(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|c| c.addr).collect()
    }

    /// What control named first.
    pub(super) fn first(&self) -> Option<SocketAddr> {
        self.0.first().map(|c| c.addr)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn entry(&mut self, addr: SocketAddr) -> &mut Candidate {
        let position = self.0.iter().position(|c| c.addr == addr).unwrap_or_else(|| {
            self.0.push(Candidate {
                addr,
                origin: Origin::default(),
                pinged: None,
            });
            self.0.len() - 1
        });
        &mut self.0[position]
    }
}

/// Can this be a peer's socket, seen from here? A link-local IPv6 address means nothing without an interface.
fn is_usable(addr: &SocketAddr) -> bool {
    let ip = match addr.ip() {
        IpAddr::V4(v4) => !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
    };
    ip && addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    #[test]
    fn an_address_stays_as_long_as_one_side_names_it() {
        let (mut all, now) = (Candidates::default(), Instant::now());
        assert!(all.set_netmap(&[addr(1), addr(2)]));
        all.set_call_me_maybe(&[addr(2), addr(3)]);
        assert!(!all.set_netmap(&[addr(1)]));
        assert!(all.contains(addr(2)));
        all.set_call_me_maybe(&[]);
        assert!(!all.contains(addr(2)) && !all.contains(addr(3)) && all.contains(addr(1)));
        assert!(all.learn(now, addr(4)));
        all.forget_heard();
        assert_eq!(all.unpinged_since(None), [addr(1)]);
    }

    #[test]
    fn nothing_that_a_peer_does_grows_it_without_bound() {
        let (mut all, now) = (Candidates::default(), Instant::now());
        let many: Vec<_> = (1..2000).map(addr).collect();
        all.set_netmap(&many);
        all.set_call_me_maybe(&many[500..]);
        for (i, a) in many[1000..].iter().enumerate() {
            all.learn(now + Duration::from_millis(i as u64), *a);
        }
        assert_eq!(all.len(), MAX_TOLD * 2 + MAX_LEARNED);
        assert!(all.contains(*many.last().unwrap()));
    }

    #[test]
    fn what_cannot_be_a_socket_of_a_peer_is_left_out() {
        let mut all = Candidates::default();
        let bad = [
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "192.0.2.1:0",
            "[fe80::1]:1",
            "[::]:1",
        ];
        let bad: Vec<SocketAddr> = bad.iter().map(|a| a.parse().unwrap()).collect();
        assert!(!all.set_netmap(&bad));
        assert!(!all.learn(Instant::now(), bad[0]));
        assert_eq!(all.len(), 0);
    }
}
