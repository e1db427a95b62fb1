//! What connections without traffic take. A program of its own, since it measures the process.

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

mod memory;

use std::{net::SocketAddr, time::Duration};

use jiff::Timestamp;
use memory::resident;
use postern_node::{
    control::LocalState,
    engine::{Engine, EngineConfig},
    key::NodePrivate,
    netmap::Merger,
    tailcfg::MapResponse,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::yield_now,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The product's: glibc's keeps what lies between what is in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Each has both of its ends in this process.
const CONNECTIONS: usize = 4000;
/// So many are opened at once, and the next when these have given back their buffers: the allocator keeps what was free
/// for whoever comes next.
const BURST: usize = 500;
/// Longer than a flow holds empty buffers.
const RELEASED: Duration = Duration::from_millis(3500);

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
    let (_news, seen) = watch::channel(Some(netmap));
    let local = watch::Sender::new(LocalState::default());
    let engine = Engine::start(EngineConfig::new(node_key), seen, local, &tasks, cancel.clone()).unwrap();
    let mut listener = engine.listen(None, 80).unwrap();

    // The engine hears of its address.
    let bound = Instant::now() + Duration::from_secs(10);
    while engine.dial(own).await.is_err() && Instant::now() < bound {
        yield_now().await;
    }
    drop(listener.accept().await);

    let mut held = Vec::with_capacity(2 * CONNECTIONS);
    let mut before = 0;
    for number in 0..=CONNECTIONS {
        let mut dialled = engine.dial(own).await.unwrap();
        let mut accepted = listener.accept().await.unwrap();
        // As after a request: both have sent and received.
        for _ in 0..2 {
            dialled.write_all(&[7; 500]).await.unwrap();
            dialled.flush().await.unwrap();
            accepted.read_exact(&mut [0; 500]).await.unwrap();
            std::mem::swap(&mut dialled, &mut accepted);
        }
        held.extend([dialled, accepted]);
        if number % BURST == 0 {
            sleep(RELEASED).await;
        }
        if number == 0 {
            before = resident();
        }
    }
    let each = (resident() - before) as f64 / (2 * CONNECTIONS) as f64;
    println!("{CONNECTIONS} idle connections: {each:.2} KiB for each end");
    assert!(each < 4.0, "{each:.2} KiB");
    drop(held);
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
}
