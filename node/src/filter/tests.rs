use serde_json::json;

use super::*;
use crate::{key::NodePublic, netmap::PeerApi, tailcfg};

/// `e2e/lab/tailnet/filterdiff -generate 100 -seed 32`. The lab's tests ask Go itself, about other cases each time.
#[test]
fn verdicts_and_capabilities_are_those_of_go() {
    go::compare(include_str!("testdata/go.jsonl"));
}

/// The situations of Go's `TestFilter`.
#[test]
fn rules_open_addresses_and_ports_by_protocol() {
    let filter = filter(json!([
        {"SrcIPs": ["8.1.1.1", "8.2.2.2"], "DstPorts": [to("1.2.3.4", 22, 22), to("5.6.7.8", 23, 24)]},
        {"SrcIPs": ["9.1.1.1"], "DstPorts": [to("1.2.3.4", 22, 22)], "IPProto": [132]},
        {"SrcIPs": ["*"], "DstPorts": [to("*", 443, 443)]},
        {"SrcIPs": ["0.0.0.0/0"], "DstPorts": [to("0.0.0.0/0", 0, 65535)], "IPProto": [116]},
        {"SrcIPs": ["::1", "::2"], "DstPorts": [to("2001::1", 22, 22)]},
        {"SrcIPs": ["cap:ssh"], "DstPorts": [to("1.2.3.4", 22, 22)]},
    ]));
    for (accept, proto, src, dst) in [
        (true, TCP, "8.1.1.1:999", "1.2.3.4:22"),
        (true, ICMPV4, "8.1.1.1:0", "1.2.3.4:0"),
        (false, TCP, "8.1.1.1:0", "1.2.3.4:21"),
        (false, TCP, "8.3.3.3:0", "1.2.3.4:22"),
        (true, UDP, "8.1.1.1:0", "5.6.7.8:24"),
        (false, UDP, "8.1.1.1:0", "5.6.7.8:25"),
        (true, TCP, "17.34.51.68:0", "5.6.7.8:443"),
        (true, TCP, "[::1]:0", "[2001::1]:22"),
        (true, ICMPV6, "[::1]:0", "[2001::1]:0"),
        (false, TCP, "[::3]:0", "[2001::1]:22"),
        (false, TCP, "8.1.1.1:0", "16.32.48.64:443"), // allowed, but not ours
        (false, SCTP, "8.1.1.1:0", "1.2.3.4:22"),
        (true, SCTP, "9.1.1.1:0", "1.2.3.4:22"),
        (true, 116, "7.7.7.7:0", "5.6.7.8:0"), // all ports are open to it
        (false, 127, "7.7.7.7:0", "5.6.7.8:0"),
        (true, TCP, "10.0.0.1:30000", "1.2.3.4:22"), // has the capability
        (false, TCP, "10.0.0.2:30000", "1.2.3.4:22"),
        (false, TCP, "8.1.1.1:0", "224.0.0.1:443"),
        (false, TCP, "8.1.1.1:0", "[2001::1]:443"),
    ] {
        let packet = packet(proto, src, dst);
        let expected = if accept { Verdict::Accept } else { Verdict::Drop };
        assert_eq!(filter.check(&packet), expected, "{packet:?}");
    }
}

#[test]
fn only_what_starts_something_needs_a_rule() {
    let filter = filter(json!([]));
    let syn = packet(TCP, "8.1.1.1:9", "1.2.3.4:22");
    let datagram = packet(UDP, "8.1.1.1:9", "1.2.3.4:22");
    let echo = packet(ICMPV4, "8.1.1.1:0", "1.2.3.4:0");
    for packet in [syn, datagram, echo] {
        assert_eq!(filter.check(&packet), Verdict::Drop, "{packet:?}");
    }
    for packet in [
        Inbound {
            tcp_syn: false,
            ..syn
        },
        Inbound {
            reply: true,
            ..datagram
        },
        Inbound {
            icmp_request: false,
            ..echo
        },
        packet(TSMP, "8.1.1.1:0", "1.2.3.4:0"),
    ] {
        assert_eq!(filter.check(&packet), Verdict::Accept, "{packet:?}");
    }
}

#[test]
fn a_jailed_peer_may_answer_but_not_start() {
    let filter = filter(json!([{"SrcIPs": ["*"], "DstPorts": [to("*", 0, 65535)]}]));
    let free = packet(TCP, "8.1.1.1:9", "1.2.3.4:22");
    let jailed = Inbound { jailed: true, ..free };
    assert_eq!(filter.check(&free), Verdict::Accept);
    assert_eq!(filter.check(&jailed), Verdict::Drop);
    assert_eq!(
        filter.check(&Inbound {
            tcp_syn: false,
            ..jailed
        }),
        Verdict::Accept
    );
}

