//! From control's messages to snapshots (Go: `control/controlclient/map.go`).
//!
//! Pure: a message and the time in, a snapshot out. What a message doesn't touch is shared with the
//! snapshot before.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::{Netmap, Node, UserId, UserProfile, index::Index};
use crate::{
    derp_map::{DerpMap, DerpRegion},
    filter::{Filter, Rules},
    tailcfg,
};

mod peers;

use peers::Peers;

/// Clocks that differ by less are taken as equal (Go: `ipn/ipnlocal/expiry.go`).
const MIN_CLOCK_DELTA: SignedDuration = SignedDuration::from_mins(1);

/// Everything that control has said on one map stream.
#[derive(Debug, Default)]
pub struct Merger {
    generation: u64,
    keep_details: bool,
    /// Control's clock minus ours.
    clock_delta: SignedDuration,
    self_node: Option<Arc<Node>>,
    peers: Peers,
    users: BTreeMap<UserId, Arc<UserProfile>>,
    derp: Arc<DerpMap>,
    /// The packet filter's rules by the names of their chunks.
    chunks: BTreeMap<String, Vec<tailcfg::FilterRule>>,
    rules: Arc<Rules>,
    filter: Arc<Filter>,
    dns: tailcfg::DnsConfig,
    /// Taken out of `dns`: every snapshot shares them.
    extra_records: Arc<[tailcfg::DnsRecord]>,
    domain: String,
    health: Vec<String>,
    messages: BTreeMap<String, tailcfg::DisplayMessage>,
    index: Index,
}

/// Why a message can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The first message of a stream must say who we are.
    #[error("the first map does not describe this node")]
    NoSelf,
}

impl Merger {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, and keeps every node's [`super::Details`].
    pub fn keeping_details() -> Self {
        Self {
            keep_details: true,
            ..Self::default()
        }
    }

    /// A new map stream begins, and with it a full map: forgets all but the count of generations.
    pub fn restart(&mut self) {
        *self = Self {
            generation: self.generation,
            keep_details: self.keep_details,
            ..Self::default()
        };
    }

    /// Takes in a message; `now` is our clock's time. A snapshot is returned when something has changed,
    /// be it only that a peer's key has ended meanwhile or a clock has been set.
    ///
    /// # Errors
    /// When nothing is known about this node yet and the message doesn't say it.
    pub fn apply(
        &mut self,
        mut response: tailcfg::MapResponse,
        now: Timestamp,
    ) -> Result<Option<Arc<Netmap>>, MergeError> {
        if !self.keep_details {
            forget_details(&mut response);
        }
        let mut clock_changed = false;
        if let Some(control) = response.control_time {
            let delta = control.duration_since(now);
            let matters = delta.abs() >= MIN_CLOCK_DELTA;
            let delta = if matters { delta } else { SignedDuration::ZERO };
            if (delta - self.clock_delta).abs() >= MIN_CLOCK_DELTA {
                self.clock_delta = delta;
                clock_changed = true;
            }
        }
        let now = now.saturating_add(self.clock_delta).unwrap_or(now);
        if response.keep_alive {
            let Some(self_node) = self.self_node.clone() else {
                return Ok(None);
            };
            let ended = self.peers.expire(now, &mut self.index).any;
            return Ok((ended || clock_changed).then(|| self.publish(self_node)));
        }
        let before = self.self_node.clone();
        let self_node = response.node.map(|node| Arc::new(Node::from(node)));
        let self_changed = self_node.is_some();
        let self_node = self_node.or_else(|| before.clone()).ok_or(MergeError::NoSelf)?;
        if self_changed {
            self.index.replace(before.as_deref(), Some(&self_node), true);
            self.self_node = Some(self_node.clone());
        }
        let peers = PeerDelta {
            all: response.peers,
            removed: response.peers_removed,
            changed: response.peers_changed,
            seen: response.peer_seen_change,
            online: response.online_change,
            patches: response.peers_changed_patch,
        };
        let mut peers = self.peers.merge(peers, now, &mut self.index);
        peers.add(self.peers.expire(now, &mut self.index));

        let mut changed = self_changed || clock_changed || peers.any;
        changed |= self.merge_users(response.user_profiles);
        changed |= response.derp_map.map(|map| self.merge_derp(map)).is_some();
        if let Some(mut dns) = response.dns_config {
            self.extra_records = std::mem::take(&mut dns.extra_records).into();
            self.dns = dns;
            changed = true;
        }
        changed |= self.merge_health(response.health, response.display_messages);
        if !response.domain.is_empty() {
            self.domain = response.domain;
            changed = true;
        }
        let rules_changed = self.merge_rules(response.packet_filter, response.packet_filters);
        let peers_matter = peers.unsigned || (peers.caps && self.rules.name_caps());
        if rules_changed || self_changed || peers_matter {
            self.renew_filter(&self_node);
            changed = true;
        }
        Ok(changed.then(|| self.publish(self_node)))
    }

