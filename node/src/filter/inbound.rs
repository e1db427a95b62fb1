//! What of a packet the filter looks at.

use std::net::SocketAddr;

use crate::netstack::packet::{Header, Segment};
pub(super) use crate::netstack::packet::{ICMP as ICMPV4, ICMPV6, TCP, TSMP, UDP};

const IGMP: u8 = 2;
pub(super) const SCTP: u8 = 132;

/// What the filter needs to know of an inbound packet, after WireGuard has checked its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inbound {
    /// Source; the port is 0 where the protocol has none.
    pub src: SocketAddr,
    /// Destination; the port is 0 where the protocol has none.
    pub dst: SocketAddr,
    /// IP protocol number.
    pub proto: u8,
    /// TCP: SYN without ACK. Only these are checked against rules.
    pub tcp_syn: bool,
    /// UDP: answers a flow that we started.
    pub reply: bool,
    /// ICMP: neither an echo reply nor an error. Only these need a rule.
    pub icmp_request: bool,
    /// The peer must not start anything ([`crate::netmap::Node::is_jailed`]): no rule counts for it.
    pub jailed: bool,
}

impl Inbound {
    /// Reads a packet with this header (Go: `net/packet`, `Parsed.Decode`); what only its receiver knows is left
    /// `false`. `None` when the header of its protocol isn't whole, and for any fragment: nothing is put together here,
    /// while Go checks the first one and lets in the later ones.
    pub(crate) fn parse(header: &Header, packet: &[u8]) -> Option<Self> {
        let payload = packet.get(header.payload.clone())?;
        let v4 = header.dst.is_ipv4();
        let (least, has_ports) = match header.proto {
            ICMPV4 if v4 => (4, false),
            ICMPV6 if !v4 => (4, false),
            IGMP if v4 => (8, false),
            TSMP => (7, false),
            TCP => (20, true),
            UDP => (8, true),
            SCTP => (12, true),
            _ => (0, false),
        };
        if header.fragmented || payload.len() < least {
            return None;
        }
        let ports = payload.first_chunk().filter(|_| has_ports);
        let [a, b, c, d] = *ports.unwrap_or(&[0; 4]);
        Some(Self {
            src: (header.src, u16::from_be_bytes([a, b])).into(),
            dst: (header.dst, u16::from_be_bytes([c, d])).into(),
            proto: header.proto,
            tcp_syn: header.proto == TCP
                && Segment::parse(payload).is_some_and(|segment| segment.is_opening()),
            reply: false,
            icmp_request: match header.proto {
                ICMPV4 if v4 => !is_icmp_answer(payload, 0, &[3, 11, 18]), // Go says 18 for "parameter problem", 12
                ICMPV6 if !v4 => !is_icmp_answer(payload, 129, &[1, 2, 3, 4]),
                _ => false,
            },
            jailed: false,
        })
    }
}

/// An echo reply or an error (Go: `Parsed.IsEchoResponse`, `Parsed.IsError`).
fn is_icmp_answer(message: &[u8], echo_reply: u8, errors: &[u8]) -> bool {
    let Some([kind, code, ..]) = message.first_chunk::<8>() else {
        return false;
    };
    (*kind, *code) == (echo_reply, 0) || errors.contains(kind)
}
