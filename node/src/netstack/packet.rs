//! Headers of packets that come out of the tunnel. The sender is authenticated but not trusted.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use bytes::BytesMut;

/// The largest packet inside the tunnel (Go: `tstun.DefaultTUNMTU`).
pub(crate) const MTU: usize = 1280;

/// Protocol numbers (IANA).
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
/// Tailscale's own control messages inside the tunnel.
pub(crate) const TSMP: u8 = 99;
/// IPv6's header of fragments.
const FRAGMENT: u8 = 44;

/// An IP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) proto: u8,
    /// A part of a fragmented packet.
    pub(crate) fragmented: bool,
    /// Where the payload is, without WireGuard's padding.
    pub(crate) payload: Range<usize>,
}

/// What the demultiplexer needs of a TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    pub(crate) seq: u32,
    flags: u8,
}

/// Addresses and ports of a flow, from our point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

impl Header {
    /// Reads the IP header of `packet`; `None` if it isn't a whole IP packet.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<20>()?;
        let start = usize::from(fixed[0] & 15) * 4;
        let end = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if start < 20 || end < start || end > packet.len() {
            return None;
        }
        let fragmentation = u16::from_be_bytes([fixed[6], fixed[7]]);
        Some(Self {
            src: Ipv4Addr::from_octets(*fixed[12..].first_chunk()?).into(),
            dst: Ipv4Addr::from_octets(*fixed[16..].first_chunk()?).into(),
            proto: fixed[9],
            fragmented: fragmentation & 0x3fff != 0, // more follow, or some came before
            payload: start..end,
        })
    }

    /// Extension headers are not walked: their numbers count as the protocol, as in Go.
    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<40>()?;
        let end = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if end > packet.len() {
            return None;
        }
        Some(Self {
            src: Ipv6Addr::from_octets(*fixed[8..].first_chunk()?).into(),
            dst: Ipv6Addr::from_octets(*fixed[24..].first_chunk()?).into(),
            proto: fixed[6],
            fragmented: fixed[6] == FRAGMENT,
            payload: 40..end,
        })
    }

    /// The 4-tuple of a TCP segment with this header.
    pub(crate) fn flow(&self, segment: &Segment) -> FlowKey {
        FlowKey {
            local: (self.dst, segment.dst_port).into(),
            remote: (self.src, segment.src_port).into(),
        }
    }
}

impl Segment {
    /// Reads a TCP header; `None` if it isn't whole.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let fixed = payload.first_chunk::<20>()?;
        Some(Self {
            src_port: u16::from_be_bytes([fixed[0], fixed[1]]),
            dst_port: u16::from_be_bytes([fixed[2], fixed[3]]),
            seq: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            flags: fixed[13],
        })
    }

    /// SYN without ACK: somebody opens a connection.
    pub(crate) fn is_opening(&self) -> bool {
        self.flags & 0x12 == 0x02
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.flags & 0x04 != 0
    }
}

/// The length of a packet of `len` bytes with WireGuard's padding: to 16 bytes, but not beyond the MTU.
pub(super) fn padded_len(len: usize) -> usize {
    len.next_multiple_of(16).min(MTU.max(len))
}

/// A zeroed packet of `len` bytes and WireGuard's padding.
pub(super) fn padded(len: usize) -> BytesMut {
    BytesMut::zeroed(padded_len(len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4_SYN: [u8; 44] = [
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 100, 64, 0, 1, 100, 64, 0, 2, // IP
        0x1f, 0x90, 0x01, 0xbb, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0, // TCP
        0, 0, 0, 0, // padding of WireGuard
    ];

    #[test]
    fn a_syn_is_read_and_padding_is_not() {
        let header = Header::parse(&V4_SYN).unwrap();
        assert_eq!(header.payload, 20..40);
        assert_eq!((header.proto, header.fragmented), (TCP, false));
        let segment = Segment::parse(&V4_SYN[header.payload.clone()]).unwrap();
        assert!(segment.is_opening() && !segment.is_reset());
        assert_eq!(segment.seq, 7);
        let key = header.flow(&segment);
        assert_eq!(key.local, "100.64.0.2:443".parse().unwrap());
        assert_eq!(key.remote, "100.64.0.1:8080".parse().unwrap());
    }

    #[test]
    fn fragments_are_told_apart() {
        let mut packet = V4_SYN;
        for (more, offset) in [(0x20, 0), (0x20, 1), (0, 1)] {
            packet[6..8].copy_from_slice(&[more, offset]);
            assert!(Header::parse(&packet).unwrap().fragmented);
        }
        let mut v6 = [0; 48];
        (v6[0], v6[5], v6[6]) = (0x60, 8, FRAGMENT);
        assert!(Header::parse(&v6).unwrap().fragmented);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for (at, value) in [(0, 0x44), (0, 0x4f), (3, 19), (3, 45), (0, 0)] {
            let mut packet = V4_SYN;
            packet[at] = value;
            assert_eq!(Header::parse(&packet), None, "byte {at} = {value}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(packet: Vec<u8>) {
            if let Some(header) = Header::parse(&packet) {
                let payload = &packet[header.payload];
                let _ = Segment::parse(payload);
            }
        }
    }
}
