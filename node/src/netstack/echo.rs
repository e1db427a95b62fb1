//! Answers to `ping`: ICMP and ICMPv6 echo, and TSMP ping (Go: `net/packet/tsmp.go`).

use bytes::BytesMut;
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, Ipv4Packet};

use super::{
    device::padded,
    packet::{Header, ICMP, ICMPV6, TSMP},
};

const TSMP_PING: u8 = b'p';
const TSMP_PONG: u8 = b'o';
/// Type, then 8 bytes that the pong repeats.
const TSMP_PING_LEN: usize = 9;

/// `packet` is an ICMP echo request.
pub(crate) fn is_request(header: &Header, packet: &[u8]) -> bool {
    let kind = packet.get(header.payload.start).copied().map(u16::from);
    match header.proto {
        ICMP => kind == Some(8),
        ICMPV6 => kind == Some(128),
        _ => false,
    }
}

/// The answer to an echo request; `None` for anything else.
pub(crate) fn reply(header: &Header, packet: &[u8]) -> Option<BytesMut> {
    if header.fragmented || !is_request(header, packet) {
        return None;
    }
    let end = header.payload.end;
    let mut reply = padded(end);
    reply[..end].copy_from_slice(packet.get(..end)?);
    swap_addresses(header, &mut reply);
    let payload = reply.get_mut(header.payload.clone())?;
    match (header.proto, header.src, header.dst) {
        (ICMP, ..) => {
            let mut icmp = Icmpv4Packet::new_checked(payload).ok()?;
            icmp.set_msg_type(Icmpv4Message::EchoReply);
            icmp.fill_checksum();
        }
        (ICMPV6, std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
            let mut icmp = Icmpv6Packet::new_checked(payload).ok()?;
            icmp.set_msg_type(Icmpv6Message::EchoReply);
            icmp.fill_checksum(&dst, &src);
        }
        _ => return None,
    }
    Some(reply)
}

/// The pong to a TSMP ping; `None` for any other TSMP message (they need no answer).
pub(crate) fn tsmp_reply(header: &Header, packet: &[u8], peer_api_port: u16) -> Option<BytesMut> {
    let payload = packet.get(header.payload.clone())?;
    let (&kind, data) = payload.get(..TSMP_PING_LEN)?.split_first()?;
    if header.proto != TSMP || header.fragmented || kind != TSMP_PING {
        return None;
    }
    let start = header.payload.start;
    let len = TSMP_PING_LEN + 2;
    let mut reply = padded(start + len);
    reply[..start].copy_from_slice(packet.get(..start)?);
    reply[start] = TSMP_PONG;
    reply[start + 1..start + TSMP_PING_LEN].copy_from_slice(data);
    reply[start + TSMP_PING_LEN..start + len].copy_from_slice(&peer_api_port.to_be_bytes());
    let total = (start + len) as u16;
    let (at, value) = if header.src.is_ipv4() {
        (2, total)
    } else {
        (4, len as u16)
    };
    reply[at..at + 2].copy_from_slice(&value.to_be_bytes());
    swap_addresses(header, &mut reply);
    Some(reply)
}

/// `packet` starts with a copy of the IP header that was parsed into `header`.
fn swap_addresses(header: &Header, packet: &mut [u8]) {
    let (src, len) = if header.src.is_ipv4() { (12, 4) } else { (8, 16) };
    let (a, b) = packet[src..].split_at_mut(len);
    a.swap_with_slice(&mut b[..len]);
    if header.src.is_ipv4() {
        // An answer starts with a fresh time to live, whatever the question had left.
        let mut ip = Ipv4Packet::new_unchecked(packet);
        ip.set_hop_limit(64);
        ip.fill_checksum();
    } else {
        packet[7] = 64;
    }
}

#[cfg(test)]
mod tests;
