//! Which of two direct paths is the better one (Go: `betterAddr` in `wgengine/magicsock/endpoint.go`).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// A direct path and the round-trip time of its last pong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) addr: SocketAddr,
    pub(super) latency: Duration,
}

/// Is `a` so much better than `b` that a change is worth it?
pub(super) fn is_better(a: &Measured, b: &Measured) -> bool {
    if a.addr == b.addr {
        return false;
    }
    let (a_points, b_points) = (
        faster_by(a, b) + kind_points(a.addr.ip()),
        faster_by(b, a) + kind_points(b.addr.ip()),
    );
    // A lead of one is noise: without this two equal paths would take turns.
    a_points > b_points && (a_points > 1 || b_points > 0)
}

/// By how many percent of the slower one `a` is faster than `b`; 0 when it isn't.
fn faster_by(a: &Measured, b: &Measured) -> u32 {
    if a.latency >= b.latency {
        return 0;
    }
    // Both are below a ping's timeout, so this fits.
    let percent = (b.latency - a.latency).as_micros() * 100 / b.latency.as_micros().max(1);
    u32::try_from(percent).unwrap_or(100).min(100)
}

/// What stays inside costs less and breaks less; IPv6 has no NAT whose binding could go.
fn kind_points(ip: IpAddr) -> u32 {
    let inside = match ip {
        _ if ip.is_loopback() => 50,
        IpAddr::V4(v4) if v4.is_link_local() => 30,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => 30,
        IpAddr::V4(v4) if v4.is_private() => 20,
        IpAddr::V6(v6) if v6.is_unique_local() => 20,
        _ => 0,
    };
    inside + if ip.is_ipv6() { 10 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(addr: &str, millis: u64) -> Measured {
        Measured {
            addr: addr.parse().unwrap(),
            latency: Duration::from_millis(millis),
        }
    }

    #[test]
    fn the_rules_of_go() {
        let rows = [
            // Faster wins, but not by a percent.
            (path("192.0.2.1:1", 10), path("192.0.2.2:1", 20), true),
            (path("192.0.2.1:1", 198), path("192.0.2.2:1", 200), false),
            (path("192.0.2.1:1", 195), path("192.0.2.2:1", 200), true),
            // The same address is never better than itself.
            (path("192.0.2.1:1", 1), path("192.0.2.1:1", 9), false),
            // Private beats public when they are about the same, not when it is much slower.
            (path("10.0.0.1:1", 11), path("192.0.2.1:1", 10), true),
            (path("10.0.0.1:1", 20), path("192.0.2.1:1", 10), false),
            // Loopback beats private, IPv6 beats IPv4.
            (path("127.0.0.1:1", 10), path("10.0.0.1:1", 10), true),
            (path("[2001:db8::1]:1", 10), path("192.0.2.1:1", 10), true),
            (path("[fd00::1]:1", 10), path("10.0.0.1:1", 10), true),
        ];
        for (a, b, better) in rows {
            assert_eq!(is_better(&a, &b), better, "{a:?} {b:?}");
        }
    }

    #[test]
    fn never_both_ways() {
        let addrs = [
            "192.0.2.1:1",
            "10.0.0.1:1",
            "127.0.0.1:1",
            "[2001:db8::1]:1",
            "[fe80::1]:1",
        ];
        for (x, y) in addrs.iter().flat_map(|x| addrs.iter().map(move |y| (x, y))) {
            for (i, j) in [(0, 0), (0, 5), (1, 2), (5, 0), (100, 101)] {
                let (a, b) = (path(x, i), path(y, j));
                assert!(!(is_better(&a, &b) && is_better(&b, &a)), "{a:?} {b:?}");
            }
        }
    }
}
