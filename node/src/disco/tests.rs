//! Vectors are what `tailscale.com/disco` v1.102.3 sealed from key A to key B.

use proptest::prelude::*;

use super::*;

const VECTORS: &str = include_str!("vectors.txt");

fn private(from: u8) -> DiscoPrivate {
    let mut bytes: [u8; 32] = std::array::from_fn(|i| from + i as u8);
    bytes[0] &= 248;
    bytes[31] = (bytes[31] & 127) | 64;
    DiscoPrivate::from_bytes(bytes)
}

fn keys() -> (DiscoPrivate, DiscoPrivate) {
    (private(1), private(101))
}

fn vector(name: &str) -> Vec<u8> {
    let line = VECTORS
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    hex::decode(line.unwrap()).unwrap()
}

fn messages() -> Vec<(&'static str, Message)> {
    let tx = std::array::from_fn(|i| 50 + i as u8);
    let node = Some(NodePublic::from_bytes(std::array::from_fn(|i| 201 + i as u8)));
    let v4 = "192.0.2.7:41641".parse().unwrap();
    let v6 = "[2001:db8::7]:1234".parse().unwrap();
    let ping = |node, padding| Message::Ping { tx, node, padding };
    vec![
        ("ping", ping(node, 0)),
        ("ping-padded", ping(node, 5)),
        ("ping-old", ping(None, 0)),
        ("pong4", Message::Pong { tx, src: v4 }),
        ("pong6", Message::Pong { tx, src: v6 }),
        ("cmm", Message::CallMeMaybe(vec![v4, v6])),
        ("cmm-empty", Message::CallMeMaybe(vec![])),
    ]
}

#[test]
fn what_go_sealed_opens_and_seals_to_the_same_bytes() {
    let (a, b) = keys();
    let ours = SharedKey::new(&b, &a.public());
    let theirs = SharedKey::new(&a, &b.public());
    for (name, message) in messages() {
        let packet = vector(name);
        assert_eq!(sender(&packet), Some(a.public()), "{name}");
        assert_eq!(ours.open(&packet).as_ref(), Some(&message), "{name}");
        let nonce = packet[NONCE].try_into().unwrap();
        assert_eq!(theirs.seal(&a.public(), nonce, &message), packet, "{name}");
    }
}

#[test]
fn unknown_types_and_forgeries_are_nothing() {
    let (a, b) = keys();
    let shared = SharedKey::new(&b, &a.public());
    assert_eq!(shared.open(&vector("bind")), None);
    let mut forged = vector("ping");
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(shared.open(&forged), None);
    assert_eq!(SharedKey::new(&b, &b.public()).open(&vector("ping")), None);
}

#[test]
fn trailing_bytes_are_ignored() {
    for (name, message) in messages() {
        let mut plain = message.encode();
        plain.push(0);
        let decoded = Message::decode(&plain);
        match message {
            // Here they are padding.
            Message::Ping { .. } => assert!(matches!(decoded, Some(Message::Ping { .. })), "{name}"),
            other => assert_eq!(decoded, Some(other), "{name}"),
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (a, b) = keys();
        let _ = Message::decode(&bytes);
        let mut packet = MAGIC.to_vec();
        packet.extend(&bytes);
        let _ = sender(&packet);
        let _ = sender(&bytes);
        let _ = SharedKey::new(&b, &a.public()).open(&packet);
    }
}
