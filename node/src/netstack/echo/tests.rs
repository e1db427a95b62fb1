use proptest::prelude::*;
use smoltcp::wire::{Ipv6Address, Ipv6Packet};

use super::*;

/// An ICMP echo request with a payload, from .1 to .2.
fn ping_v4() -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 32, 0, 0, 0x40, 0, 3, 1, 0, 0, 100, 64, 0, 1, 100, 64, 0, 2,
    ];
    packet.extend_from_slice(&[8, 0, 0, 0, 0x12, 0x34, 0, 1, b'd', b'a', b't', b'a']);
    Icmpv4Packet::new_unchecked(&mut packet[20..]).fill_checksum();
    packet
}

fn v6(proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, proto, 3];
    packet.extend_from_slice(&"fd7a::1".parse::<Ipv6Address>().unwrap().octets());
    packet.extend_from_slice(&"fd7a::2".parse::<Ipv6Address>().unwrap().octets());
    packet.extend_from_slice(payload);
    packet
}

#[test]
fn an_echo_request_is_answered_with_its_data() {
    let question = ping_v4();
    let answer = reply(&Header::parse(&question).unwrap(), &question).unwrap();
    let header = Header::parse(&answer).unwrap();
    assert_eq!(
        (header.src, header.dst),
        ("100.64.0.2".parse().unwrap(), "100.64.0.1".parse().unwrap())
    );
    let ip = Ipv4Packet::new_checked(&answer).unwrap();
    assert!(ip.verify_checksum() && ip.hop_limit() == 64);
    let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!(icmp.msg_type(), Icmpv4Message::EchoReply);
    assert_eq!(ip.payload()[4..], question[24..]);
    // An answer is no question.
    assert_eq!(reply(&header, &answer), None);
}

#[test]
fn an_icmpv6_echo_request_too() {
    let question = v6(ICMPV6, &[128, 0, 0, 0, 0x12, 0x34, 0, 1, b'x']);
    let answer = reply(&Header::parse(&question).unwrap(), &question).unwrap();
    let ip = Ipv6Packet::new_checked(&answer).unwrap();
    assert_eq!(ip.src_addr(), "fd7a::2".parse::<Ipv6Address>().unwrap());
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
    assert_eq!(icmp.msg_type(), Icmpv6Message::EchoReply);
}

#[test]
fn a_tsmp_ping_gets_its_data_and_the_peer_api_port() {
    let question = v6(TSMP, b"p12345678");
    let answer = tsmp_reply(&Header::parse(&question).unwrap(), &question, 0x1234).unwrap();
    let header = Header::parse(&answer).unwrap();
    assert_eq!(answer[header.payload], *b"o12345678\x12\x34");
    let other = v6(TSMP, b"a12345678");
    assert_eq!(tsmp_reply(&Header::parse(&other).unwrap(), &other, 1), None);
    let short = v6(TSMP, b"p1234567");
    assert_eq!(tsmp_reply(&Header::parse(&short).unwrap(), &short, 1), None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(at in 0..32_usize, value: u8, cut in 0..33_usize) {
        let mut packet = ping_v4();
        packet[at] = value;
        packet.truncate(cut.max(1));
        if let Some(header) = Header::parse(&packet) {
            let _ = (reply(&header, &packet), tsmp_reply(&header, &packet, 1));
        }
    }
}
