//! The frames of a DERP connection (Go: `derp/derp.go`): a type, a length in big endian, a body.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::key::NodePublic;

/// Packets may be this long.
pub(crate) const MAX_PACKET: usize = 64 << 10;
/// A longer frame means that the two sides no longer agree where frames begin.
const MAX_FRAME: usize = 1 << 20;
const HEADER_LEN: usize = 5;
const MAGIC: [u8; 8] = *b"DERP\xf0\x9f\x94\x91";

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The first one: the server's public key.
    ServerKey([u8; 32]),
    /// Limits, in a box: nonce, then ciphertext.
    ServerInfo { nonce: [u8; 24], sealed: Bytes },
    /// A peer's packet.
    Packet { from: NodePublic, packet: Bytes },
    /// Nothing but a sign of life.
    KeepAlive,
    /// This peer isn't connected here (any more).
    PeerGone(NodePublic),
    /// To be answered with the same bytes.
    Ping([u8; 8]),
    /// The answer to our ping.
    Pong([u8; 8]),
    /// What is wrong with the connection; empty: nothing any more.
    Health(String),
    /// The server goes down for a moment; how long to wait before the next attempt, in milliseconds.
    Restarting { reconnect_in: u32 },
    /// Of a type that isn't for us, or malformed inside: skipped.
    Other(u8),
}

/// The stream can't be understood any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes, the limit is {MAX_FRAME}")]
pub(crate) struct FrameTooLong(usize);

/// Takes the next whole frame out of `buf`; `None`: read more first.
pub(crate) fn decode(buf: &mut BytesMut) -> Result<Option<Frame>, FrameTooLong> {
    let Some((&[kind, l0, l1, l2, l3], rest)) = buf.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > MAX_FRAME {
        return Err(FrameTooLong(length));
    }
    if rest.len() < length {
        buf.reserve(HEADER_LEN + length - buf.len());
        return Ok(None);
    }
    buf.advance(HEADER_LEN);
    let body = buf.split_to(length).freeze();
    Ok(Some(decode_body(kind, &body).unwrap_or(Frame::Other(kind))))
}

fn decode_body(kind: u8, body: &Bytes) -> Option<Frame> {
    let key = || Some(NodePublic::from_bytes(*body.first_chunk()?));
    Some(match kind {
        0x01 => Frame::ServerKey(*body.strip_prefix(&MAGIC)?.first_chunk()?),
        0x03 => Frame::ServerInfo {
            nonce: *body.first_chunk()?,
            sealed: body.slice(24..),
        },
        0x05 if body.len() <= 32 + MAX_PACKET => Frame::Packet {
            from: key()?,
            packet: body.slice(32..),
        },
        0x06 => Frame::KeepAlive,
        0x08 => Frame::PeerGone(key()?),
        0x12 => Frame::Ping(*body.first_chunk()?),
        0x13 => Frame::Pong(*body.first_chunk()?),
        0x14 => Frame::Health(String::from_utf8_lossy(body).into_owned()),
        0x15 => Frame::Restarting {
            reconnect_in: u32::from_be_bytes(*body.first_chunk()?),
        },
        _ => return None,
    })
}

/// Who we are: `sealed` is the JSON of our client info in a box to the server's key.
pub(crate) fn put_client_info(out: &mut BytesMut, node: &NodePublic, nonce: &[u8; 24], sealed: &[u8]) {
    put_header(out, 0x02, 32 + 24 + sealed.len());
    out.put_slice(node.as_bytes());
    out.put_slice(nonce);
    out.put_slice(sealed);
}

/// A packet of at most [`MAX_PACKET`] bytes for a peer.
pub(crate) fn put_packet(out: &mut BytesMut, to: &NodePublic, packet: &[u8]) {
    put_header(out, 0x04, 32 + packet.len());
    out.put_slice(to.as_bytes());
    out.put_slice(packet);
}

/// This server is (not) where peers look for us.
pub(crate) fn put_note_preferred(out: &mut BytesMut, home: bool) {
    put_header(out, 0x07, 1);
    out.put_u8(home.into());
}

/// Asks the server for a sign of life.
pub(crate) fn put_ping(out: &mut BytesMut, data: &[u8; 8]) {
    put_header(out, 0x12, 8);
    out.put_slice(data);
}

/// Gives the server the sign of life that it asked for.
pub(crate) fn put_pong(out: &mut BytesMut, data: &[u8; 8]) {
    put_header(out, 0x13, 8);
    out.put_slice(data);
}

fn put_header(out: &mut BytesMut, kind: u8, length: usize) {
    out.reserve(HEADER_LEN + length);
    out.put_u8(kind);
    out.put_u32(u32::try_from(length).expect("frames are far below 4 GiB"));
}

#[cfg(test)]
pub(crate) mod server {
    //! What only a server says, for the fake one in tests.

    use super::*;

    pub(crate) fn put_server_key(out: &mut BytesMut, key: &[u8; 32]) {
        put_raw(out, 0x01, &[&MAGIC[..], key].concat());
    }

    pub(crate) fn put_raw(out: &mut BytesMut, kind: u8, body: &[u8]) {
        put_header(out, kind, body.len());
        out.put_slice(body);
    }
}

#[cfg(test)]
mod tests;
