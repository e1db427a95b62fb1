//! Rounds of STUN requests from the data socket: how far the relays are and how we look from outside (Go:
//! `net/netcheck`).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::home::Latencies;
use crate::{
    derp_map::{DerpAddr, DerpMap, DerpNode, RegionId},
    stun,
};

/// When a probe is repeated, counted from the round's start, each time at the region's next node.
const TRIES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(900),
];
const ROUND: Duration = Duration::from_secs(3);
/// As many answering regions decide; the others get as much time again as these took.
const ENOUGH: usize = 3;
const MIN_GRACE: Duration = Duration::from_millis(50);
/// All regions are measured this often, otherwise the nearest only.
const FULL: Duration = Duration::from_secs(5 * 60);
const NEAREST: usize = 3;
/// Regions that are measured at most: a map isn't a list of victims.
const MAX_REGIONS: usize = 100;

/// What a round has found.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Report {
    pub(super) v4: Latencies,
    pub(super) v6: Latencies,
    /// Our address as most servers saw it, by family.
    pub(super) global_v4: Option<SocketAddr>,
    pub(super) global_v6: Option<SocketAddr>,
    /// Two servers saw us at different IPv4 addresses or ports; `None`: fewer than two answered.
    pub(super) mapping_varies: Option<bool>,
    /// There was somebody to ask.
    pub(super) asked: bool,
}

impl Report {
    /// The better family of each region.
    pub(super) fn latencies(&self) -> Latencies {
        let mut all = self.v4.clone();
        for (region, latency) in &self.v6 {
            let entry = all.entry(*region).or_insert(*latency);
            *entry = (*entry).min(*latency);
        }
        all
    }

    pub(super) fn answered(&self) -> bool {
        !self.v4.is_empty() || !self.v6.is_empty()
    }
}

/// Whom to ask, and the round under way.
#[derive(Debug, Default)]
pub(super) struct Netcheck {
    targets: Vec<Target>,
    resolved: BTreeMap<String, Vec<IpAddr>>,
    round: Option<Round>,
    last_full: Option<Instant>,
}

/// A region's STUN servers of one family.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    region: RegionId,
    servers: Vec<SocketAddr>,
}

impl Target {
    fn is_v6(&self) -> bool {
        self.servers.iter().all(SocketAddr::is_ipv6)
    }
}

#[derive(Debug)]
struct Round {
    started: Instant,
    ends: Instant,
    tries: usize,
    probes: Vec<Probe>,
    sent: Vec<Request>,
    answers: Vec<Answer>,
}

#[derive(Debug)]
struct Probe {
    target: Target,
    latency: Option<Duration>,
}

#[derive(Debug)]
struct Request {
    tx: stun::TxId,
    probe: usize,
    server: SocketAddr,
    at: Instant,
}

#[derive(Debug)]
struct Answer {
    server: SocketAddr,
    mapped: SocketAddr,
}

impl Netcheck {
    /// Takes over the servers of a map. `true`: they are others than before.
    pub(super) fn set_map(&mut self, map: &DerpMap) -> bool {
        let regions = map
            .regions
            .iter()
            .filter(|(_, r)| !r.no_measure_no_home)
            .take(MAX_REGIONS);
        let mut targets = Vec::new();
        for (id, region) in regions {
            let families: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
            for of_family in families {
                let servers: Vec<_> = region
                    .nodes
                    .iter()
                    .flat_map(|node| self.servers(node))
                    .filter(|addr| of_family(&addr.ip()))
                    .collect();
                if !servers.is_empty() {
                    let region = *id;
                    targets.push(Target { region, servers });
                }
            }
        }
        let changed = targets != self.targets;
        self.targets = targets;
        changed
    }

    fn servers(&self, node: &DerpNode) -> Vec<SocketAddr> {
        let Some(port) = node.stun_port else {
            return Vec::new();
        };
        if let Some(ip) = node.stun_test_ip {
            return vec![(ip, port).into()];
        }
        let resolved = self.resolved.get(&node.host_name).map_or(&[][..], Vec::as_slice);
        let of = |addr: DerpAddr, of_family: fn(&IpAddr) -> bool| match addr {
            DerpAddr::Disabled => None,
            DerpAddr::Literal(ip) => Some(ip),
            DerpAddr::Dns => resolved.iter().copied().find(of_family),
        };
        let ips = [of(node.ipv4, IpAddr::is_ipv4), of(node.ipv6, IpAddr::is_ipv6)];
        ips.into_iter().flatten().map(|ip| (ip, port).into()).collect()
    }

    /// Takes over what DNS says about a host of the map.
    pub(super) fn set_resolved(&mut self, host: &str, addrs: &[IpAddr]) {
        self.resolved.insert(host.to_owned(), addrs.to_vec());
    }

