//! Binding requests, by which a STUN server tells us how we look from outside (RFC 5389; Go: `net/stun`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Matches an answer with its request. Unpredictable: it proves that the request was received.
pub(crate) type TxId = [u8; 12];

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER_LEN: usize = 20;
const BINDING_REQUEST: [u8; 2] = [0, 1];
const BINDING_SUCCESS: [u8; 2] = [1, 1];
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// An early draft's number for the same, still sent by some servers.
const XOR_MAPPED_ADDRESS_DRAFT: u16 = 0x8020;
const SOFTWARE: [u8; 4] = [0x80, 0x22, 0, 8];
const FINGERPRINT: [u8; 4] = [0x80, 0x28, 0, 4];

/// Does this datagram belong to STUN? A WireGuard message never has the cookie where STUN has it unless its
/// sender chose so.
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_LEN && datagram[0] & 0xc0 == 0 && datagram[4..8] == COOKIE
}

/// A binding request. Tailscale's servers answer only what names this software and ends in a fingerprint.
pub(crate) fn request(tx: &TxId) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + 20);
    out.extend(BINDING_REQUEST);
    out.extend(20u16.to_be_bytes());
    out.extend(COOKIE);
    out.extend(tx);
    out.extend(SOFTWARE);
    out.extend(b"tailnode");
    let fingerprint = crc32(&out) ^ 0x5354_554e;
    out.extend(FINGERPRINT);
    out.extend(fingerprint.to_be_bytes());
    out
}

/// The transaction and our address as the server saw it. `None`: not a success response, or without one.
pub(crate) fn parse_response(datagram: &[u8]) -> Option<(TxId, SocketAddr)> {
    if !is_stun(datagram) || !datagram.starts_with(&BINDING_SUCCESS) {
        return None;
    }
    let tx: TxId = datagram[8..HEADER_LEN].try_into().ok()?;
    let length = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
    let mut attributes = datagram.get(HEADER_LEN..HEADER_LEN + length)?;
    let mut mapped = None;
    while let Some((&[k0, k1, l0, l1], rest)) = attributes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(..length)?;
        match u16::from_be_bytes([k0, k1]) {
            XOR_MAPPED_ADDRESS | XOR_MAPPED_ADDRESS_DRAFT => {
                if let Some(addr) = parse_address(value, Some(&tx)) {
                    return Some((tx, addr));
                }
            }
            // Some NATs rewrite addresses that they find in payloads, so the masked one is preferred.
            MAPPED_ADDRESS => mapped = parse_address(value, None),
            _ => {}
        }
        attributes = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((tx, mapped?))
}

/// An address attribute's value, masked with cookie and transaction if there is one.
fn parse_address(value: &[u8], mask: Option<&TxId>) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], ip) = value.split_first_chunk()?;
    let mut key = [0; 16];
    if let Some(tx) = mask {
        key[..4].copy_from_slice(&COOKIE);
        key[4..].copy_from_slice(tx);
    }
    let port = u16::from_be_bytes([p0 ^ key[0], p1 ^ key[1]]);
    let ip = match family {
        1 => {
            let raw: [u8; 4] = ip.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(std::array::from_fn(|i| raw[i] ^ key[i])))
        }
        2 => {
            let raw: [u8; 16] = ip.try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| {
                raw[i] ^ key[i]
            })))
        }
        _ => return None,
    };
    (port != 0).then(|| SocketAddr::new(ip.to_canonical(), port))
}

/// CRC-32 as in ISO 3309 (polynomial `0xedb88320`, reflected). A few hundred bits a minute: no table needed.
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests;
