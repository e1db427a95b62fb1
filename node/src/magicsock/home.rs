//! Which region is ours: where peers find us (Go: `addReportHistoryAndSetPreferredDERP` in `net/netcheck`).

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    derp_map::{DerpMap, DerpRegion, RegionId},
    key::NodePublic,
};

/// How long a measurement counts.
const HISTORY: Duration = Duration::from_secs(5 * 60);
/// Less than this isn't worth a change.
const MIN_GAIN: Duration = Duration::from_millis(10);

/// Round-trip times by region.
pub(super) type Latencies = BTreeMap<RegionId, Duration>;

/// The measurements of the last minutes.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(Instant, Latencies)>);

impl History {
    pub(super) fn add(&mut self, now: Instant, latest: Latencies) {
        self.0.push_back((now, latest));
        while self.0.pop_front_if(|(at, _)| now > *at + HISTORY).is_some() {}
    }

    /// The best of each region: one slow answer says little about a region.
    pub(super) fn best(&self) -> Latencies {
        let mut best = Latencies::new();
        for (region, latency) in self.0.iter().flat_map(|(_, latencies)| latencies) {
            let entry = best.entry(*region).or_insert(*latency);
            *entry = (*entry).min(*latency);
        }
        best
    }
}

/// The home after a measurement, by `latest` (who answers now) and `recent` (the best of the last minutes).
/// `measured` is the present home if it was chosen by measurement, `heard`: packets come in through it.
/// `None`: nothing was measured.
pub(super) fn choose(
    map: &DerpMap,
    measured: Option<RegionId>,
    heard: bool,
    latest: &Latencies,
    recent: &Latencies,
) -> Option<RegionId> {
    let scaled = |region: RegionId, latency: Duration| {
        let score = map.region_score.get(&region).copied().unwrap_or(1.0);
        if score > 0.0 && score.is_finite() {
            latency.mul_f64(score.min(1000.0))
        } else {
            latency
        }
    };
    let eligible = |id: &RegionId| map.regions.get(id).is_some_and(is_eligible);
    let (nearest, best) = latest
        .iter()
        .filter(|(region, _)| eligible(region))
        .map(|(region, latency)| (*region, scaled(*region, *recent.get(region).unwrap_or(latency))))
        .min_by_key(|(_, latency)| *latency)?;

    let Some(old) = measured.filter(|old| *old != nearest && map.regions.contains_key(old)) else {
        return Some(nearest);
    };
    let stay = match latest.get(&old).map(|latency| scaled(old, *latency)) {
        Some(latency) => latency.saturating_sub(best) < MIN_GAIN || best > latency * 2 / 3,
        None => heard,
    };
    Some(if stay { old } else { nearest })
}

/// A home when nothing could be measured: without one peers can't reach us at all. The same node picks the
/// same region every time, different nodes spread. After one that can't be reached comes the next of the map.
pub(super) fn fallback(map: &DerpMap, node: &NodePublic, away: Option<RegionId>) -> Option<RegionId> {
    let usable = |region: &&DerpRegion| region.nodes.iter().any(|n| !n.stun_only);
    let of = |filter: fn(&DerpRegion) -> bool| -> Vec<RegionId> {
        let regions = map.regions.iter().filter(|(_, r)| usable(r) && filter(r));
        regions.map(|(id, _)| *id).collect()
    };
    let regions = Some(of(is_eligible))
        .filter(|regions| !regions.is_empty())
        .unwrap_or_else(|| of(|_| true));
    let seed = node
        .as_bytes()
        .iter()
        .fold(0u64, |seed, byte| seed.wrapping_mul(31) + u64::from(*byte));
    let position = match away.and_then(|away| regions.iter().position(|id| *id == away)) {
        Some(away) => away as u64 + 1,
        None => seed,
    };
    let position = position.checked_rem(regions.len() as u64)?;
    regions.get(position as usize).copied()
}

