//! Our own place in the network: when to measure it, and what follows for home and announced addresses.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    MagicsockConfig, Output,
    endpoints::endpoints,
    home::{self, History},
    netcheck::{Netcheck, Report},
    peer::ACTIVE,
    relays::Relays,
};
use crate::{
    control::{Endpoint, NetInfo},
    derp_map::{DerpAddr, DerpMap, RegionId},
    stun,
};

/// While there is traffic we measure again after this long and up to [`JITTER`] more: NATs forget after 30 s.
const INTERVAL: Duration = Duration::from_secs(20);
const JITTER: Duration = Duration::from_secs(6);
/// Events ask for a measurement at most this often.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
/// Our address as a server saw it is good for a call-me-maybe for this long.
const FRESH: Duration = Duration::from_secs(27);
/// And is announced for this long when servers no longer answer.
const KEEP_GLOBAL: Duration = Duration::from_secs(60);
/// A measurement may take this long before we settle for any home.
const HOME_PATIENCE: Duration = Duration::from_secs(1);
/// Packets that came through home within this time show that it works though it doesn't answer STUN.
const HEARD: Duration = Duration::from_secs(8);
/// A relay that is started anew is back within this time.
const AWAY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Network {
    derp_only: bool,
    map: Arc<DerpMap>,
    interfaces: Vec<IpAddr>,
    netcheck: Netcheck,
    history: History,
    report: Report,
    global_v4_at: Option<Instant>,
    global_v6_at: Option<Instant>,
    /// The present home was chosen because it is near, not for want of something better.
    home_measured: bool,
    home_by: Option<Instant>,
    next: Option<Instant>,
    last: Option<Instant>,
    last_activity: Option<Instant>,
    endpoints: Vec<Endpoint>,
    net_info: NetInfo,
}

