//! A network in virtual time: hosts, NATs, relays and STUN servers.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use crate::{
    derp_map::{DerpAddr, DerpNode, DerpRegion},
    netmap::{Node, PeerApi},
};

pub(super) const PORT: u16 = 41641;

/// A relay region and its STUN server, which is this far from everybody.
pub(super) struct Relay {
    pub(super) region: RegionId,
    pub(super) distance: Duration,
    pub(super) answers_stun: bool,
    v6: bool,
}

impl Relay {
    pub(super) fn new(region: RegionId, millis: u64) -> Self {
        Self {
            region,
            distance: Duration::from_millis(millis),
            answers_stun: true,
            v6: false,
        }
    }

    /// One that has no IPv4.
    pub(super) fn v6(region: RegionId, millis: u64) -> Self {
        let v6 = true;
        Self {
            v6,
            ..Self::new(region, millis)
        }
    }

    pub(super) fn stun(&self) -> SocketAddr {
        if self.v6 {
            SocketAddr::from(([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, self.region], 3478))
        } else {
            SocketAddr::from(([198, 51, 100, self.region as u8], 3478))
        }
    }
}

pub(super) fn derp_map(relays: &[Relay]) -> Arc<DerpMap> {
    let region = |relay: &Relay| DerpRegion {
        id: relay.region,
        nodes: vec![DerpNode {
            name: format!("{}a", relay.region),
            ipv4: literal(relay, false),
            ipv6: literal(relay, true),
            stun_port: Some(3478),
            ..DerpNode::default()
        }],
        ..DerpRegion::default()
    };
    Arc::new(DerpMap {
        regions: relays.iter().map(|r| (r.region, region(r))).collect(),
        region_score: BTreeMap::new(),
    })
}

fn literal(relay: &Relay, v6: bool) -> DerpAddr {
    let ip = relay.stun().ip();
    if ip.is_ipv6() == v6 {
        DerpAddr::Literal(ip)
    } else {
        DerpAddr::Disabled
    }
}

/// One mapping for all destinations, and only who was sent to may answer.
pub(super) struct Nat {
    pub(super) public: SocketAddr,
    open: BTreeSet<SocketAddr>,
}

pub(super) struct Host {
    pub(super) sock: Magicsock,
    pub(super) key: NodePublic,
    pub(super) disco: DiscoPrivate,
    pub(super) addr: SocketAddr,
    pub(super) nat: Option<Nat>,
    pub(super) regions: Vec<RegionId>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) net_info: NetInfo,
    pub(super) paths: Vec<(Duration, Path)>,
    /// When packets of peers arrived and whether it was directly.
    pub(super) received: Vec<(Duration, bool)>,
    /// Disco and STUN datagrams sent: when and where.
    pub(super) sent: Vec<(Duration, SocketAddr)>,
}

enum Delivery {
    Udp {
        from: SocketAddr,
        to: SocketAddr,
        data: Bytes,
    },
    Derp {
        region: RegionId,
        from: NodePublic,
        to: NodePublic,
        data: Bytes,
    },
}

pub(super) struct Sim {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) hosts: Vec<Host>,
    pub(super) relays: Vec<Relay>,
    /// Pairs of (from, to) between which nothing passes by UDP. Addresses as on the wire.
    pub(super) cut: BTreeSet<(IpAddr, IpAddr)>,
    pub(super) udp_blocked: bool,
    pub(super) udp_latency: BTreeMap<IpAddr, Duration>,
    queue: BTreeMap<(Instant, u64), Delivery>,
    number: u64,
}

