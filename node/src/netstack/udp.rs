//! UDP datagrams inside the tunnel.

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpAddress, IpProtocol, IpRepr, UdpPacket, UdpRepr},
};

use super::packet::{Header, MTU, UDP, padded};

const HEADER: usize = 8;

/// A datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Bytes,
}

/// The largest payload of a datagram to an address of this family, in bytes: nothing is fragmented.
pub(crate) fn max_payload(to: IpAddr) -> usize {
    MTU - if to.is_ipv4() { 20 } else { 40 } - HEADER
}

/// The datagram in a packet with this header; `None` if it isn't whole. WireGuard has authenticated the bytes, so
/// the checksum says nothing new.
pub(crate) fn parse(header: &Header, packet: &[u8]) -> Option<Datagram> {
    if header.proto != UDP || header.fragmented {
        return None;
    }
    let udp = UdpPacket::new_checked(packet.get(header.payload.clone())?).ok()?;
    Some(Datagram {
        from: (header.src, udp.src_port()).into(),
        to: (header.dst, udp.dst_port()).into(),
        payload: Bytes::copy_from_slice(udp.payload()),
    })
}

/// The packet for a datagram; `None` when it is too large or its addresses are of two families.
pub(crate) fn packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<BytesMut> {
    if from.is_ipv4() != to.is_ipv4() || payload.len() > max_payload(to.ip()) {
        return None;
    }
    let (src, dst) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
    let ip = IpRepr::new(src, dst, IpProtocol::Udp, HEADER + payload.len(), 64);
    let caps = ChecksumCapabilities::default();
    let start = ip.header_len();
    let end = ip.buffer_len();
    let mut packet = padded(end);
    ip.emit(&mut packet[..], &caps);
    let udp = UdpRepr {
        src_port: from.port(),
        dst_port: to.port(),
    };
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut packet[start..end]),
        &src,
        &dst,
        payload.len(),
        |buffer| buffer.copy_from_slice(payload),
        &caps,
    );
    Some(packet)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_received(payload in proptest::collection::vec(any::<u8>(), 0..1300), v6: bool) {
            let (from, to): (SocketAddr, SocketAddr) = match v6 {
                true => ("[fd7a::1]:53".parse().unwrap(), "[fd7a::2]:4000".parse().unwrap()),
                false => ("100.64.0.1:53".parse().unwrap(), "100.64.0.2:4000".parse().unwrap()),
            };
            let packet = packet(from, to, &payload);
            prop_assert_eq!(packet.is_some(), payload.len() <= max_payload(to.ip()));
            let Some(packet) = packet else { return Ok(()) };
            prop_assert!(packet.len() <= MTU);
            let header = Header::parse(&packet).unwrap();
            let got = parse(&header, &packet).unwrap();
            prop_assert_eq!((got.from, got.to), (from, to));
            prop_assert_eq!(&got.payload[..], &payload[..]);
            let udp = UdpPacket::new_checked(&packet[header.payload]).unwrap();
            prop_assert!(udp.verify_checksum(&from.ip().into(), &to.ip().into()));
        }

        #[test]
        fn no_bytes_make_it_panic(packet: Vec<u8>) {
            if let Some(header) = Header::parse(&packet) {
                let _ = parse(&header, &packet);
            }
        }
    }
}
