//! A set of addresses as sorted, disjoint ranges.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;

/// A set of IPv4 and IPv6 addresses. Look-ups are binary searches and allocate nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    v4: Vec<RangeInclusive<u32>>,
    v6: Vec<RangeInclusive<u128>>,
}

impl Ranges {
    /// The addresses of all these networks.
    pub fn from_nets(nets: impl IntoIterator<Item = IpNet>) -> Self {
        nets.into_iter()
            .map(|net| net.network()..=net.broadcast())
            .collect()
    }

    /// Whether the address is in the set.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.overlaps_range(ip, ip)
    }

    /// Whether some address is in both sets.
    pub fn overlaps(&self, other: &Self) -> bool {
        let v4 = other
            .v4
            .iter()
            .any(|range| find(&self.v4, *range.start(), *range.end()));
        v4 || other
            .v6
            .iter()
            .any(|range| find(&self.v6, *range.start(), *range.end()))
    }

    /// Whether the set has addresses of this family.
    pub fn has_family(&self, v4: bool) -> bool {
        if v4 {
            !self.v4.is_empty()
        } else {
            !self.v6.is_empty()
        }
    }

    fn overlaps_range(&self, first: IpAddr, last: IpAddr) -> bool {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => find(&self.v4, first.into(), last.into()),
            (IpAddr::V6(first), IpAddr::V6(last)) => find(&self.v6, first.into(), last.into()),
            _ => false,
        }
    }
}

/// Ranges whose ends are of different families, or in the wrong order, hold nothing.
impl FromIterator<RangeInclusive<IpAddr>> for Ranges {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<IpAddr>>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            match range.into_inner() {
                (IpAddr::V4(a), IpAddr::V4(b)) if a <= b => set.v4.push(u32::from(a)..=b.into()),
                (IpAddr::V6(a), IpAddr::V6(b)) if a <= b => set.v6.push(u128::from(a)..=b.into()),
                _ => {}
            }
        }
        merge(&mut set.v4);
        merge(&mut set.v6);
        set
    }
}

/// Every address of both families.
pub(super) fn everything() -> [RangeInclusive<IpAddr>; 2] {
    [
        Ipv4Addr::UNSPECIFIED.into()..=Ipv4Addr::BROADCAST.into(),
        Ipv6Addr::UNSPECIFIED.into()..=Ipv6Addr::from(u128::MAX).into(),
    ]
}

fn find<T: Ord>(ranges: &[RangeInclusive<T>], first: T, last: T) -> bool {
    let at = ranges.partition_point(|range| *range.end() < first);
    ranges.get(at).is_some_and(|range| *range.start() <= last)
}

fn merge<T: Ord + Copy>(ranges: &mut Vec<RangeInclusive<T>>) {
    ranges.sort_unstable_by_key(|range| *range.start());
    ranges.dedup_by(|next, range| {
        let overlap = next.start() <= range.end();
        if overlap && next.end() > range.end() {
            *range = *range.start()..=*next.end();
        }
        overlap
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_its_ranges_hold(
            ranges in proptest::collection::vec((0_u32..300, 0_u32..300), 0..12),
            probes in proptest::collection::vec((0_u32..300, 0_u32..300), 20),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(a, b)| a.min(b)..=a.max(b)).collect();
            let v4 = |n: u32| IpAddr::from(Ipv4Addr::from(n));
            let set: Ranges = ranges.iter().map(|r| v4(*r.start())..=v4(*r.end())).collect();
            for (a, b) in probes {
                prop_assert_eq!(set.contains(v4(a)), ranges.iter().any(|r| r.contains(&a)));
                let (a, b) = (a.min(b), a.max(b));
                let other = [v4(a)..=v4(b)].into_iter().collect();
                let overlap = ranges.iter().any(|r| *r.start() <= b && a <= *r.end());
                prop_assert_eq!(set.overlaps(&other), overlap);
            }
        }
    }

    #[test]
    fn families_are_apart() {
        let set = Ranges::from_nets(["0.0.0.0/0".parse().unwrap()]);
        assert!(set.contains([1, 2, 3, 4].into()));
        assert!(!set.contains(Ipv6Addr::LOCALHOST.into()));
        assert!(!set.contains("::ffff:1.2.3.4".parse().unwrap()));
        assert!(set.has_family(true) && !set.has_family(false));
    }
}