impl Sim {
    pub(super) fn new(relays: Vec<Relay>) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            hosts: Vec::new(),
            relays,
            cut: BTreeSet::new(),
            udp_blocked: false,
            udp_latency: BTreeMap::new(),
            queue: BTreeMap::new(),
            number: 0,
        }
    }

    pub(super) fn add(&mut self, ip: impl Into<IpAddr>, nat: Option<[u8; 4]>) -> usize {
        self.add_with(ip, nat, |_| {})
    }

    pub(super) fn add_with(
        &mut self,
        ip: impl Into<IpAddr>,
        nat: Option<[u8; 4]>,
        change: impl FnOnce(&mut MagicsockConfig),
    ) -> usize {
        let ip = ip.into();
        let number = self.hosts.len() as u8 + 1;
        let disco = DiscoPrivate::from_bytes([number; 32]);
        let key = NodePublic::from_bytes([number + 100; 32]);
        let mut config = MagicsockConfig {
            disco: disco.clone(),
            node: key,
            port: PORT,
            static_endpoints: Vec::new(),
            derp_only: false,
        };
        change(&mut config);
        let mut sock = Magicsock::new(config, self.now);
        sock.set_interfaces(self.now, &[ip]);
        sock.set_map(self.now, &derp_map(&self.relays));
        self.hosts.push(Host {
            sock,
            key,
            disco,
            addr: SocketAddr::from((ip, PORT)),
            nat: nat.map(|public| Nat {
                public: SocketAddr::from((public, 7000 + u16::from(number))),
                open: BTreeSet::new(),
            }),
            regions: Vec::new(),
            endpoints: Vec::new(),
            net_info: NetInfo::default(),
            paths: Vec::new(),
            received: Vec::new(),
            sent: Vec::new(),
        });
        self.drain(self.hosts.len() - 1);
        self.hosts.len() - 1
    }

    /// Control tells everybody of everybody.
    pub(super) fn introduce(&mut self) {
        let nodes: Vec<Node> = self.hosts.iter().map(node).collect();
        for i in 0..self.hosts.len() {
            let peers = nodes
                .iter()
                .enumerate()
                .filter(|(j, _)| *j != i)
                .map(|(_, n)| n.clone());
            let now = self.now;
            self.hosts[i].sock.set_peers(now, &Netmap::with_peers(peers));
            self.drain(i);
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn path(&self, from: usize, to: usize) -> Path {
        self.hosts[from].sock.path(self.now, &self.hosts[to].key)
    }

    pub(super) fn is_direct(&self, from: usize, to: usize) -> bool {
        matches!(self.path(from, to), Path::Direct(_))
    }

    /// A WireGuard packet.
    pub(super) fn send(&mut self, from: usize, to: usize) -> Route {
        let (now, key) = (self.now, self.hosts[to].key);
        let route = self.hosts[from].sock.route(now, &key);
        self.drain(from);
        let mut data = vec![0; 32];
        data[0] = 4;
        if let Some(addr) = route.udp {
            self.udp(from, addr, data.clone().into());
        }
        if let Some(region) = route.derp {
            self.derp(from, region, key, data.into());
        }
        route
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut rounds_without_time = 0;
        loop {
            let timeouts = self
                .hosts
                .iter()
                .filter_map(|h| h.sock.timeout(self.now))
                .map(|t| self.now + t);
            let arrivals = self.queue.keys().next().map(|(at, _)| *at);
            let Some(next) = timeouts.chain(arrivals).min().filter(|at| *at <= end) else {
                break;
            };
            rounds_without_time = if next > self.now {
                0
            } else {
                rounds_without_time + 1
            };
            assert!(rounds_without_time < 1000, "busy at {:?}", self.elapsed());
            self.now = self.now.max(next);
            while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= self.now) {
                let delivery = entry.remove();
                self.deliver(delivery);
            }
            for i in 0..self.hosts.len() {
                let now = self.now;
                if self.hosts[i].sock.timeout(now) == Some(Duration::ZERO) {
                    self.hosts[i].sock.on_timeout(now);
                    self.drain(i);
                }
            }
        }
        self.now = end;
    }

    /// Both send to each other all the time.
    pub(super) fn talk(&mut self, a: usize, b: usize, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.send(a, b);
            self.send(b, a);
            self.run(Duration::from_millis(100));
        }
    }

    pub(super) fn drain(&mut self, i: usize) {
        let elapsed = self.elapsed();
        while let Some(output) = self.hosts[i].sock.poll_output() {
            match output {
                Output::Udp { to, datagram } => {
                    self.hosts[i].sent.push((elapsed, to));
                    self.udp(i, to, datagram);
                }
                Output::Derp { region, to, packet } => self.derp(i, region, to, packet),
                Output::Regions(regions) => self.hosts[i].regions = regions,
                Output::Endpoints(list) => self.hosts[i].endpoints = list,
                Output::NetInfo(net_info) => self.hosts[i].net_info = net_info,
                Output::Pong { .. } => {}
                Output::Path { path, .. } => self.hosts[i].paths.push((elapsed, path)),
            }
        }
    }

    fn udp(&mut self, from: usize, to: SocketAddr, data: Bytes) {
        let host = &mut self.hosts[from];
        let mut source = host.addr;
        if let Some(nat) = host.nat.as_mut().filter(|_| !is_private(to.ip())) {
            nat.open.insert(to);
            source = nat.public;
        }
        if self.udp_blocked || self.cut.contains(&(source.ip(), to.ip())) {
            return;
        }
        let stun = self.relays.iter().find(|r| r.stun() == to);
        let one_way = match stun {
            Some(relay) => relay.distance,
            None => self
                .udp_latency
                .get(&to.ip())
                .copied()
                .unwrap_or(Duration::from_millis(4)),
        };
        self.push(
            one_way,
            Delivery::Udp {
                from: source,
                to,
                data,
            },
        );
    }

    fn derp(&mut self, from: usize, region: RegionId, to: NodePublic, data: Bytes) {
        let host = &self.hosts[from];
        assert!(
            host.regions.contains(&region),
            "sent to region {region} before connecting to it"
        );
        let from = host.key;
        let delivery = Delivery::Derp {
            region,
            from,
            to,
            data,
        };
        self.push(Duration::from_millis(30), delivery);
    }

    fn push(&mut self, after: Duration, delivery: Delivery) {
        self.number += 1;
        self.queue.insert((self.now + after, self.number), delivery);
    }

    fn deliver(&mut self, delivery: Delivery) {
        let (now, elapsed) = (self.now, self.elapsed());
        match delivery {
            Delivery::Udp { from, to, data } => {
                if let Some(relay) = self.relays.iter().find(|r| r.stun() == to) {
                    if relay.answers_stun {
                        let (from, to, distance) = (to, from, relay.distance);
                        let data = stun_answer(&data, to);
                        self.push(distance, Delivery::Udp { from, to, data });
                    }
                    return;
                }
                let receiver = self.hosts.iter().position(|host| match &host.nat {
                    Some(nat) if nat.public == to => nat.open.contains(&from),
                    Some(_) => host.addr == to && is_private(from.ip()),
                    None => host.addr == to,
                });
                let Some(i) = receiver else { return };
                if !self.hosts[i].sock.on_udp(now, from, &data) {
                    self.hosts[i].received.push((elapsed, true));
                }
                self.drain(i);
            }
            Delivery::Derp {
                region,
                from,
                to,
                data,
            } => {
                let Some(i) = self.hosts.iter().position(|h| h.key == to) else {
                    return;
                };
                if !self.hosts[i].regions.contains(&region) {
                    return;
                }
                if !self.hosts[i].sock.on_derp(now, region, from, &data) {
                    self.hosts[i].received.push((elapsed, false));
                }
                self.drain(i);
            }
        }
    }
}

