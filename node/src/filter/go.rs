//! Our filter beside Go's: what `e2e/lab/tailnet/filterdiff` says of the same bytes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{Filter, Inbound, Rules, Verdict, inbound::*};
use crate::{key::NodePublic, netmap::Node, netstack::packet::Header, tailcfg};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Case {
    rules: Option<Vec<tailcfg::FilterRule>>,
    local: Option<Vec<IpNet>>,
    holders: BTreeMap<IpAddr, Vec<String>>,
    packets: Vec<Packet>,
    caps: Vec<Caps>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Packet {
    bytes: String,
    #[serde(default)]
    reply: bool,
    /// Of what Go lets in we may drop this.
    #[serde(default)]
    strict: bool,
    verdict: Said,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Drop,
    /// Let in whatever the rules are.
    Always,
    Rule,
    /// By a rule for a capability of the sender.
    Cap,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Caps {
    src: IpAddr,
    dst: IpAddr,
    caps: Option<BTreeMap<String, Option<Vec<Box<RawValue>>>>>,
}

/// Puts the cases, JSON lines with what Go said, to our filter.
///
/// # Panics
/// At the first difference, and when the cases say too little.
pub fn compare(cases: &str) {
    let mut seen = Seen::default();
    for (number, line) in cases.lines().enumerate() {
        let case: Case = serde_json::from_str(line).expect("a case");
        let peers: Vec<_> = case.holders.iter().map(|(ip, caps)| peer(*ip, caps)).collect();
        let rules = Rules::parse(case.rules.iter().flatten());
        let filter = Filter::new(rules.into(), case.local.unwrap_or_default(), peers.iter());
        for packet in &case.packets {
            let bytes = BASE64_STANDARD.decode(&packet.bytes).expect("bytes");
            let read = read(&bytes, packet.reply);
            let ours = read.is_some_and(|inbound| filter.check(&inbound) == Verdict::Accept);
            let gos = packet.verdict != Said::Drop;
            assert!(
                ours == gos || (packet.strict && gos),
                "line {number}: we let it in: {ours}; {packet:?}, read as {read:?}"
            );
            seen.note(packet, read);
        }
        for question in &case.caps {
            let expected = question.caps.iter().flatten();
            let expected = expected.map(|(cap, values)| (cap, values.as_deref().unwrap_or_default()));
            let caps = filter.caps(question.src, question.dst);
            seen.granted += caps.len();
            let caps = caps.iter().map(|(cap, values)| (cap, values.as_slice()));
            assert_eq!(text(caps), text(expected), "line {number}: {question:?}");
        }
    }
    seen.is_enough();
}

/// What the engine asks the filter about; `None` for what it drops before.
fn read(packet: &[u8], reply: bool) -> Option<Inbound> {
    let inbound = Inbound::parse(&Header::parse(packet)?, packet)?;
    Some(Inbound { reply, ..inbound })
}

/// So that the comparison can't become empty unnoticed.
#[derive(Default)]
struct Seen {
    packets: usize,
    of: BTreeMap<(Said, u8, bool), usize>,
    strict: BTreeMap<Said, usize>,
    granted: usize,
}

impl Seen {
    fn note(&mut self, packet: &Packet, read: Option<Inbound>) {
        self.packets += 1;
        if packet.strict {
            *self.strict.entry(packet.verdict).or_default() += 1;
        } else if let Some(Inbound { proto, dst, .. }) = read {
            let class = (packet.verdict, proto, SocketAddr::is_ipv4(&dst));
            *self.of.entry(class).or_default() += 1;
        }
    }

    fn is_enough(&self) {
        let count = |wanted: &dyn Fn(Said, u8, bool) -> bool| -> usize {
            let classes = self
                .of
                .iter()
                .filter(|((said, proto, v4), _)| wanted(*said, *proto, *v4));
            classes.map(|(_, count)| count).sum()
        };
        let most = self.packets / 300;
        for (proto, v4) in [
            (TCP, true),
            (TCP, false),
            (UDP, true),
            (UDP, false),
            (ICMPV4, true),
            (ICMPV6, false),
            (SCTP, true),
        ] {
            for said in [Said::Drop, Said::Rule] {
                let few = count(&|s, p, v| (s, p, v) == (said, proto, v4));
                assert!(few >= most, "{said:?}, protocol {proto}, IPv4 {v4}: {few}");
            }
        }
        let usual = [TCP, UDP, SCTP, ICMPV4, ICMPV6];
        let others = count(&|said, proto, _| said == Said::Rule && !usual.contains(&proto));
        assert!(others >= most, "other protocols by a rule: {others}");
        for (said, share) in [
            (Said::Drop, 4),
            (Said::Always, 20),
            (Said::Rule, 10),
            (Said::Cap, 30),
        ] {
            let some = count(&|s, _, _| s == said);
            assert!(some >= self.packets / share, "{said:?}: {some}");
        }
        for v4 in [true, false] {
            let by_cap = count(&|said, _, v| said == Said::Cap && v == v4);
            assert!(by_cap >= most, "by a capability, IPv4 {v4}: {by_cap}");
        }
        for said in [Said::Drop, Said::Always, Said::Rule] {
            assert!(self.strict.get(&said) >= Some(&most), "{:?}", self.strict);
        }
        assert!(self.granted >= 20, "capabilities granted: {}", self.granted);
    }
}

fn peer(ip: IpAddr, caps: &[String]) -> Node {
    let caps: BTreeMap<_, _> = caps.iter().map(|cap| (cap, ())).collect();
    let node = json!({"ID": 1, "Key": NodePublic::from_bytes([1; 32]), "Addresses": [IpNet::from(ip)], "CapMap": caps});
    let node: tailcfg::Node = serde_json::from_str(&node.to_string()).expect("a node");
    node.into()
}

fn text<'a>(
    caps: impl Iterator<Item = (&'a String, &'a [Box<RawValue>])>,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    caps.map(|(cap, values)| (cap.as_str(), values.iter().map(|v| v.get()).collect()))
        .collect()
}
