//! The packet filter with Go's semantics (`wgengine/filter`), and the capabilities that its rules grant.
//!
//! Pure: rules and a packet's 5-tuple in, a verdict out. The only state, which UDP flows we started, is
//! the caller's and passed in as `reply`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::netmap::{CapMap, Node};

#[cfg(any(test, feature = "bench"))]
pub(crate) mod go;
mod inbound;
mod ranges;
mod rules;

pub use inbound::Inbound;
use inbound::{ICMPV4, ICMPV6, SCTP, TCP, TSMP, UDP};
pub use ranges::Ranges;
pub use rules::{Rejected, Rules};

/// All rules that hold for this node, parsed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    rules: Arc<Rules>,
    /// The destinations that are ours: own addresses, those of our `svc:` services, advertised routes.
    local: Ranges,
    /// For every node capability that a rule names as a source, the peers' addresses that have it.
    holders: BTreeMap<String, Ranges>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let it in.
    Accept,
    /// Not for us, or no rule allows it.
    Drop,
}

/// The one link-local destination that Go lets through: the metadata and DNS server of clouds.
const CLOUD_METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

impl Filter {
    /// Combines parsed rules with what they refer to: our own destinations, and peers that have a capability.
    ///
    /// Fails closed as Go does: when a rule lets in an address of a peer whose key is not signed, all rules
    /// are off, since control must not open the network to it (`packetFilterPermitsUnlockedNodes`).
    pub fn new<'a>(
        rules: Arc<Rules>,
        local: impl IntoIterator<Item = IpNet>,
        peers: impl Iterator<Item = &'a Node> + Clone,
    ) -> Self {
        let unsigned = peers.clone().filter(|peer| peer.unsigned_peer_api_only);
        let unsigned = Ranges::from_nets(unsigned.flat_map(|peer| peer.allowed_ips.iter().copied()));
        let rules = if rules.lets_in(&unsigned) {
            tracing::warn!("Packet filter lets in a peer without a signed key; all rules are off");
            Arc::default()
        } else {
            rules
        };
        let holders = rules
            .source_caps()
            .into_iter()
            .map(|cap| (cap.to_owned(), holders(cap, peers.clone())))
            .collect();
        Self {
            rules,
            local: Ranges::from_nets(local),
            holders,
        }
    }

    /// Decides about an inbound packet. A destination that is not ours is dropped.
    pub fn check(&self, packet: &Inbound) -> Verdict {
        match self.accepts(packet) {
            true => Verdict::Accept,
            false => Verdict::Drop,
        }
    }

    /// The capabilities that `src` has towards `dst`.
    ///
    /// Values of one capability are appended in the order of the rules; one that is granted without values
    /// has an empty list.
    pub fn caps(&self, src: IpAddr, dst: IpAddr) -> CapMap {
        let mut caps = CapMap::new();
        for rule in self.rules.iter().filter(|rule| rule.sources.contains(src)) {
            for grant in rule.grants.iter().filter(|grant| grant.dst.contains(&dst)) {
                let values = caps.entry(grant.cap.clone()).or_default();
                values.extend(grant.values.iter().cloned());
            }
        }
        caps
    }

    /// The order is Go's: `pre`, then `runIn4`/`runIn6` (`filter.go`).
    fn accepts(&self, packet: &Inbound) -> bool {
        let (src, dst) = (packet.src.ip(), packet.dst.ip());
        // Go's numbers for "could not be parsed" and "fragment"; no real packet has them.
        let unknown = matches!(packet.proto, 0 | 0xff);
        if unknown || src.is_ipv4() != dst.is_ipv4() || dst.is_multicast() || is_link_local(dst) {
            return false;
        }
        if !self.local.contains(dst) {
            return false;
        }
        match (packet.proto, dst) {
            (ICMPV4, IpAddr::V4(_)) | (ICMPV6, IpAddr::V6(_)) => {
                !packet.icmp_request || self.any_port_is_open(packet)
            }
            (TCP, _) => !packet.tcp_syn || self.is_allowed(packet),
            (UDP | SCTP, _) => packet.reply || self.is_allowed(packet),
            (TSMP, _) => true,
            _ => self.all_ports_are_open(packet),
        }
    }

    fn rules_for(&self, packet: &Inbound) -> impl Iterator<Item = &rules::Rule> {
        (!packet.jailed).then(|| self.rules.iter()).into_iter().flatten()
    }

    fn is_allowed(&self, packet: &Inbound) -> bool {
        let (src, dst) = (packet.src.ip(), packet.dst);
        self.rules_for(packet).any(|rule| {
            rule.protos.contains(packet.proto)
                && (rule.sources.contains(src) || self.has_source_cap(rule, src))
                && rule
                    .dsts
                    .iter()
                    .any(|to| to.net.contains(dst.ip()) && to.ports.contains(&dst.port()))
        })
    }

    /// ICMP: whoever may reach some port of an address, by whatever protocol, may ping it. Whoever is let in
    /// by a capability may ping all our addresses of the family (Go: `matchIPsOnly`).
    fn any_port_is_open(&self, packet: &Inbound) -> bool {
        let (src, dst) = (packet.src.ip(), packet.dst.ip());
        self.rules_for(packet).any(|rule| {
            let opens = |some: &dyn Fn(&Ranges) -> bool| rule.dsts.iter().any(|to| some(&to.net));
            rule.sources.contains(src) && opens(&|net| net.contains(dst))
                || self.has_source_cap(rule, src) && opens(&|net| net.has_family(dst.is_ipv4()))
        })
    }

    /// Protocols without ports that we know (Go: `matchProtoAndIPsOnlyIfAllPorts`).
    fn all_ports_are_open(&self, packet: &Inbound) -> bool {
        let (src, dst) = (packet.src.ip(), packet.dst.ip());
        self.rules_for(packet).any(|rule| {
            rule.protos.contains(packet.proto)
                && rule.sources.contains(src)
                && rule
                    .dsts
                    .iter()
                    .any(|to| to.ports == (0..=u16::MAX) && to.net.contains(dst))
        })
    }

    fn has_source_cap(&self, rule: &rules::Rule, src: IpAddr) -> bool {
        rule.source_caps
            .iter()
            .any(|cap| self.holders.get(cap).is_some_and(|holders| holders.contains(src)))
    }
}

/// A peer has a capability by its own addresses, not by routes; an unsigned one has none
/// (Go: `srcIPHasCapForFilter`).
fn holders<'a>(cap: &str, peers: impl Iterator<Item = &'a Node>) -> Ranges {
    let holders = peers.filter(|peer| !peer.unsigned_peer_api_only && peer.cap_map.contains_key(cap));
    Ranges::from_nets(holders.flat_map(|peer| peer.ips().map(IpNet::from)))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local() && ip != CLOUD_METADATA,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