/// May this region be home?
pub(super) fn is_eligible(region: &DerpRegion) -> bool {
    !region.avoid && !region.no_measure_no_home && region.nodes.iter().any(|n| !n.stun_only)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derp_map::DerpNode;

    fn map(ids: &[RegionId]) -> DerpMap {
        let region = |id| DerpRegion {
            id,
            nodes: vec![DerpNode::default()],
            ..DerpRegion::default()
        };
        DerpMap {
            regions: ids.iter().map(|id| (*id, region(*id))).collect(),
            region_score: BTreeMap::new(),
        }
    }

    fn millis(rows: &[(RegionId, u64)]) -> Latencies {
        rows.iter()
            .map(|(id, ms)| (*id, Duration::from_millis(*ms)))
            .collect()
    }

    #[test]
    fn home_changes_only_for_a_real_gain() {
        let map = map(&[1, 2]);
        type Row<'a> = (Option<RegionId>, bool, &'a [(RegionId, u64)], Option<RegionId>);
        let rows: [Row<'_>; 9] = [
            // Nothing measured, nothing chosen.
            (Some(1), true, &[], None),
            (None, false, &[(1, 50), (2, 20)], Some(2)),
            // Below 10 ms, or above two thirds: stay.
            (Some(1), false, &[(1, 25), (2, 16)], Some(1)),
            (Some(1), false, &[(1, 100), (2, 70)], Some(1)),
            (Some(1), false, &[(1, 100), (2, 60)], Some(2)),
            // The old one doesn't answer: stay only if it is heard.
            (Some(1), false, &[(2, 60)], Some(2)),
            (Some(1), true, &[(2, 60)], Some(1)),
            (Some(2), false, &[(1, 100), (2, 60)], Some(2)),
            // A home that the map no longer has.
            (Some(9), true, &[(1, 100)], Some(1)),
        ];
        for (old, heard, latest, home) in rows {
            let latest = millis(latest);
            assert_eq!(
                choose(&map, old, heard, &latest, &latest),
                home,
                "{old:?} {heard} {latest:?}"
            );
        }
    }

    #[test]
    fn scores_avoidance_and_history_count() {
        let mut map = map(&[1, 2, 3]);
        let latest = millis(&[(1, 30), (2, 20), (3, 10)]);
        map.regions.get_mut(&3).unwrap().avoid = true;
        assert_eq!(choose(&map, None, false, &latest, &latest), Some(2));
        map.region_score.insert(1, 0.5);
        assert_eq!(choose(&map, None, false, &latest, &latest), Some(1));
        map.region_score.insert(1, f64::NAN);
        assert_eq!(choose(&map, None, false, &latest, &latest), Some(2));

        let (mut history, now) = (History::default(), Instant::now());
        history.add(now, millis(&[(1, 5)]));
        history.add(now + Duration::from_secs(200), latest.clone());
        assert_eq!(choose(&map, None, false, &latest, &history.best()), Some(1));
        history.add(now + Duration::from_secs(301), latest.clone());
        assert_eq!(history.best(), latest);
    }

    #[test]
    fn there_is_a_fallback_as_long_as_there_is_a_relay() {
        let mut map = map(&[1, 2, 3]);
        let key = |byte| NodePublic::from_bytes([byte; 32]);
        let picked: std::collections::BTreeSet<_> =
            (0..50).filter_map(|i| fallback(&map, &key(i), None)).collect();
        assert_eq!(picked.len(), 3);
        assert_eq!(fallback(&map, &key(5), None), fallback(&map, &key(5), None));
        // Whichever are away, each gets its turn.
        for (away, next) in [(1, 2), (2, 3), (3, 1)] {
            assert_eq!(fallback(&map, &key(5), Some(away)), Some(next));
        }
        map.regions.get_mut(&1).unwrap().nodes[0].stun_only = true;
        map.regions.get_mut(&2).unwrap().no_measure_no_home = true;
        assert!((0..50).all(|i| fallback(&map, &key(i), Some(3)) == Some(3)));
        map.regions.get_mut(&3).unwrap().avoid = true;
        assert!((0..50).all(|i| matches!(fallback(&map, &key(i), None), Some(2 | 3))));
        assert_eq!(fallback(&DerpMap::default(), &key(1), None), None);
    }
}
