//! What a fuzzer calls (`node/fuzz`), and `cargo test` with the fuzzer's corpus: the readers of bytes that
//! others send, and what has to hold whatever the bytes are. A target's name is its corpus's.

use std::{net::IpAddr, sync::LazyLock};

use bytes::{Buf, BytesMut};
use ipnet::IpNet;
use jiff::Timestamp;

pub use crate::control::fuzzing::{control_answers, map_frames, noise_records};
pub use crate::peerapi::fuzzing::peer_api;
use crate::{
    derp, disco,
    filter::{Filter, Inbound, Rules, Verdict},
    key::{DiscoPrivate, DiscoPublic},
    netmap::{Merger, Netmap, Node},
    netstack::{
        echo,
        packet::{self, Header, Segment},
        tcp::{fuzzing::hostile_peer, refusal},
    },
    stun, tailcfg,
};

const TCP: u8 = packet::TCP;
const UDP: u8 = 17;
const GRE: u8 = 47;

/// The messages of a map stream, one a line: nobody is taken for somebody else.
pub fn map_response(data: &[u8]) {
    let now = Timestamp::from_second(1_800_000_000).expect("a time of this century");
    let mut merger = Merger::new();
    let mut generation = 0;
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(response) = tailcfg::MapResponse::from_json(line) else {
            continue;
        };
        if let Ok(Some(netmap)) = merger.apply(response, now) {
            assert!(netmap.generation > generation);
            generation = netmap.generation;
            nobody_is_mistaken(&netmap);
        }
    }
}

fn nobody_is_mistaken(netmap: &Netmap) {
    let self_ip = netmap.self_node.ips().next();
    for node in netmap.peers.values().chain([&netmap.self_node]) {
        for ip in node.ips() {
            if let Some(found) = netmap.node_by_ip(ip) {
                assert!(found.ips().any(|own| own == ip), "{ip} is not of {found:?}");
            }
            let Some(who) = netmap.whois(ip, self_ip.unwrap_or(ip)) else {
                continue;
            };
            assert!(who.node.ips().any(|own| own == ip.to_canonical()), "{who:?}");
            assert_eq!(who.user.id, who.node.user);
            let ingress = |cap: &String| cap == "https://tailscale.com/cap/ingress";
            assert!(!who.node.unsigned_peer_api_only || who.caps.keys().all(ingress));
        }
        if let Some(found) = netmap.peer_by_key(&node.key) {
            assert!(found.key == node.key && !found.expired);
        }
    }
    for peer in netmap.peers.values() {
        assert!(!peer.expired || (peer.endpoints.is_empty() && peer.home_derp.is_none()));
        if let Some(dst) = self_ip
            && peer.unsigned_peer_api_only
        {
            let alone = |ip: &IpAddr| {
                netmap
                    .peers
                    .values()
                    .filter(|p| p.ips().any(|i| i == *ip))
                    .count()
                    == 1
            };
            for src in peer.ips().filter(alone) {
                assert_eq!(netmap.filter.check(&opening(src, dst, TCP)), Verdict::Drop);
            }
        }
    }
}

/// A packet filter: rules only ever allow, each by itself, and only towards ourselves.
pub fn filter_rules(data: &[u8]) {
    let Ok(rules) = serde_json::from_slice::<tailcfg::List<tailcfg::FilterRule>>(data) else {
        return;
    };
    let ours = ["100.64.0.1/32", "10.0.0.0/24", "fd7a:115c:a1e0::1/128"];
    let ours = ours.map(|net| net.parse::<IpNet>().expect("a network"));
    let filter = |rules: &[tailcfg::FilterRule]| {
        Filter::new(Rules::parse(rules).into(), ours, std::iter::empty::<&Node>())
    };
    let whole = filter(&rules);
    let single: Vec<_> = rules.chunks(1).map(filter).collect();
    let obsolete = |rule: &tailcfg::FilterRule| {
        !rule.src_bits.is_empty() || rule.dst_ports.iter().any(|to| to.bits.is_some())
    };
    let void = rules.iter().any(obsolete);

    let named = rules.iter().flat_map(|rule| {
        let dsts = rule.dst_ports.iter().map(|to| &to.ip);
        rule.src_ips.iter().chain(dsts)
    });
    let named = named.filter_map(|text| text.split(['/', '-']).next()?.parse::<IpAddr>().ok());
    let fixed = ours.iter().map(IpNet::addr);
    let addresses: Vec<_> = fixed.chain(named.take(12)).collect();
    for (src, dst) in addresses
        .iter()
        .flat_map(|src| addresses.iter().map(move |dst| (*src, *dst)))
    {
        for proto in [TCP, UDP, GRE, packet::ICMP, packet::ICMPV6] {
            let packet = opening(src, dst, proto);
            let accepts = |filter: &Filter| filter.check(&packet) == Verdict::Accept;
            let jailed = Inbound {
                jailed: true,
                ..packet
            };
            assert_eq!(whole.check(&jailed), Verdict::Drop, "{jailed:?}");
            assert!(
                !accepts(&whole) || ours.iter().any(|net| net.contains(&dst)),
                "{packet:?}"
            );
            assert_eq!(accepts(&whole), !void && single.iter().any(accepts), "{packet:?}");
        }
        let caps = whole.caps(src, dst);
        let granted = |cap: &String| single.iter().any(|one| one.caps(src, dst).contains_key(cap));
        assert!(caps.keys().all(granted) && (!void || caps.is_empty()), "{caps:?}");
    }
}

