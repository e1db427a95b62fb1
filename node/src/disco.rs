//! The messages by which peers find paths to each other (Go: `disco/disco.go`).
//!
//! A packet is the magic, the sender's disco key, a nonce and a NaCl box. Who doesn't hold one of the two
//! private keys can neither read nor forge it. What is unknown is ignored, so that newer peers can say more.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use crypto_box::{PublicKey, SalsaBox, SecretKey, aead::AeadInPlace};

use crate::key::{DiscoPrivate, DiscoPublic, NodePublic};

/// Matches a pong with its ping. Unpredictable: it proves that the ping was received at its destination.
pub(crate) type TxId = [u8; 12];

const MAGIC: [u8; 6] = *b"TS\xf0\x9f\x92\xac";
const KEY: std::ops::Range<usize> = 6..38;
const NONCE: std::ops::Range<usize> = 38..62;
const TAG: std::ops::Range<usize> = 62..78;
const BODY: usize = 78;
const ENDPOINT_LEN: usize = 18;

/// What is inside of the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// "Do you hear me here?"
    Ping {
        tx: TxId,
        /// Tells nodes apart that share a disco key. Old clients don't send it.
        node: Option<NodePublic>,
        /// Zero bytes behind it, by which path MTU probes reach their size.
        padding: usize,
    },
    /// "Yes, and you look like this from here."
    Pong { tx: TxId, src: SocketAddr },
    /// "I have pinged you; ping me at these." Only of value over DERP.
    CallMeMaybe(Vec<SocketAddr>),
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ping { tx, node, padding } => {
                let mut out = vec![1, 0];
                out.extend(tx);
                out.extend(node.iter().flat_map(NodePublic::as_bytes));
                out.resize(out.len() + padding, 0);
                out
            }
            Self::Pong { tx, src } => {
                let mut out = vec![2, 0];
                out.extend(tx);
                out.extend(encode_endpoint(*src));
                out
            }
            Self::CallMeMaybe(endpoints) => {
                let mut out = vec![3, 0];
                out.extend(endpoints.iter().flat_map(|e| encode_endpoint(*e)));
                out
            }
        }
    }

    /// `None`: a type that is not known here, or too short for its type.
    pub(crate) fn decode(plain: &[u8]) -> Option<Self> {
        let (&[kind, version], body) = plain.split_first_chunk()?;
        match kind {
            1 => {
                let (tx, rest) = body.split_first_chunk()?;
                let node = rest.first_chunk().map(|key| NodePublic::from_bytes(*key));
                let padding = rest.len() - node.map_or(0, |_| 32);
                Some(Self::Ping {
                    tx: *tx,
                    node,
                    padding,
                })
            }
            2 => {
                let (tx, rest) = body.split_first_chunk()?;
                let src = decode_endpoint(rest.first_chunk()?);
                Some(Self::Pong { tx: *tx, src })
            }
            // As in Go, a list of a later version is no list to us.
            3 if version == 0 => {
                let (endpoints, _) = body.as_chunks();
                Some(Self::CallMeMaybe(endpoints.iter().map(decode_endpoint).collect()))
            }
            _ => None,
        }
    }
}

fn encode_endpoint(addr: SocketAddr) -> [u8; ENDPOINT_LEN] {
    let ip = match addr.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut out = [0; ENDPOINT_LEN];
    out[..16].copy_from_slice(&ip.octets());
    out[16..].copy_from_slice(&addr.port().to_be_bytes());
    out
}

fn decode_endpoint(raw: &[u8; ENDPOINT_LEN]) -> SocketAddr {
    let (ip, port) = raw.split_first_chunk::<16>().expect("16 of 18 bytes");
    let ip = Ipv6Addr::from(*ip).to_canonical();
    SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]]))
}

/// The disco key that claims to have sent this packet; `None`: it isn't a disco packet.
pub(crate) fn sender(packet: &[u8]) -> Option<DiscoPublic> {
    if !packet.starts_with(&MAGIC) {
        return None;
    }
    let key = packet.get(KEY)?.try_into().ok()?;
    Some(DiscoPublic::from_bytes(key))
}

/// What the two private keys agree on, computed once: it costs a hundred times what a message costs.
pub(crate) struct SharedKey(SalsaBox);

impl SharedKey {
    pub(crate) fn new(ours: &DiscoPrivate, theirs: &DiscoPublic) -> Self {
        Self(SalsaBox::new(
            &PublicKey::from(*theirs.as_bytes()),
            &SecretKey::from(*ours.expose_bytes()),
        ))
    }

    /// A packet from `from`. A nonce is good for one message.
    pub(crate) fn seal(&self, from: &DiscoPublic, nonce: [u8; 24], message: &Message) -> Bytes {
        let mut packet = Vec::with_capacity(BODY + 64);
        packet.extend(MAGIC);
        packet.extend(from.as_bytes());
        packet.extend(nonce);
        packet.resize(BODY, 0);
        packet.extend(message.encode());
        let tag = self
            .0
            .encrypt_in_place_detached(&nonce.into(), &[], &mut packet[BODY..])
            .expect("no limit of length is near and there is no associated data");
        packet[TAG].copy_from_slice(&tag);
        packet.into()
    }

    /// The message in a packet whose [`sender`] is the other side of this key. `None`: forged or damaged,
    /// or nothing that is known here.
    pub(crate) fn open(&self, packet: &[u8]) -> Option<Message> {
        let nonce: [u8; 24] = packet.get(NONCE)?.try_into().ok()?;
        let tag: [u8; 16] = packet.get(TAG)?.try_into().ok()?;
        let mut plain = packet.get(BODY..)?.to_vec();
        self.0
            .decrypt_in_place_detached(&nonce.into(), &[], &mut plain, &tag.into())
            .ok()?;
        Message::decode(&plain)
    }
}

impl std::fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests;
