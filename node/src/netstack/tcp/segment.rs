//! Segments as packets: the formats are smoltcp's, the bytes of the payload are copied once.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber},
};

use crate::netstack::packet::{FlowKey, Header, MTU, padded_len};

const HOP_LIMIT: u8 = 64;
const TCP_HEADER: usize = 20;

/// Reads the segment in a packet; `None` if there is no whole and meaningful one. Checksums of what WireGuard
/// has authenticated are not looked at (Go's netstack skips them as well).
pub(super) fn parse(packet: &[u8]) -> Option<TcpRepr<'_>> {
    let header = Header::parse(packet)?;
    let tcp = TcpPacket::new_checked(packet.get(header.payload)?).ok()?;
    let ignored = ChecksumCapabilities::ignored();
    TcpRepr::parse(&tcp, &header.src.into(), &header.dst.into(), &ignored).ok()
}

/// A segment of the flow `key` without data and options.
pub(super) fn bare(key: &FlowKey, control: TcpControl, seq: u32, ack: Option<u32>) -> TcpRepr<'static> {
    TcpRepr {
        src_port: key.local.port(),
        dst_port: key.remote.port(),
        control,
        seq_number: TcpSeqNumber(seq as i32),
        ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// Writes a packet: headers, then the two pieces of the payload (that of `segment` has to be empty), then
/// WireGuard's padding.
pub(super) fn emit(local: IpAddr, remote: IpAddr, segment: &TcpRepr<'_>, payload: [&[u8]; 2]) -> BytesMut {
    let (src, dst) = (IpAddress::from(local), IpAddress::from(remote));
    let tcp_len = segment.header_len() + payload[0].len() + payload[1].len();
    let ip = IpRepr::new(src, dst, IpProtocol::Tcp, tcp_len, HOP_LIMIT);
    let (start, len) = (ip.header_len(), ip.buffer_len());
    let mut packet = BytesMut::with_capacity(padded_len(len));
    packet.resize(start + segment.header_len(), 0);
    let mut checksums = ChecksumCapabilities::default();
    ip.emit(&mut packet[..], &checksums);
    checksums.tcp = smoltcp::phy::Checksum::None; // once the payload is there
    segment.emit(
        &mut TcpPacket::new_unchecked(&mut packet[start..]),
        &src,
        &dst,
        &checksums,
    );
    payload.iter().for_each(|piece| packet.extend_from_slice(piece));
    let checksum = checksum(local, remote, &packet[start..]);
    TcpPacket::new_unchecked(&mut packet[start..]).set_checksum(checksum);
    packet.resize(padded_len(len), 0);
    packet
}

/// The checksum of a segment whose own is zero (RFC 9293 §3.1). smoltcp's adds two bytes at a time, which was a twentieth of
/// what a large body costs.
fn checksum(local: IpAddr, remote: IpAddr, segment: &[u8]) -> u16 {
    let address = |ip| match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    };
    let length = (segment.len() as u32).to_be_bytes();
    let pseudo = address(local) + address(remote) + sum(&length) + sum(&[0, IpProtocol::Tcp.into()]);
    let mut sum = pseudo + sum(segment);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::from_be_bytes((sum as u16).to_ne_bytes())
}

/// Words in the machine's order, added without carries (RFC 1071 §2 allows words of any size), then folded to 32 bits. Eight bytes a step,
/// since the optimiser of a small program makes no vectors of it.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let word = |word| u128::from(u64::from_ne_bytes(word));
    let sum = words.iter().copied().map(word).sum::<u128>() + word(last);
    let carried = (sum as u64 as u128) + (sum >> 64);
    let carried = (carried as u64) + ((carried >> 64) as u64);
    (carried >> 32) + (carried & 0xffff_ffff)
}

/// What a segment for which there is no connection is answered: a RST (RFC 9293 §3.10.7.1), or nothing.
pub(super) fn refusal(key: &FlowKey, segment: &TcpRepr<'_>) -> Option<BytesMut> {
    if segment.control == TcpControl::Rst {
        return None;
    }
    let reset = match segment.ack_number {
        Some(ack) => bare(key, TcpControl::Rst, ack.0 as u32, None),
        None => {
            let end = segment.seq_number + segment.segment_len();
            bare(key, TcpControl::Rst, 0, Some(end.0 as u32))
        }
    };
    Some(emit(key.local.ip(), key.remote.ip(), &reset, [&[], &[]]))
}

/// The largest payload of a segment to or from this address.
pub(super) fn max_payload(remote: SocketAddr) -> usize {
    MTU - TCP_HEADER - if remote.is_ipv4() { 20 } else { 40 }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn checksums_are_right(
            [local, remote] in any::<[std::net::Ipv4Addr; 2]>().prop_map(|ips| ips.map(IpAddr::from)),
            v6 in any::<[std::net::Ipv6Addr; 2]>(),
            payload in vec(any::<u8>(), 0..1300),
        ) {
            for (local, remote) in [(local, remote), (v6[0].into(), v6[1].into())] {
                let key = FlowKey { local: (local, 443).into(), remote: (remote, 50_000).into() };
                let segment = bare(&key, TcpControl::Psh, 7, Some(9));
                let (first, second) = payload.split_at(payload.len() / 3);
                let packet = emit(local, remote, &segment, [first, second]);
                let header = Header::parse(&packet).unwrap();
                let tcp = TcpPacket::new_checked(&packet[header.payload]).unwrap();
                prop_assert!(tcp.verify_checksum(&local.into(), &remote.into()));
                prop_assert_eq!(tcp.payload(), &payload[..]);
            }
        }
    }
}
