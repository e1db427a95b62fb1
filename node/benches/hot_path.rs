//! The node's hot path in pieces. `cargo bench -p postern-node`

mod measure;

use std::sync::Arc;

use jiff::Timestamp;
use measure::Case;
use postern_node::{
    bench::{Connection, LARGEST_PACKET, Tunnel},
    engine::{Engine, EngineConfig},
    filter::{Filter, Inbound, Rules, Verdict},
    key::NodePrivate,
    magicsock::Path,
    netmap::{Merger, Netmap, Node},
    tailcfg::{FilterRule, List, MapResponse},
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const CASES: &[Case] = &[
    Case::new("a full map of 1,000 peers, from JSON", 1, full_map),
    Case::new("the same, read and not applied", 1, read_map),
    Case::new("a delta among 1,000 peers, from JSON", 1, delta),
    Case::new("the same, until the data plane goes by it", 1, followed_delta),
    Case::new("verdict of a filter with 100 rules", 1000, verdict),
    Case::new("seal a packet of 1,280 bytes", 100, seal),
    Case::new("seal and open a packet of 1,280 bytes", 100, open),
    Case::new("a TCP segment of bulk, both ends", 1000, bulk),
    Case::new("request and answer of 1 KiB by TCP, both ends", 1, exchange),
];

fn main() {
    measure::main();
}

fn machine(id: usize) -> Value {
    let addresses = json!([
        format!("100.64.{}.{}/32", id / 256, id % 256),
        format!("fd7a:115c:a1e0::{id:x}/128")
    ]);
    json!({
        "ID": id + 1, "StableID": format!("n{id}"), "Name": format!("machine-{id}.tail1234.ts.net."),
        "User": 1, "Key": format!("nodekey:{:064x}", id + 1), "DiscoKey": format!("discokey:{:064x}", id + 1),
        "Addresses": addresses, "AllowedIPs": addresses, "HomeDERP": 1, "Cap": 113, "MachineAuthorized": true,
        "Endpoints": [format!("192.0.2.{}:41641", id % 256), format!("10.0.0.{}:41641", id % 256)],
        "Hostinfo": {"OS": "linux", "Hostname": format!("machine-{id}"), "Services": [{"Proto": "peerapi4", "Port": 41000}]},
    })
}

/// The first message, and a merger that has taken it.
fn tailnet() -> (Vec<u8>, Merger) {
    let peers: Vec<Value> = (1..=1000).map(machine).collect();
    let map = json!({"Node": machine(0), "Peers": peers, "Domain": "example.com"});
    let mut merger = Merger::new();
    let json = serde_json::to_vec(&map).expect("it has a JSON form");
    apply(&mut merger, &json);
    (json, merger)
}

fn apply(merger: &mut Merger, json: &[u8]) -> Arc<Netmap> {
    let response = MapResponse::from_json(json).expect("a map");
    let netmap = merger
        .apply(response, Timestamp::UNIX_EPOCH)
        .expect("it says who we are");
    let netmap = netmap.expect("something is new");
    assert_eq!(netmap.peers.len(), 1000);
    netmap
}

fn full_map() -> Box<dyn FnMut()> {
    let (json, mut merger) = tailnet();
    Box::new(move || {
        merger.restart();
        drop(apply(&mut merger, &json));
    })
}

fn read_map() -> Box<dyn FnMut()> {
    let (json, _) = tailnet();
    Box::new(move || {
        let response = MapResponse::from_json(&json).expect("a map");
        assert_eq!(response.peers.len(), 1000);
    })
}

fn delta() -> Box<dyn FnMut()> {
    let (_, mut merger) = tailnet();
    let mut port = 0_u16;
    Box::new(move || {
        port = port.wrapping_add(1);
        drop(move_peer(&mut merger, port, 1));
    })
}

/// One of the peers is elsewhere.
fn move_peer(merger: &mut Merger, port: u16, region: u16) -> Arc<Netmap> {
    let endpoints = [format!("192.0.2.7:{port}")];
    let patch = json!({"PeersChangedPatch": [{"NodeID": 500, "Endpoints": endpoints, "DERPRegion": region}]});
    apply(merger, &serde_json::to_vec(&patch).expect("it has a JSON form"))
}

fn followed_delta() -> Box<dyn FnMut()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (_, mut merger) = tailnet();
    let relays = json!({"DERPMap": {"Regions": {"1": {"RegionID": 1}, "2": {"RegionID": 2}}}});
    let netmap = apply(&mut merger, relays.to_string().as_bytes());
    let peer = netmap.peers[&500].key;
    let (published, netmap) = watch::channel(Some(netmap));
    let key = NodePrivate::generate().expect("the system has randomness");
    let engine = runtime.block_on(async {
        let (local, tasks) = (watch::Sender::default(), TaskTracker::new());
        Engine::start(
            EngineConfig::new(key),
            netmap,
            local,
            &tasks,
            CancellationToken::new(),
        )
    });
    let engine = engine.expect("a socket");
    let mut port = 0_u16;
    Box::new(move || {
        port = port.wrapping_add(1);
        let region = 1 + port % 2;
        published.send_replace(Some(move_peer(&mut merger, port, region)));
        runtime.block_on(async {
            while engine.path(&peer) != Path::Derp(region) {
                tokio::task::yield_now().await;
            }
        });
    })
}

fn verdict() -> Box<dyn FnMut()> {
    let rules: Vec<Value> = (0..100)
        .map(|net| json!({"SrcIPs": [format!("100.64.{net}.0/24")], "DstPorts": [{"IP": "*", "Ports": {"First": 443, "Last": 443}}]}))
        .collect();
    let rules = Value::from(rules).to_string();
    let rules: List<FilterRule> = serde_json::from_str(&rules).expect("rules");
    let own = ["100.64.0.1/32".parse().expect("a network")];
    let filter = Filter::new(
        Rules::parse(&rules.items).into(),
        own,
        std::iter::empty::<&Node>(),
    );
    let packets: Vec<Inbound> = (0..1000_u32)
        .map(|i| Inbound {
            src: ([100, 64, (i % 100) as u8, 7], 40_000).into(),
            dst: ([100, 64, 0, 1], if i % 2 == 0 { 443 } else { 80 }).into(),
            proto: 6,
            tcp_syn: true,
            reply: false,
            icmp_request: false,
            jailed: false,
        })
        .collect();
    Box::new(move || {
        let let_in = packets
            .iter()
            .filter(|packet| filter.check(packet) == Verdict::Accept);
        assert_eq!(let_in.count(), 500);
    })
}

fn seal() -> Box<dyn FnMut()> {
    let tunnel = Tunnel::default();
    Box::new(move || drop(divan::black_box(tunnel.seal(0, &[7; LARGEST_PACKET], 100))))
}

fn open() -> Box<dyn FnMut()> {
    let tunnel = Tunnel::default();
    Box::new(move || {
        let sealed = tunnel.seal(0, &[7; LARGEST_PACKET], 100);
        divan::black_box(tunnel.open(1, &sealed));
    })
}

fn bulk() -> Box<dyn FnMut()> {
    let mut connection = Connection::default();
    // What a segment without options takes of the largest packet.
    let data = vec![7; 1000 * (LARGEST_PACKET - 40)];
    Box::new(move || connection.transfer(0, &data))
}

fn exchange() -> Box<dyn FnMut()> {
    let mut connection = Connection::default();
    let data = [7; 1024];
    Box::new(move || {
        connection.transfer(0, &data);
        connection.transfer(1, &data);
    })
}
