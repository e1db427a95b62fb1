//! Go nodes that come while strangers ask for more handshakes than can be computed.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use gotatun::{
    noise::{Tunn, index_table::IndexTable, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};
use postern_node::key::NodePublic;
use tokio::{
    runtime::Builder,
    time::{interval, sleep},
};

use crate::{
    lab::{eventually, with_lab},
    paths::serving,
};

/// An initiation by a key that nobody knows. It is as good as a captured one: the first message says nothing of who sent it.
fn initiation(to: &NodePublic) -> Vec<u8> {
    let to = PublicKey::from(*to.as_bytes());
    let limiter = Arc::new(RateLimiter::new(&to, 0));
    let mut stranger = Tunn::new(
        StaticSecret::from([7; 32]),
        to,
        None,
        None,
        IndexTable::from_os_rng(),
        limiter,
    );
    let initiation = stranger.format_handshake_initiation(false).unwrap();
    initiation.into_bytes().to_vec()
}

/// Sends the same datagram from many addresses until it is told to end: how often.
async fn flood(port: u16, datagram: &[u8], ends: &AtomicBool) -> u64 {
    let sockets: Vec<_> = (1..=200_u8)
        .map(|last| UdpSocket::bind((Ipv4Addr::new(127, 66, 0, last), 0)).unwrap())
        .collect();
    let (mut sent, mut every) = (0, interval(Duration::from_millis(20)));
    while !ends.load(Relaxed) {
        for socket in &sockets {
            // What the queue of the receiver has no room for is lost.
            sent += u64::from(socket.send_to(datagram, ("127.0.0.1", port)).is_ok());
        }
        every.tick().await;
    }
    sent
}

#[test]
fn go_returns_a_cookie_and_is_served_while_strangers_ask_for_handshakes() {
    with_lab(async |lab| {
        lab.start_clients().await;
        let node = serving(lab.config("busy", Some("tskey-auth-bob"))).await;
        let mut port = None;
        eventually("control knows the port", async || {
            let device = lab.device("busy").await;
            let endpoint = device["endpoints"][0].as_str().map(str::to_owned);
            port = endpoint.and_then(|text| Some(text.rsplit_once(':')?.1.parse::<u16>().unwrap()));
            port.is_some()
        })
        .await;
        let (port, datagram) = (port.unwrap(), initiation(&lab.node_key("busy").await));
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        // In a thread of its own: the node has this one.
        let flood = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(flood(port, &datagram, &told))
        });
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        // Go has never talked to this node. Its first initiation comes by relay, the next one directly 5 s later: each of these
        // sources is given a cookie of its own, so that it is the third one that counts.
        let answer = lab.fetch_within(40, "alice", "http://busy/").await;
        let took = start.elapsed();
        ends.store(true, Relaxed);
        let sent = flood.join().unwrap();
        println!("Go was served after {took:?}, beside {sent} initiations");
        assert_eq!(answer["body"], "0\n1\n2\n", "{answer}");
        assert!(sent > 10_000, "{sent} are no load");
        node.close().await;
    });
}