/// A packet that no rule has answered yet.
fn opening(src: IpAddr, dst: IpAddr, proto: u8) -> Inbound {
    Inbound {
        src: (src, 40_000).into(),
        dst: (dst, 443).into(),
        proto,
        tcp_syn: true,
        reply: false,
        icmp_request: true,
        jailed: false,
    }
}

/// A disco packet, and the inside of one: what was understood is said again in the same words.
pub fn disco(data: &[u8]) {
    // The keys of the vectors of Go.
    static KEYS: LazyLock<(DiscoPublic, disco::SharedKey)> = LazyLock::new(|| {
        let private = |from: u8| {
            let mut bytes: [u8; 32] = std::array::from_fn(|i| from + i as u8);
            bytes[0] &= 248;
            bytes[31] = (bytes[31] & 127) | 64;
            DiscoPrivate::from_bytes(bytes)
        };
        let sender = private(1).public();
        (sender, disco::SharedKey::new(&private(101), &sender))
    });
    let (sender, key) = &*KEYS;
    let _ = disco::sender(data);
    for message in [key.open(data), disco::Message::decode(data)]
        .into_iter()
        .flatten()
    {
        assert_eq!(disco::Message::decode(&message.encode()).as_ref(), Some(&message));
        if let disco::Message::CallMeMaybe(endpoints) = &message {
            assert!(endpoints.len() <= data.len() / 18);
        }
        let packet = key.seal(sender, [7; 24], &message);
        assert_eq!(disco::sender(&packet).as_ref(), Some(sender));
        assert_eq!(key.open(&packet), Some(message));
        let mut forged = packet.to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert_eq!(key.open(&forged), None);
    }
}

/// A STUN response: what stands behind the message is no part of it.
pub fn stun(data: &[u8]) {
    let answer = stun::parse_response(data);
    if let Some((tx, addr)) = answer {
        assert!(stun::is_stun(data) && data[8..20] == tx);
        assert!(addr.port() != 0 && addr.ip() == addr.ip().to_canonical());
        let longer = [data, &[0, 0x20, 0, 8, 0, 1, 9, 9, 9, 9, 9, 9]].concat();
        assert_eq!(stun::parse_response(&longer), answer);
    }
}

/// The stream of a DERP server: frames don't depend on how it is cut, nor memory on the lengths in it.
pub fn derp_frames(data: &[u8]) {
    let mut whole = BytesMut::from(data);
    let mut frames = Vec::new();
    let mut end = None;
    while end.is_none() {
        match derp::frame::decode(&mut whole) {
            Ok(Some(frame)) => frames.push(frame),
            other => end = Some(other),
        }
    }
    let (mut buf, mut frames) = (BytesMut::new(), frames.into_iter());
    for piece in data.chunks(7) {
        buf.extend_from_slice(piece);
        loop {
            match derp::frame::decode(&mut buf) {
                Ok(Some(frame)) => assert_eq!(Some(frame), frames.next()),
                Ok(None) => break,
                failed => return assert_eq!(Some(failed), end),
            }
        }
        assert!(buf.capacity() <= (2 << 20) + 2 * data.len());
    }
    assert_eq!((frames.next(), buf.remaining()), (None, whole.remaining()));
}

/// A packet out of the tunnel: whatever we answer goes back to its sender and to nobody else.
pub fn ip_packet(data: &[u8]) {
    let Some(header) = Header::parse(data) else {
        return;
    };
    assert!(header.payload.end <= data.len());
    if let Some(answer) = echo::reply(&header, data) {
        let back = goes_back(&header, &answer);
        assert_eq!(back.payload, header.payload);
        assert!(!echo::is_request(&back, &answer), "no answer is answered");
    }
    if let Some(answer) = echo::tsmp_reply(&header, data, 443) {
        let back = goes_back(&header, &answer);
        assert_eq!(echo::tsmp_reply(&back, &answer, 443), None);
    }
    if header.proto != TCP || header.fragmented {
        return;
    }
    if let Some(segment) = Segment::parse(&data[header.payload.clone()]) {
        let flow = header.flow(&segment);
        if let Some(answer) = refusal(&flow, data) {
            let back = goes_back(&header, &answer);
            let reset = Segment::parse(&answer[back.payload]).expect("we send whole segments");
            assert!(reset.is_reset());
            assert_eq!(
                (reset.src_port, reset.dst_port),
                (segment.dst_port, segment.src_port)
            );
        }
    }
}

/// A connection whose other end does what it likes.
pub fn tcp_segments(data: &[u8]) {
    hostile_peer(data);
}

fn goes_back(question: &Header, answer: &[u8]) -> Header {
    let header = Header::parse(answer).expect("we send whole packets");
    assert_eq!((header.src, header.dst), (question.dst, question.src));
    assert_eq!((header.proto, header.fragmented), (question.proto, false));
    header
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 11] = [
        ("control_answers", control_answers),
        ("derp_frames", derp_frames),
        ("disco", disco),
        ("filter_rules", filter_rules),
        ("ip_packet", ip_packet),
        ("map_frames", map_frames),
        ("map_response", map_response),
        ("noise_records", noise_records),
        ("peer_api", peer_api),
        ("stun", stun),
        ("tcp_segments", tcp_segments),
    ];

    #[test]
    fn everything_in_the_corpora_is_borne() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let files = fs::read_dir(corpora.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            assert!(!files.is_empty(), "{name}: the corpus is empty");
            for file in files {
                println!("{}", file.display());
                target(&fs::read(file).unwrap());
            }
        }
        assert_eq!(fs::read_dir(corpora).unwrap().count(), TARGETS.len());
    }
}
