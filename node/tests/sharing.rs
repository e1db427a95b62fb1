//! Many nodes of one process on one large tailnet: what their netmaps and data planes take, without sessions with control.
//! A program of its own, since it measures the process.

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

mod memory;

use std::sync::Arc;

use jiff::Timestamp;
use memory::resident;
use postern_node::{
    control::LocalState,
    engine::{Engine, EngineConfig},
    key::NodePrivate,
    netmap::{Merger, Netmap},
    tailcfg::MapResponse,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const NODES: usize = 50;
const PEERS: usize = 1000;

/// A machine as control describes it to the others.
fn machine(id: usize) -> Value {
    let key = |kind: &str| format!("{kind}:{:064x}", id + 1);
    let addresses = json!([
        format!("100.64.{}.{}/32", id / 256, id % 256),
        format!("fd7a:115c:a1e0::{id:x}/128")
    ]);
    json!({
        "ID": id + 1, "StableID": format!("n{id}CNTRL"), "Name": format!("machine-{id}.tail1234.ts.net."),
        "User": 1 + id % 40, "Key": key("nodekey"), "Machine": key("mkey"), "DiscoKey": key("discokey"),
        "Addresses": addresses, "AllowedIPs": addresses,
        "Endpoints": [
            format!("192.0.2.{}:41641", id % 256), format!("10.0.{}.{}:41641", id / 256, id % 256),
            format!("[2001:db8::{id:x}]:41641"),
        ],
        "HomeDERP": 1 + id % 20, "Created": "2026-01-01T00:00:00Z", "Cap": 113, "Online": true,
        "MachineAuthorized": true,
        "Hostinfo": {
            "OS": "linux", "OSVersion": "6.12", "Hostname": format!("machine-{id}"), "IPNVersion": "1.102.3",
            "Services": [
                {"Proto": "peerapi4", "Port": 41000 + id % 1000},
                {"Proto": "peerapi6", "Port": 42000 + id % 1000},
            ],
        },
        "CapMap": {"https": [], "https://tailscale.com/cap/is-owner": []},
    })
}

/// What control tells each of them first.
struct Maps {
    machines: Vec<String>,
    rest: String,
}

impl Maps {
    fn new() -> Self {
        let users: Vec<Value> = (1..=40)
            .map(|id| json!({"ID": id, "LoginName": format!("user{id}@example.com"), "DisplayName": format!("User {id}")}))
            .collect();
        let rules: Vec<Value> = (0..30)
            .map(|net| {
                let ports = json!([{"IP": "*", "Ports": {"First": net, "Last": net + 100}}]);
                json!({"SrcIPs": [format!("100.64.{net}.0/24"), "fd7a:115c:a1e0::/48"], "DstPorts": ports})
            })
            .collect();
        let rest = json!({"UserProfiles": users, "PacketFilter": rules, "Domain": "example.com"}).to_string();
        Self {
            machines: (0..=PEERS).map(|id| machine(id).to_string()).collect(),
            rest: rest.trim_start_matches('{').to_owned(),
        }
    }

    fn of(&self, own: usize) -> Vec<u8> {
        let peers = self.machines.iter().enumerate().filter(|(id, _)| *id != own);
        let peers: Vec<&str> = peers.map(|(_, machine)| machine.as_str()).collect();
        format!(
            r#"{{"Node":{},"Peers":[{}],{}"#,
            self.machines[own],
            peers.join(","),
            self.rest
        )
        .into_bytes()
    }
}

struct Running {
    _engine: Engine,
    _netmap: watch::Sender<Option<Arc<Netmap>>>,
    _merger: Merger,
}

fn start(own: usize, map: &[u8], tasks: &TaskTracker, cancel: &CancellationToken) -> Running {
    let mut merger = Merger::new();
    let response = MapResponse::from_json(map).unwrap();
    assert_eq!(response.dropped(), 0);
    let netmap = merger.apply(response, Timestamp::now()).unwrap().unwrap();
    assert_eq!(netmap.peers.len(), PEERS, "of node {own}");
    let (sender, receiver) = watch::channel(Some(netmap));
    let config = EngineConfig::new(NodePrivate::generate().unwrap());
    let local = watch::Sender::new(LocalState::default());
    Running {
        _engine: Engine::start(config, receiver, local, tasks, cancel.clone()).unwrap(),
        _netmap: sender,
        _merger: merger,
    }
}

#[tokio::test]
async fn fifty_nodes_on_a_tailnet_of_a_thousand_share_what_is_equal() {
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let maps = Maps::new();
    let mut nodes = Vec::new();
    let before = resident();
    for own in 1..=NODES {
        nodes.push(start(own, &maps.of(own), &tasks, &cancel));
        tokio::task::yield_now().await;
    }
    let took = (resident() - before) / 1024;
    println!("{NODES} nodes with {PEERS} peers each: {took} MiB");
    assert!(took < 60, "{took} MiB");
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    drop(nodes);
}