fn is_private(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_private())
}

fn stun_answer(request: &[u8], mapped: SocketAddr) -> Bytes {
    let (family, ip) = match mapped.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let length = 4 + ip.len() as u8;
    let mut answer = vec![1, 1, 0, 4 + length];
    answer.extend(&request[4..20]);
    answer.extend([0, 1, 0, length, 0, family]);
    answer.extend(mapped.port().to_be_bytes());
    answer.extend(ip);
    answer.into()
}

/// What control says of a host.
pub(super) fn node(host: &Host) -> Node {
    Node {
        id: i64::from(host.key.as_bytes()[0]),
        stable_id: String::new(),
        name: String::new(),
        user: 0,
        key: host.key,
        key_expiry: None,
        expired: false,
        machine: None,
        disco: Some(host.disco.public()),
        addresses: Vec::new(),
        allowed_ips: Vec::new(),
        endpoints: host.endpoints.iter().map(|e| e.addr).collect(),
        home_derp: host.net_info.preferred_derp,
        machine_authorized: true,
        tags: Vec::new(),
        cap: 0,
        cap_map: BTreeMap::new(),
        online: None,
        unsigned_peer_api_only: false,
        is_jailed: false,
        peer_api: PeerApi::default(),
        hostname: String::new(),
        os: String::new(),
        details: None,
    }
}