    /// Begins a round unless one is under way. `nearest` are the regions by distance, home first.
    pub(super) fn start(&mut self, now: Instant, v6: bool, nearest: &[RegionId]) {
        if self.round.is_some() {
            return;
        }
        let full = self.last_full.is_none_or(|at| now >= at + FULL) || nearest.len() < NEAREST;
        if full {
            self.last_full = Some(now);
        }
        let wanted = |t: &&Target| (v6 || !t.is_v6()) && (full || nearest[..NEAREST].contains(&t.region));
        let probes = self.targets.iter().filter(wanted).cloned();
        let probes = probes.map(|target| Probe {
            target,
            latency: None,
        });
        self.round = Some(Round {
            started: now,
            ends: now + ROUND,
            tries: 0,
            probes: probes.collect(),
            sent: Vec::new(),
            answers: Vec::new(),
        });
    }

    /// The next round is a full one: the network has changed.
    pub(super) fn forget(&mut self) {
        self.last_full = None;
        self.round = None;
    }

    pub(super) fn is_running(&self) -> bool {
        self.round.is_some()
    }

    /// Requests that are due, and the report when the round is over.
    pub(super) fn poll(&mut self, now: Instant, send: &mut Vec<(SocketAddr, Bytes)>) -> Option<Report> {
        let round = self.round.as_mut()?;
        while let Some(after) = TRIES.get(round.tries)
            && now >= round.started + *after
        {
            round.ask(now, send);
        }
        if now < round.ends && round.probes.iter().any(|p| p.latency.is_none()) {
            return None;
        }
        Some(self.round.take()?.report())
    }

    /// A STUN answer has arrived. Another than to our own requests is ignored.
    pub(super) fn on_answer(&mut self, now: Instant, tx: &stun::TxId, mapped: SocketAddr) {
        if let Some(round) = &mut self.round {
            round.on_answer(now, tx, mapped);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let round = self.round.as_ref()?;
        let next_try = TRIES.get(round.tries).map(|after| round.started + *after);
        let all_answered = round.probes.iter().all(|p| p.latency.is_some());
        let end = if all_answered { round.started } else { round.ends };
        Some(next_try.map_or(end, |at| at.min(end)))
    }
}

impl Round {
    fn ask(&mut self, now: Instant, send: &mut Vec<(SocketAddr, Bytes)>) {
        for (position, probe) in self.probes.iter().enumerate() {
            let servers = &probe.target.servers;
            let server = servers[self.tries % servers.len()];
            if probe.latency.is_some() {
                continue;
            }
            let Some(tx) = super::random() else { continue };
            send.push((server, stun::request(&tx).into()));
            self.sent.push(Request {
                tx,
                probe: position,
                server,
                at: now,
            });
        }
        self.tries += 1;
    }

    fn on_answer(&mut self, now: Instant, tx: &stun::TxId, mapped: SocketAddr) {
        let Some(position) = self.sent.iter().position(|sent| sent.tx == *tx) else {
            return;
        };
        let sent = self.sent.swap_remove(position);
        let latency = now.saturating_duration_since(sent.at);
        let entry = self.probes[sent.probe].latency.get_or_insert(latency);
        *entry = (*entry).min(latency);
        let server = sent.server;
        self.answers.push(Answer { server, mapped });

        let answered = self.probes.iter().filter(|p| p.latency.is_some()).count();
        if answered >= ENOUGH {
            let took = now.saturating_duration_since(self.started);
            self.ends = self.ends.min(now + took.max(MIN_GRACE));
        }
    }

    fn report(self) -> Report {
        let latencies = |v6: bool| -> Latencies {
            let of_family = self.probes.iter().filter(|p| p.target.is_v6() == v6);
            of_family
                .filter_map(|p| Some((p.target.region, p.latency?)))
                .collect()
        };
        let global = |v6: bool| {
            most_frequent(
                self.answers
                    .iter()
                    .map(|a| a.mapped)
                    .filter(|m| m.is_ipv6() == v6),
            )
        };
        Report {
            v4: latencies(false),
            v6: latencies(true),
            global_v4: global(false),
            global_v6: global(true),
            mapping_varies: mapping_varies(&self.answers),
            asked: !self.probes.is_empty(),
        }
    }
}

fn most_frequent(addrs: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let mut counts = BTreeMap::<SocketAddr, u32>::new();
    for addr in addrs {
        *counts.entry(addr).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map(|(addr, _)| addr)
}

fn mapping_varies(answers: &[Answer]) -> Option<bool> {
    let mut v4 = answers.iter().filter(|a| a.mapped.is_ipv4());
    let first = v4.next()?;
    let others: Vec<_> = v4.filter(|a| a.server != first.server).collect();
    (!others.is_empty()).then(|| others.iter().any(|a| a.mapped != first.mapped))
}

#[cfg(test)]
mod tests;