impl Network {
    pub(super) fn new(config: &MagicsockConfig) -> Self {
        Self {
            derp_only: config.derp_only,
            map: Arc::default(),
            interfaces: Vec::new(),
            netcheck: Netcheck::default(),
            history: History::default(),
            report: Report::default(),
            global_v4_at: None,
            global_v6_at: None,
            home_measured: false,
            home_by: None,
            next: None,
            last: None,
            last_activity: None,
            endpoints: Vec::new(),
            net_info: NetInfo::default(),
        }
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(super) fn set_map(&mut self, now: Instant, map: &Arc<DerpMap>) {
        if self.map != *map {
            self.map = Arc::clone(map);
            if self.netcheck.set_map(map) {
                self.measure_anew(now);
            }
        }
    }

    pub(super) fn interfaces(&self) -> &[IpAddr] {
        &self.interfaces
    }

    /// `true`: they were others before.
    pub(super) fn set_interfaces(&mut self, now: Instant, addrs: &[IpAddr]) -> bool {
        let mut addrs: Vec<_> = addrs.iter().map(IpAddr::to_canonical).collect();
        addrs.sort_unstable();
        addrs.dedup();
        if addrs == self.interfaces {
            return false;
        }
        let first = self.interfaces.is_empty();
        self.interfaces = addrs;
        if !first {
            self.global_v4_at = None;
            self.global_v6_at = None;
        }
        self.measure_anew(now);
        !first
    }

    pub(super) fn stun_hosts(&self) -> Vec<String> {
        let nodes = self.map.regions.values().flat_map(|region| &region.nodes);
        let by_dns = nodes.filter(|node| {
            node.stun_port.is_some()
                && node.stun_test_ip.is_none()
                && (node.ipv4 == DerpAddr::Dns || node.ipv6 == DerpAddr::Dns)
        });
        let mut hosts: Vec<_> = by_dns.map(|node| node.host_name.clone()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    pub(super) fn set_stun_addrs(&mut self, now: Instant, host: &str, addrs: &[IpAddr]) {
        self.netcheck.set_resolved(host, addrs);
        if self.netcheck.set_map(&self.map) {
            self.measure_anew(now);
        }
    }

    pub(super) fn on_stun(&mut self, now: Instant, tx: &stun::TxId, mapped: SocketAddr) {
        self.netcheck.on_answer(now, tx, mapped);
    }

    /// We are sending. `true`: [`Self::advance`] has something to do.
    pub(super) fn on_activity(&mut self, now: Instant) -> bool {
        self.last_activity = Some(now);
        if self.derp_only || self.next.is_some() || self.netcheck.is_running() {
            return false;
        }
        let due = self.last.map_or(now, |last| last + INTERVAL);
        self.next = Some(due);
        due <= now
    }

    /// Something has happened that may have changed our place: measure soon.
    pub(super) fn ask_again(&mut self, now: Instant) {
        if !self.derp_only && !self.netcheck.is_running() {
            let due = self.last.map_or(now, |last| now.max(last + MIN_INTERVAL));
            self.next = Some(self.next.map_or(due, |next| next.min(due)));
        }
    }

    fn measure_anew(&mut self, now: Instant) {
        if !self.derp_only {
            self.netcheck.forget();
            self.next = Some(now);
        }
    }

    /// Is it of use to tell peers our addresses now? Not when a measurement may tell more in a moment.
    pub(super) fn knows_own_address(&self, now: Instant) -> bool {
        let fresh = |at: Instant| now.saturating_duration_since(at) < FRESH;
        self.derp_only || self.last.is_some_and(fresh)
    }

    /// Does what is due. `true`: a measurement has ended.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        config: &MagicsockConfig,
        relays: &mut Relays,
        out: &mut VecDeque<Output>,
    ) -> bool {
        if self.next.is_some_and(|at| at <= now) && !self.map.regions.is_empty() {
            self.next = None;
            let v6 = self.interfaces.iter().any(is_global_v6);
            self.netcheck.start(now, v6, &self.nearest(relays.home()));
        }
        let mut requests = Vec::new();
        let report = self.netcheck.poll(now, &mut requests);
        let requests = requests.into_iter();
        out.extend(requests.map(|(to, datagram)| Output::Udp { to, datagram }));
        let ended = report.is_some();
        if let Some(report) = report {
            self.on_report(now, report, relays);
        }
        self.leave_lost_home(now, config, relays);
        self.ensure_home(now, config, relays);
        self.publish(config, relays.home(), out);
        ended
    }

    fn nearest(&self, home: Option<RegionId>) -> Vec<RegionId> {
        let mut by_latency: Vec<_> = self.history.best().into_iter().collect();
        by_latency.sort_by_key(|(region, latency)| (Some(*region) != home, *latency));
        by_latency.into_iter().map(|(region, _)| region).collect()
    }

    fn on_report(&mut self, now: Instant, mut report: Report, relays: &mut Relays) {
        self.last = Some(now);
        let active = |at: Instant| now.saturating_duration_since(at) < ACTIVE;
        if self.last_activity.is_some_and(active) {
            self.next = Some(now + INTERVAL + JITTER.mul_f64(fastrand::f64()));
        }
        let kept = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < KEEP_GLOBAL);
        match report.global_v4 {
            Some(_) => self.global_v4_at = Some(now),
            None if kept(self.global_v4_at) => report.global_v4 = self.report.global_v4,
            None => {}
        }
        match report.global_v6 {
            Some(_) => self.global_v6_at = Some(now),
            None if kept(self.global_v6_at) => report.global_v6 = self.report.global_v6,
            None => {}
        }
        report.mapping_varies = report.mapping_varies.or(self.report.mapping_varies);

        let latest = report.latencies();
        self.history.add(now, latest.clone());
        self.report = report;
        let measured = relays.home().filter(|_| self.home_measured);
        let heard = measured.is_some_and(|home| relays.heard(now, home, HEARD));
        if let Some(home) = home::choose(&self.map, measured, heard, &latest, &self.history.best()) {
            self.home_measured = true;
            if relays.home() != Some(home) {
                relays.set_home(now, Some(home));
            }
        }
    }

    /// Another home for one that can't be reached, unless it answers STUN.
    fn leave_lost_home(&mut self, now: Instant, config: &MagicsockConfig, relays: &mut Relays) {
        let Some(home) = relays.home().filter(|_| relays.home_is_away(now, AWAY)) else {
            return;
        };
        let latest = self.report.latencies();
        if latest.contains_key(&home) {
            return;
        }
        let nearest = home::choose(&self.map, None, false, &latest, &self.history.best());
        self.home_measured = nearest.is_some();
        let next = nearest.or_else(|| home::fallback(&self.map, &config.node, Some(home)));
        if next.is_some() && next != Some(home) {
            relays.set_home(now, next);
        }
    }

    /// At once where a measurement can't change anything, else when it takes too long.
    fn ensure_home(&mut self, now: Instant, config: &MagicsockConfig, relays: &mut Relays) {
        if relays.home().is_some() || self.map.regions.is_empty() {
            self.home_by = None;
            return;
        }
        let by = *self.home_by.get_or_insert(now + HOME_PATIENCE);
        let choices = self.map.regions.values().filter(|r| home::is_eligible(r)).count();
        let measuring = self.netcheck.is_running() && choices > 1;
        if !measuring || now >= by {
            self.home_measured = false;
            self.home_by = None;
            let home = home::fallback(&self.map, &config.node, None);
            if home.is_some() {
                relays.set_home(now, home);
            }
        }
    }

    fn publish(&mut self, config: &MagicsockConfig, home: Option<RegionId>, out: &mut VecDeque<Output>) {
        if !self.derp_only {
            let configured = &config.static_endpoints;
            let list = endpoints(configured, &self.report, &self.interfaces, config.port);
            if list != self.endpoints {
                self.endpoints.clone_from(&list);
                out.push_back(Output::Endpoints(list));
            }
        }
        let net_info = self.net_info(home);
        if !says_the_same(&net_info, &self.net_info) {
            self.net_info = net_info.clone();
            out.push_back(Output::NetInfo(net_info));
        }
    }

    fn net_info(&self, home: Option<RegionId>) -> NetInfo {
        let report = &self.report;
        let v4 = report
            .v4
            .iter()
            .map(|(r, l)| (format!("{r}-v4"), l.as_secs_f64()));
        let v6 = report
            .v6
            .iter()
            .map(|(r, l)| (format!("{r}-v6"), l.as_secs_f64()));
        NetInfo {
            preferred_derp: home,
            derp_latency: v4.chain(v6).collect(),
            mapping_varies_by_dest_ip: report.mapping_varies,
            working_udp: if self.derp_only {
                Some(false)
            } else {
                report.asked.then(|| report.answered())
            },
            working_ipv6: report.asked.then_some(!report.v6.is_empty()),
        }
    }

    /// When [`Self::advance`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = self.next.filter(|_| !self.map.regions.is_empty());
        let home = self.home_by;
        [next, home, self.netcheck.deadline()].into_iter().flatten().min()
    }
}

/// Control needs no update for other figures alone.
fn says_the_same(a: &NetInfo, b: &NetInfo) -> bool {
    let without_figures = |info: &NetInfo| NetInfo {
        derp_latency: Default::default(),
        ..info.clone()
    };
    without_figures(a) == without_figures(b)
}

fn is_global_v6(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => {
            !v6.is_loopback() && !v6.is_unicast_link_local() && v6.segments()[..3] != [0xfd7a, 0x115c, 0xa1e0]
        }
    }
}