    fn renew_filter(&mut self, self_node: &Node) {
        let own = self_node.addresses.iter().copied();
        let services = self_node.service_hosts().into_values().flatten();
        let local = own.chain(services.map(IpNet::from));
        self.filter = Arc::new(Filter::new(self.rules.clone(), local, self.peers.shown()));
    }

    fn publish(&mut self, self_node: Arc<Node>) -> Arc<Netmap> {
        self.generation += 1;
        Arc::new(Netmap {
            generation: self.generation,
            magic_dns_suffix: magic_dns_suffix(&self_node.name, &self.dns),
            self_node,
            peers: self.peers.snapshot(),
            users: self.users.clone(),
            derp: self.derp.clone(),
            filter: self.filter.clone(),
            cert_domains: self
                .dns
                .cert_domains
                .iter()
                .map(|name| name.trim_matches('.').to_owned())
                .collect(),
            extra_records: self.extra_records.clone(),
            domain: self.domain.clone(),
            magic_dns: self.dns.proxied,
            health: self.problems(),
            clock_delta: self.clock_delta,
            index: self.index.clone(),
        })
    }

    fn merge_users(&mut self, users: tailcfg::List<tailcfg::UserProfile>) -> bool {
        let changed = !users.is_empty();
        let users = users.into_iter().map(|user| (user.id, Arc::new(user.into())));
        self.users.extend(users);
        changed
    }

    fn merge_derp(&mut self, map: tailcfg::DerpMap) {
        let derp = Arc::make_mut(&mut self.derp);
        if let Some(regions) = map.regions {
            // Headscale has sent regions that are null.
            let regions = regions.into_iter().filter_map(|(id, region)| Some((id, region?)));
            derp.regions = regions
                .map(|(id, region)| (id, DerpRegion::new(id, region)))
                .collect();
        }
        if let Some(score) = map.home_params.and_then(|params| params.region_score) {
            derp.region_score = score;
        }
    }

    fn merge_rules(
        &mut self,
        base: Option<tailcfg::List<tailcfg::FilterRule>>,
        mut chunks: BTreeMap<String, Option<tailcfg::List<tailcfg::FilterRule>>>,
    ) -> bool {
        if base.is_none() && chunks.is_empty() {
            return false;
        }
        if let Some(base) = base {
            self.chunks.insert("base".to_owned(), base.items);
        }
        if let Some(None) = chunks.remove("*") {
            self.chunks.clear();
        }
        for (name, rules) in chunks {
            match rules {
                Some(rules) => drop(self.chunks.insert(name, rules.items)),
                None => drop(self.chunks.remove(&name)),
            }
        }
        let rules = Rules::parse(self.chunks.values().flatten());
        for rejected in rules.rejected() {
            tracing::warn!(%rejected, "Part of the packet filter makes no sense and is left out");
        }
        self.rules = Arc::new(rules);
        true
    }

    fn merge_health(
        &mut self,
        health: Option<Vec<String>>,
        mut messages: BTreeMap<String, Option<tailcfg::DisplayMessage>>,
    ) -> bool {
        let changed = health.is_some() || !messages.is_empty();
        self.health = health.unwrap_or_else(|| std::mem::take(&mut self.health));
        if let Some(None) = messages.remove("*") {
            self.messages.clear();
        }
        for (name, message) in messages {
            match message {
                Some(message) => drop(self.messages.insert(name, message)),
                None => drop(self.messages.remove(&name)),
            }
        }
        changed
    }

    /// The old list counts only where there are no messages of the new kind.
    fn problems(&self) -> Vec<String> {
        if self.messages.is_empty() {
            return self.health.clone();
        }
        let text = |m: &tailcfg::DisplayMessage| match (m.title.as_str(), m.text.as_str()) {
            (title, "") => title.to_owned(),
            ("", text) => text.to_owned(),
            (title, text) => format!("{title}: {text}"),
        };
        self.messages.values().map(text).collect()
    }
}

/// What a message says about peers.
#[derive(Debug, Default)]
struct PeerDelta {
    all: tailcfg::List<tailcfg::Node>,
    removed: Vec<super::NodeId>,
    changed: tailcfg::List<tailcfg::Node>,
    seen: BTreeMap<super::NodeId, bool>,
    online: BTreeMap<super::NodeId, bool>,
    patches: tailcfg::List<tailcfg::PeerChange>,
}

/// Without its JSON a hostinfo makes no [`super::Details`], which alone say when a peer was seen.
fn forget_details(response: &mut tailcfg::MapResponse) {
    let peers = response.peers.items.iter_mut();
    let nodes = peers
        .chain(&mut response.peers_changed.items)
        .chain(&mut response.node);
    nodes.for_each(|node| node.hostinfo.json = None);
    response.peer_seen_change.clear();
}

/// Our own name without its first label; should it have one label only, the first search domain.
fn magic_dns_suffix(name: &str, dns: &tailcfg::DnsConfig) -> String {
    let parent = name.split_once('.').map(|(_, parent)| parent);
    let suffix = parent.or_else(|| dns.domains.first().map(String::as_str));
    suffix.unwrap_or_default().trim_matches('.').to_owned()
}

#[cfg(test)]
mod tests;