#[test]
fn rules_that_let_in_an_unsigned_peer_are_all_off() {
    let rules = json!([
        {"SrcIPs": ["8.1.1.0/24"], "DstPorts": [to("*", 22, 22)]},
        {"SrcIPs": ["9.9.9.9"], "CapGrant": [{"Dsts": ["0.0.0.0/0"], "Caps": ["a"]}]},
    ]);
    let filter = |unsigned: IpAddr| {
        let peer = Node {
            unsigned_peer_api_only: true,
            ..peer(unsigned, vec![])
        };
        Filter::new(parse(&rules).into(), local(), [&peer].into_iter())
    };
    let packet = packet(TCP, "8.1.1.1:9", "1.2.3.4:22");
    assert_eq!(filter([8, 1, 1, 77].into()).check(&packet), Verdict::Drop);
    // A grant alone opens no port.
    let granted = filter([9, 9, 9, 9].into());
    assert_eq!(granted.check(&packet), Verdict::Accept);
    assert_eq!(granted.caps([9, 9, 9, 9].into(), [1, 2, 3, 4].into()).len(), 1);
}

#[test]
fn an_unsigned_peer_has_no_capability_as_a_source() {
    let rules = parse(&json!([{"SrcIPs": ["cap:ssh"], "DstPorts": [to("*", 22, 22)]}]));
    let peer = Node {
        unsigned_peer_api_only: true,
        ..peer([10, 0, 0, 1].into(), vec!["ssh".into()])
    };
    let filter = Filter::new(rules.into(), local(), [&peer].into_iter());
    assert_eq!(
        filter.check(&packet(TCP, "10.0.0.1:9", "1.2.3.4:22")),
        Verdict::Drop
    );
}

#[test]
fn what_makes_no_sense_is_left_out_and_listed() {
    let rules = parse(&json!([{
        "SrcIPs": ["8.8.8.8/24", "8.1.1.1", "1.0.0.2-1.0.0.1", "people", "1.2.3.4-::1"],
        "DstPorts": [to("cap:x", 22, 22), to("1.2.3.4", 22, 22)],
        "CapGrant": [{"Dsts": ["0.0.0.0/0"], "Caps": ["a"]}],
    }]));
    let rejected: Vec<_> = rules.rejected().iter().map(|r| r.text.as_str()).collect();
    assert_eq!(
        rejected,
        ["8.8.8.8/24", "1.0.0.2-1.0.0.1", "people", "1.2.3.4-::1", "cap:x"]
    );
    let filter = Filter::new(rules.into(), local(), [].into_iter());
    assert_eq!(
        filter.check(&packet(TCP, "8.1.1.1:9", "1.2.3.4:22")),
        Verdict::Accept
    );
    assert_eq!(filter.caps([8, 1, 1, 1].into(), [1, 2, 3, 4].into()).len(), 1);

    let obsolete = parse(&json!([
        {"SrcIPs": ["*"], "DstPorts": [to("*", 0, 65535)]},
        {"SrcIPs": ["10.0.0.0"], "SrcBits": [8], "DstPorts": []},
    ]));
    assert_eq!(obsolete.rejected().len(), 1);
    assert!(!obsolete.lets_in(&Ranges::from_nets(["0.0.0.0/0".parse().unwrap()])));
}

fn filter(rules: serde_json::Value) -> Filter {
    let peers = [
        peer([10, 0, 0, 1].into(), vec!["ssh".into()]),
        peer([10, 0, 0, 2].into(), vec![]),
    ];
    Filter::new(parse(&rules).into(), local(), peers.iter())
}

fn parse(rules: &serde_json::Value) -> Rules {
    let rules: Vec<tailcfg::FilterRule> = serde_json::from_str(&rules.to_string()).unwrap();
    Rules::parse(&rules)
}

fn local() -> Vec<IpNet> {
    ["1.2.3.4/32", "5.6.7.8/32", "2001::/16"]
        .map(|net| net.parse().unwrap())
        .into()
}

fn to(ip: &str, first: u16, last: u16) -> serde_json::Value {
    json!({"IP": ip, "Ports": {"First": first, "Last": last}})
}

/// A packet that starts something.
fn packet(proto: u8, src: &str, dst: &str) -> Inbound {
    Inbound {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        proto,
        tcp_syn: proto == TCP,
        reply: false,
        icmp_request: proto == ICMPV4 || proto == ICMPV6,
        jailed: false,
    }
}

fn peer(ip: IpAddr, caps: Vec<String>) -> Node {
    Node {
        id: 1,
        stable_id: "n1".into(),
        name: "peer.example.ts.net".into(),
        user: 1,
        key: NodePublic::from_bytes([1; 32]),
        key_expiry: None,
        expired: false,
        machine: None,
        disco: None,
        addresses: vec![ip.into()],
        allowed_ips: vec![ip.into()],
        endpoints: vec![],
        home_derp: None,
        machine_authorized: true,
        tags: vec![],
        cap: 0,
        cap_map: caps.into_iter().map(|cap| (cap, vec![])).collect(),
        online: None,
        unsigned_peer_api_only: false,
        is_jailed: false,
        peer_api: PeerApi::default(),
        hostname: String::new(),
        os: String::new(),
        details: None,
    }
}
