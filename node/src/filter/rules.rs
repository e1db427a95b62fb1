//! From control's rules (`tailcfg.FilterRule`) to ours.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use serde_json::value::RawValue;

use super::{ICMPV4, ICMPV6, Ranges, TCP, UDP, ranges::everything};
use crate::tailcfg;

/// Parsed rules, in control's order.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    rejected: Vec<Rejected>,
}

/// Something in a rule that made no sense; only that part is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule}: {field} {text:?}: {reason}")]
pub struct Rejected {
    /// Which rule, counted from 0.
    pub rule: usize,
    /// `SrcIPs`, `SrcBits` or `DstPorts`.
    pub field: &'static str,
    /// What was sent.
    pub text: String,
    /// Why it was left out.
    pub reason: &'static str,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) protos: Protos,
    pub(super) sources: Ranges,
    /// Peers with one of these node capabilities are sources too, but not for `grants`.
    pub(super) source_caps: Vec<String>,
    pub(super) dsts: Vec<Destination>,
    pub(super) grants: Vec<Grant>,
}

#[derive(Debug)]
pub(super) struct Destination {
    pub(super) net: Ranges,
    pub(super) ports: RangeInclusive<u16>,
}

#[derive(Debug)]
pub(super) struct Grant {
    pub(super) dst: IpNet,
    pub(super) cap: String,
    pub(super) values: Vec<Box<RawValue>>,
}

impl Rules {
    /// Parses rules. What can't be understood is left out and listed in [`Rules::rejected`]; the obsolete
    /// `SrcBits` and `Bits` void all rules, as in Go (`MatchesFromFilterRules`).
    pub fn parse<'a>(rules: impl IntoIterator<Item = &'a tailcfg::FilterRule>) -> Self {
        let mut parsed = Self::default();
        for (number, rule) in rules.into_iter().enumerate() {
            let obsolete = !rule.src_bits.is_empty() || rule.dst_ports.iter().any(|d| d.bits.is_some());
            if obsolete {
                let reason = "is obsolete and voids all rules";
                parsed.rules.clear();
                parsed.reject(number, "SrcBits", "", reason);
                return parsed;
            }
            let rule = parsed.rule(number, rule);
            parsed.rules.push(rule);
        }
        parsed
    }

    /// What was left out.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// Whether the rules depend on which peer has which node capability.
    pub fn name_caps(&self) -> bool {
        self.rules.iter().any(|rule| !rule.source_caps.is_empty())
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.rules.iter()
    }

    /// All node capabilities that some rule names as its source.
    pub(super) fn source_caps(&self) -> BTreeSet<&str> {
        let caps = self.rules.iter().flat_map(|rule| &rule.source_caps);
        caps.map(String::as_str).collect()
    }

    /// Whether some rule opens a port to one of these addresses.
    pub(super) fn lets_in(&self, addresses: &Ranges) -> bool {
        let mut opening = self.rules.iter().filter(|rule| !rule.dsts.is_empty());
        opening.any(|rule| rule.sources.overlaps(addresses))
    }

    fn rule(&mut self, number: usize, rule: &tailcfg::FilterRule) -> Rule {
        let mut source_caps = Vec::new();
        let mut sources = Vec::new();
        for text in &rule.src_ips {
            match text.strip_prefix("cap:") {
                Some(cap) => source_caps.push(cap.to_owned()),
                None => match parse_addresses(text) {
                    Ok(ranges) => sources.extend(ranges),
                    Err(reason) => self.reject(number, "SrcIPs", text, reason),
                },
            }
        }
        let mut dsts = Vec::new();
        for to in &rule.dst_ports {
            match parse_addresses(&to.ip) {
                Ok(ranges) => dsts.push(Destination {
                    net: ranges.into_iter().collect(),
                    ports: to.ports.first..=to.ports.last,
                }),
                Err(reason) => self.reject(number, "DstPorts", &to.ip, reason),
            }
        }
        let mut grants = Vec::new();
        for grant in &rule.cap_grant {
            for dst in &grant.dsts {
                grants.extend(granted(grant, *dst));
            }
        }
        Rule {
            protos: Protos::new(&rule.ip_proto),
            sources: sources.into_iter().collect(),
            source_caps,
            dsts,
            grants,
        }
    }

    fn reject(&mut self, rule: usize, field: &'static str, text: &str, reason: &'static str) {
        self.rejected.push(Rejected {
            rule,
            field,
            text: text.to_owned(),
            reason,
        });
    }
}

/// The old list `Caps` first, then `CapMap`, as Go does.
fn granted(grant: &tailcfg::CapGrant, dst: IpNet) -> impl Iterator<Item = Grant> + '_ {
    let without_values = grant.caps.iter().map(|cap| (cap, Vec::new()));
    let with_values = grant.cap_map.iter().map(|(cap, values)| (cap, values.clone()));
    without_values
        .chain(with_values)
        .filter(|(cap, _)| !cap.is_empty())
        .map(move |(cap, values)| Grant {
            dst,
            cap: cap.clone(),
            values,
        })
}

/// `*`, an address, a CIDR without host bits, or `first-last` (Go: `parseIPSet`).
fn parse_addresses(text: &str) -> Result<Vec<RangeInclusive<IpAddr>>, &'static str> {
    if text == "*" {
        return Ok(everything().into());
    }
    if text.contains('/') {
        let net: IpNet = text.parse().map_err(|_| "not a network in CIDR form")?;
        if net.addr() != net.network() {
            return Err("has bits set outside of its prefix");
        }
        return Ok(vec![net.network()..=net.broadcast()]);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<IpAddr>(), last.parse::<IpAddr>()) {
        (Ok(first), Ok(last)) if first.is_ipv4() != last.is_ipv4() => Err("range over two families"),
        (Ok(first), Ok(last)) if first > last => Err("range ends before it starts"),
        (Ok(first), Ok(last)) => Ok(vec![first..=last]),
        _ => Err("not an IP address, network, range or `*`"),
    }
}

/// A set of IP protocol numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Protos([u64; 4]);

impl Protos {
    /// No numbers stand for the usual ones; numbers that are none are ignored.
    fn new(numbers: &[i64]) -> Self {
        let usual = [TCP, UDP, ICMPV4, ICMPV6].map(i64::from);
        let numbers = if numbers.is_empty() { &usual } else { numbers };
        let mut set = [0; 4];
        for number in numbers.iter().filter_map(|n| u8::try_from(*n).ok()) {
            set[usize::from(number) / 64] |= 1 << (number % 64);
        }
        Self(set)
    }

    pub(super) fn contains(self, number: u8) -> bool {
        self.0[usize::from(number) / 64] & (1 << (number % 64)) != 0
    }
}
