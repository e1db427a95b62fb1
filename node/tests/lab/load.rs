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
    lab::{Lab, eventually, with_lab},
    paths::{NO_UDP_V4, serving},
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

/// Strangers that ask for a handshake so many `times` each, `every` so often.
#[derive(Clone, Copy)]
struct Flood {
    times: u8,
    every: Duration,
}

/// Ten times as much as is computed.
const WITHOUT_PAUSE: Flood = Flood {
    times: 1,
    every: Duration::from_millis(20),
};
/// All that is computed in a second, and some more, at that second's start: a node that isn't optimised, on a machine that
/// is busy, has the rest of it to ask for cookies.
const EACH_SECOND: Flood = Flood {
    times: 8,
    every: Duration::from_millis(1_100),
};

impl Flood {
    /// Sends the same datagram from 200 addresses until it is told to end: how often.
    async fn run(self, port: u16, datagram: &[u8], ends: &AtomicBool) -> u64 {
        let sockets: Vec<_> = (1..=200_u8)
            .map(|last| UdpSocket::bind((Ipv4Addr::new(127, 66, 0, last), 0)).unwrap())
            .collect();
        let (mut sent, mut every) = (0, interval(self.every));
        while !ends.load(Relaxed) {
            for socket in (0..self.times).flat_map(|_| &sockets) {
                // What the queue of the receiver has no room for is lost.
                sent += u64::from(socket.send_to(datagram, ("127.0.0.1", port)).is_ok());
            }
            every.tick().await;
        }
        sent
    }
}

/// Go, which has never talked to the node, fetches from it beside a flood: how long it takes, beside how many initiations.
async fn fetched_beside(lab: &Lab, flood: Flood) -> (Duration, u64) {
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
        runtime.block_on(flood.run(port, &datagram, &told))
    });
    // Go's second attempt, 5 to 5.5 s from now, comes in the middle of what `EACH_SECOND` leaves between two bursts.
    sleep(Duration::from_millis(1_700)).await;
    let start = Instant::now();
    let answer = lab.fetch_within(40, "alice", "http://busy/").await;
    let took = start.elapsed();
    ends.store(true, Relaxed);
    let sent = flood.join().unwrap();
    assert_eq!(answer["body"], "0\n1\n2\n", "{answer}");
    assert!(sent > 10_000, "{sent} are no load");
    (took, sent)
}

#[test]
fn go_is_served_by_relay_at_once_while_strangers_ask_for_handshakes() {
    with_lab(async |lab| {
        lab.start_clients().await;
        let node = serving(lab.config("busy", Some("tskey-auth-bob"))).await;
        // Go's next attempt would be 5 s later.
        let (took, sent) = fetched_beside(lab, WITHOUT_PAUSE).await;
        println!("By relay Go was served after {took:?}, beside {sent} initiations");
        assert!(took < Duration::from_secs(5), "{took:?}");
        node.close().await;
    });
}

#[test]
fn go_returns_a_cookie_and_is_served_while_strangers_ask_for_handshakes() {
    with_lab(async |lab| {
        lab.start_clients().await;
        let node = serving(lab.config("busy", Some("tskey-auth-bob"))).await;
        // A cookie is for one address, and Go would try both of its own in turn.
        lab.network(&format!("{NO_UDP_V4} --source 10.99.0.1"));
        // The relay asks for no cookies.
        lab.break_relay(true).await;
        // Its first initiation goes to the relay, the second one 5 s later brings a cookie and the third one returns it.
        let (took, sent) = fetched_beside(lab, EACH_SECOND).await;
        println!("With a cookie Go was served after {took:?}, beside {sent} initiations");
        node.close().await;
    });
}
