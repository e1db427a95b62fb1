//! Gets acknowledgements past smoltcp's window check.
//!
//! RFC 9293 §3.10.7.4 wants "special allowance" for valid ACKs when the receive window is zero. smoltcp 0.14
//! makes none: it ignores the acknowledgement of every segment that starts outside of the window it announced
//! last. A peer whose last bytes hit a closed window sends all its ACKs from beyond it, so when both directions
//! are full at once, neither side hears the other any more and the connection hangs for good. (The rounding of
//! scaled windows is enough to get there, and so is a lost segment.)
//!
//! So we remember the window as the peer saw it last, and give smoltcp such an ACK once more by itself, at a
//! sequence number that it accepts. Data stays out: the segment follows as it is.

use bytes::BytesMut;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

use crate::netstack::packet::Header;

/// Bytes beyond the window that still make sense: a peer may have filled one that was larger.
const MAX_BEYOND: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Window {
    shift: u32,
    /// Start and length as announced last, once the connection is up.
    announced: Option<(TcpSeqNumber, usize)>,
}

impl Window {
    pub(super) fn new(capacity: usize) -> Self {
        // As smoltcp scales: the smallest shift by which the capacity fits 16 bits.
        let shift = (0..=14).find(|shift| capacity >> shift <= usize::from(u16::MAX));
        Self {
            shift: shift.unwrap_or(14),
            announced: None,
        }
    }

    /// Takes note of what the segments of `packets` announce.
    pub(super) fn note_sent(&mut self, packets: &[BytesMut]) {
        let Some(packet) = packets.last() else { return };
        let Some(header) = Header::parse(packet) else {
            return;
        };
        let Ok(tcp) = TcpPacket::new_checked(&packet[header.payload]) else {
            return;
        };
        if tcp.ack() && !tcp.syn() && !tcp.rst() {
            self.announced = Some((tcp.ack_number(), usize::from(tcp.window_len()) << self.shift));
        }
    }

    /// The acknowledgement of `packet` alone, if smoltcp would not look at it otherwise.
    pub(super) fn acceptable_ack(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let (start, len) = self.announced?;
        let end = start + len;
        let header = Header::parse(packet)?;
        let tcp = TcpPacket::new_checked(packet.get(header.payload.clone())?).ok()?;
        let beyond = tcp.seq_number() >= end && tcp.seq_number() - end <= MAX_BEYOND;
        let plain = tcp.ack() && !tcp.syn() && !tcp.rst() && !tcp.fin();
        if !plain || !beyond {
            return None;
        }
        // In a closed window only its start counts, in an open one everything before its end.
        let seq = if len == 0 { start } else { end - 1 };
        let has_data = tcp.segment_len() > 0;
        if !has_data && tcp.seq_number() == seq {
            return None;
        }
        let ip_len = header.payload.start;
        let tcp_len = usize::from(tcp.header_len());
        let mut ack = packet.get(..ip_len + tcp_len)?.to_vec();
        if header.src.is_ipv4() {
            Ipv4Packet::new_unchecked(&mut ack[..]).set_total_len((ip_len + tcp_len) as u16);
        } else {
            Ipv6Packet::new_unchecked(&mut ack[..]).set_payload_len(tcp_len as u16);
        }
        // Checksums of what WireGuard has authenticated are not looked at.
        TcpPacket::new_unchecked(&mut ack[ip_len..]).set_seq_number(seq);
        Some(ack)
    }
}
