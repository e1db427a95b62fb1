//! The addresses that we announce (Go: `determineEndpoints` in `wgengine/magicsock`).

use std::net::{IpAddr, SocketAddr};

use super::netcheck::Report;
use crate::control::{Endpoint, EndpointKind};

/// Interface addresses that are announced at most; a machine with many containers has many.
const MAX_LOCAL: usize = 24;

/// What peers should try, the most promising first, none twice.
pub(super) fn endpoints(
    configured: &[SocketAddr],
    report: &Report,
    interfaces: &[IpAddr],
    port: u16,
) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = Vec::new();
    let mut add = |addr: SocketAddr, kind| {
        if addr.port() != 0 && all.iter().all(|e| e.addr != addr) {
            all.push(Endpoint { addr, kind });
        }
    };
    for addr in configured {
        add(*addr, EndpointKind::Explicit);
    }
    for addr in [report.global_v4, report.global_v6].into_iter().flatten() {
        add(addr, EndpointKind::Stun);
    }
    // Somebody may have forwarded our port by hand on a router that otherwise gives a port per destination.
    if let (Some(global), Some(true)) = (report.global_v4, report.mapping_varies) {
        add((global.ip(), port).into(), EndpointKind::Stun4LocalPort);
    }
    for ip in interfaces.iter().filter(|ip| is_reachable(ip)).take(MAX_LOCAL) {
        add((*ip, port).into(), EndpointKind::Local);
    }
    if all.is_empty() {
        for ip in interfaces.iter().filter(|ip| ip.is_loopback()) {
            if port != 0 {
                let addr = (*ip, port).into();
                let kind = EndpointKind::Local;
                all.push(Endpoint { addr, kind });
            }
        }
    }
    all
}

/// Can somebody else mean us with this interface address? A tailnet's own address can't be the way into the
/// tailnet. Its IPv4 range is also used by clouds for pods, so only IPv6 tells.
fn is_reachable(ip: &IpAddr) -> bool {
    let scoped = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    };
    !scoped && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn text(list: &[Endpoint]) -> Vec<String> {
        list.iter().map(|e| format!("{} {:?}", e.addr, e.kind)).collect()
    }

    #[test]
    fn configured_then_seen_then_local() {
        let report = Report {
            global_v4: "192.0.2.1:999".parse().ok(),
            global_v6: "[2001:db8::1]:41641".parse().ok(),
            mapping_varies: Some(true),
            ..Report::default()
        };
        let local = ips(&[
            "127.0.0.1",
            "10.1.2.3",
            "2001:db8::1",
            "fe80::1",
            "169.254.1.1",
            "fd7a:115c:a1e0::5",
        ]);
        let configured = ["198.51.100.1:30000".parse().unwrap()];
        assert_eq!(
            text(&endpoints(&configured, &report, &local, 41641)),
            [
                "198.51.100.1:30000 Explicit",
                "192.0.2.1:999 Stun",
                "[2001:db8::1]:41641 Stun",
                "192.0.2.1:41641 Stun4LocalPort",
                "10.1.2.3:41641 Local",
            ]
        );
    }

    #[test]
    fn loopback_only_when_there_is_nothing_else() {
        let all = |list: &[&str]| text(&endpoints(&[], &Report::default(), &ips(list), 1));
        assert_eq!(all(&["127.0.0.1", "10.0.0.1"]), ["10.0.0.1:1 Local"]);
        assert_eq!(all(&["127.0.0.1"]), ["127.0.0.1:1 Local"]);
    }
}
