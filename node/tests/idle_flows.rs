//! What connections without traffic take. A program of its own, since it measures the process.

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

use std::{fs, net::SocketAddr, time::Duration};

use jiff::Timestamp;
use postern_node::{
    control::LocalState,
    engine::{Engine, EngineConfig},
    key::NodePrivate,
    netmap::Merger,
    proxy::Outbound,
    state::HandOver,
    tailcfg::MapResponse,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Each has both of its ends in this process.
const CONNECTIONS: usize = 4000;

/// Resident memory of this process, in KiB.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_idle_flow_takes_less_than_four_kib() {
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let node_key = NodePrivate::generate().unwrap();
    let own: SocketAddr = ([100, 64, 0, 1], 80).into();
    let map = json!({"Node": {
        "ID": 1, "StableID": "n1", "Name": "a.example.ts.net.", "User": 1, "Key": node_key.public(),
        "Addresses": ["100.64.0.1/32"], "AllowedIPs": ["100.64.0.1/32"], "MachineAuthorized": true,
    }});
    let map = MapResponse::from_json(map.to_string().as_bytes()).unwrap();
    let netmap = Merger::new().apply(map, Timestamp::now()).unwrap().unwrap();
    let (_netmap, netmap) = watch::channel(Some(netmap));
    let config = EngineConfig {
        node_key,
        udp_port: 0,
        static_endpoints: Vec::new(),
        derp_only: false,
        outbound: Outbound::default(),
        hand_over: HandOver::default(),
    };
    let local = watch::Sender::new(LocalState::default());
    let engine = Engine::start(config, netmap, local, &tasks, cancel.clone()).unwrap();
    let mut listener = engine.listen(None, 80).unwrap();

    let mut held = Vec::with_capacity(2 * CONNECTIONS);
    let mut before = 0;
    for number in 0..=CONNECTIONS {
        let (dialled, accepted) = tokio::join!(engine.dial(own), listener.accept());
        let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
        // As after a request: both have sent and received.
        for _ in 0..2 {
            dialled.write_all(&[7; 500]).await.unwrap();
            dialled.flush().await.unwrap();
            accepted.read_exact(&mut [0; 500]).await.unwrap();
            std::mem::swap(&mut dialled, &mut accepted);
        }
        held.extend([dialled, accepted]);
        if number == 0 {
            before = resident();
        }
    }
    // Buffers are given back when nothing has moved for a while.
    let until = Instant::now() + Duration::from_secs(30);
    let each = || (resident() - before) as f64 / (2 * CONNECTIONS) as f64;
    while each() >= 4.0 && Instant::now() < until {
        sleep(Duration::from_millis(100)).await;
    }
    println!("{CONNECTIONS} idle connections: {:.2} KiB for each end", each());
    assert!(each() < 4.0, "{:.2} KiB", each());
    drop(held);
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
}
