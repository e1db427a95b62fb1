//! `ping` and its answers: ICMP and ICMPv6 echo, and TSMP ping (Go: `net/packet/tsmp.go`).

use std::net::IpAddr;

use bytes::BytesMut;
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, Ipv4Packet, Ipv6Packet};

use super::packet::{Header, ICMP, ICMPV6, TSMP, padded};

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
        (ICMPV6, IpAddr::V6(src), IpAddr::V6(dst)) => {
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

/// Matches an answer with its ping; nobody can guess it.
pub(crate) type Token = [u8; 8];

/// An echo request that carries `token` as its data. `None` when the addresses are of two families.
pub(crate) fn request(from: IpAddr, to: IpAddr, token: &Token) -> Option<BytesMut> {
    let mut data = [0; 16];
    // Identifier and sequence number: nobody else of ours sends echo requests, but a firewall may look.
    data[4..8].copy_from_slice(&token[..4]);
    data[8..].copy_from_slice(token);
    let proto = if to.is_ipv4() { ICMP } else { ICMPV6 };
    let (mut packet, start) = headed(from, to, proto, &data)?;
    let end = start + data.len();
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut icmp = Icmpv6Packet::new_unchecked(&mut packet[start..end]);
            icmp.set_msg_type(Icmpv6Message::EchoRequest);
            icmp.fill_checksum(&from, &to);
        }
        _ => {
            let mut icmp = Icmpv4Packet::new_unchecked(&mut packet[start..end]);
            icmp.set_msg_type(Icmpv4Message::EchoRequest);
            icmp.fill_checksum();
        }
    }
    Some(packet)
}

/// The token of an answer to [`request`].
pub(crate) fn answered(header: &Header, packet: &[u8]) -> Option<Token> {
    let payload = packet.get(header.payload.clone())?;
    let (&[kind, ..], data) = payload.split_first_chunk::<8>()?;
    let is_reply = matches!((header.proto, kind), (ICMP, 0) | (ICMPV6, 129));
    data.first_chunk().filter(|_| is_reply).copied()
}

/// A TSMP ping. `None` when the addresses are of two families.
pub(crate) fn tsmp_ping(from: IpAddr, to: IpAddr, token: &Token) -> Option<BytesMut> {
    let mut payload = [TSMP_PING; TSMP_PING_LEN];
    payload[1..].copy_from_slice(token);
    headed(from, to, TSMP, &payload).map(|(packet, _)| packet)
}

/// The token of a TSMP pong, and the port of the peer's PeerAPI.
pub(crate) fn tsmp_pong(header: &Header, packet: &[u8]) -> Option<(Token, u16)> {
    let payload = packet.get(header.payload.clone())?;
    let (&kind, data) = payload.split_first()?;
    let (token, port) = data.split_first_chunk()?;
    // Old clients name no port.
    let port = port.first_chunk().map_or(0, |port| u16::from_be_bytes(*port));
    (header.proto == TSMP && !header.fragmented && kind == TSMP_PONG).then_some((*token, port))
}

/// An IP packet, and where its payload starts.
fn headed(from: IpAddr, to: IpAddr, proto: u8, payload: &[u8]) -> Option<(BytesMut, usize)> {
    let (start, mut packet) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut packet = padded(20 + payload.len());
            let mut ip = Ipv4Packet::new_unchecked(&mut packet[..]);
            ip.set_version(4);
            ip.set_header_len(20);
            ip.set_total_len((20 + payload.len()) as u16);
            ip.set_dont_frag(true);
            ip.set_hop_limit(64);
            ip.set_next_header(proto.into());
            ip.set_src_addr(from);
            ip.set_dst_addr(to);
            ip.fill_checksum();
            (20, packet)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut packet = padded(40 + payload.len());
            let mut ip = Ipv6Packet::new_unchecked(&mut packet[..]);
            ip.set_version(6);
            ip.set_payload_len(payload.len() as u16);
            ip.set_next_header(proto.into());
            ip.set_hop_limit(64);
            ip.set_src_addr(from);
            ip.set_dst_addr(to);
            (40, packet)
        }
        _ => return None,
    };
    packet[start..start + payload.len()].copy_from_slice(payload);
    Some((packet, start))
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
