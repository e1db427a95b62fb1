//! Which relay regions are in use, and through which one a peer is answered (Go: `wgengine/magicsock/derp.go`).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::derp_map::{DerpMap, RegionId};

/// A region that isn't home is left after this long without a packet.
const IDLE: Duration = Duration::from_secs(60);

/// A peer's packet came through this region while it had this connection: as long as both last, the peer can
/// be answered there, wherever its own home is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyRoute {
    region: RegionId,
    connection: u64,
}

impl ReplyRoute {
    pub(super) fn region(self) -> RegionId {
        self.region
    }
}

#[derive(Debug)]
struct Use {
    last: Instant,
    heard: Option<Instant>,
    /// Since when there has been no connection, as far as was tried.
    away: Option<Instant>,
    connection: u64,
}

/// The regions that are to be connected to.
#[derive(Debug, Default)]
pub(super) struct Relays {
    home: Option<RegionId>,
    used: BTreeMap<RegionId, Use>,
    connections: u64,
    dirty: bool,
    published: Vec<RegionId>,
}

impl Relays {
    pub(super) fn home(&self) -> Option<RegionId> {
        self.home
    }

    /// The old home is left when it falls idle: peers that haven't heard of the new one still send there. How long the
    /// new one was away before counts no more: while none is reached each has its time.
    pub(super) fn set_home(&mut self, now: Instant, home: Option<RegionId>) {
        self.home = home;
        self.dirty = true;
        if let Some(home) = home {
            self.touch(now, home);
            if let Some(used) = self.used.get_mut(&home) {
                used.away = None;
            }
        }
    }

    /// Leaves the regions that the map no longer has.
    pub(super) fn keep_only(&mut self, map: &DerpMap) {
        self.used.retain(|region, _| map.regions.contains_key(region));
        self.home = self.home.filter(|home| map.regions.contains_key(home));
        self.dirty = true;
    }

    /// A packet goes to this region, which is connected to if it isn't yet.
    pub(super) fn touch(&mut self, now: Instant, region: RegionId) {
        if let Some(used) = self.used.get_mut(&region) {
            used.last = now;
        } else {
            self.connections += 1;
            let connection = self.connections;
            self.used.insert(
                region,
                Use {
                    last: now,
                    heard: None,
                    away: None,
                    connection,
                },
            );
            self.dirty = true;
        }
    }

    /// A packet came through this region; `None`: it has been left meanwhile.
    pub(super) fn on_packet(&mut self, now: Instant, region: RegionId) -> Option<ReplyRoute> {
        let used = self.used.get_mut(&region)?;
        used.last = now;
        used.heard = Some(now);
        let connection = used.connection;
        Some(ReplyRoute { region, connection })
    }

    /// There is a connection.
    pub(super) fn on_up(&mut self, region: RegionId) {
        if let Some(used) = self.used.get_mut(&region) {
            used.away = None;
        }
    }

    /// The connection is lost: the relay no longer knows who talks to whom here. Or one more could not be made.
    pub(super) fn on_down(&mut self, now: Instant, region: RegionId) {
        if let Some(used) = self.used.get_mut(&region) {
            self.connections += 1;
            used.connection = self.connections;
            used.away.get_or_insert(now);
        }
    }

    /// There has been no connection to home for this long.
    pub(super) fn home_is_away(&self, now: Instant, time: Duration) -> bool {
        let used = self.home.and_then(|home| self.used.get(&home));
        let away = used.and_then(|used| used.away);
        away.is_some_and(|since| now.saturating_duration_since(since) >= time)
    }

    /// A packet came through this region within the last `time`.
    pub(super) fn heard(&self, now: Instant, region: RegionId, time: Duration) -> bool {
        let heard = self.used.get(&region).and_then(|used| used.heard);
        heard.is_some_and(|at| now.saturating_duration_since(at) < time)
    }

    /// The region of a reply route that still holds.
    pub(super) fn valid(&self, route: Option<ReplyRoute>) -> Option<RegionId> {
        let route = route?;
        let used = self.used.get(&route.region)?;
        (used.connection == route.connection).then_some(route.region)
    }

    pub(super) fn on_timeout(&mut self, now: Instant) {
        let home = self.home;
        self.used
            .retain(|region, used| Some(*region) == home || now < used.last + IDLE);
        self.dirty = true;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let others = self.used.iter().filter(|(region, _)| Some(**region) != self.home);
        others.map(|(_, used)| used.last + IDLE).min()
    }

    /// The list to connect to, home first, if it has changed since it was last asked for. Before there is a
    /// home there is none, since its first entry would be taken for home.
    pub(super) fn changed(&mut self) -> Option<Vec<RegionId>> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let home = self.home?;
        let others = self.used.keys().copied().filter(|region| *region != home);
        let list: Vec<_> = std::iter::once(home).chain(others).collect();
        if list == self.published {
            return None;
        }
        self.published.clone_from(&list);
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_stays_and_others_go_when_idle() {
        let (mut relays, now) = (Relays::default(), Instant::now());
        relays.touch(now, 7);
        assert_eq!(relays.changed(), None);
        relays.set_home(now, Some(3));
        assert_eq!(relays.changed(), Some(vec![3, 7]));
        assert_eq!(relays.changed(), None);
        relays.on_packet(now + Duration::from_secs(10), 7);
        assert_eq!(relays.deadline(), Some(now + Duration::from_secs(70)));
        relays.on_timeout(now + Duration::from_secs(69));
        assert_eq!(relays.changed(), None);
        relays.on_timeout(now + Duration::from_secs(70));
        assert_eq!(relays.changed(), Some(vec![3]));
    }

    #[test]
    fn a_reply_route_ends_with_its_connection() {
        let (mut relays, now) = (Relays::default(), Instant::now());
        assert_eq!(relays.on_packet(now, 3), None);
        relays.set_home(now, Some(3));
        let route = relays.on_packet(now, 3);
        assert_eq!(relays.valid(route), Some(3));
        relays.on_down(now, 3);
        assert_eq!(relays.valid(route), None);
        let route = relays.on_packet(now, 3);
        assert_eq!(relays.valid(route), Some(3));
        relays.set_home(now, Some(4));
        assert_eq!(relays.valid(route), Some(3));
        relays.on_timeout(now + IDLE);
        assert_eq!(relays.valid(route), None);
    }
}
