//! Ways to a Go node and from it that come, go and change.

use std::{
    net::{Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

use postern_node::{
    engine::{TcpListener, TcpStream},
    magicsock::Path,
    node::{Config, Node, Status},
    state::HandOver,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::lab::{Lab, eventually, status, stored, up, with_lab};

/// All UDP but the relay's STUN.
pub const NO_UDP_V4: &str =
    "iptables --append INPUT --protocol udp --match multiport ! --ports 9978 --jump DROP";
const NO_UDP_V6: &str = "ip6tables --append INPUT --protocol udp --jump DROP";

const EVERY: Duration = Duration::from_millis(100);

/// Says a line every tenth of a second: 3 by default, or as many as the path says.
async fn drip(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = vec![0; 1024];
    let length = stream.read(&mut request).await?;
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let lines = path.trim_matches('/').parse().unwrap_or(3);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        .await?;
    for number in 0..lines {
        stream.write_all(format!("{number}\n").as_bytes()).await?;
        stream.flush().await?;
        sleep(EVERY).await;
    }
    stream.shutdown().await
}

async fn serve(mut listener: TcpListener) {
    while let Some(stream) = listener.accept().await {
        tokio::spawn(drip(stream));
    }
}

pub async fn serving(config: Config) -> Node {
    let (node, _) = up(config).await;
    tokio::spawn(serve(node.listen(80).unwrap()));
    node
}

/// Waits until Go's client gets an answer that came this way.
pub async fn comes_by(lab: &Lab, url: &str, way: &str) {
    eventually(&format!("{url} by {way}"), async || {
        let answer = lab.fetch("alice", url).await;
        answer["body"] == "0\n1\n2\n" && answer["path"].as_str().unwrap().starts_with(way)
    })
    .await;
}

/// Go's client reads so many lines while `change` happens; the longest it had to wait for one.
async fn longest_wait(lab: &Lab, host: &str, lines: usize, change: impl Future<Output = ()>) -> u64 {
    let url = format!("http://{host}/{lines}");
    let (answer, ()) = tokio::join!(lab.fetch_within(40, "alice", &url), change);
    let expected: String = (0..lines).map(|number| format!("{number}\n")).collect();
    assert_eq!(answer["body"], expected, "{answer}");
    let chunks = answer["chunks"].as_array().unwrap().iter();
    let times: Vec<u64> = chunks.map(|chunk| chunk["ms"].as_u64().unwrap()).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
}

#[test]
fn udp_that_dies_is_left_for_the_relay_and_found_again_over_either_family() {
    with_lab(async |lab| {
        lab.network("ip address add 2001:db8:99::1/64 dev lab0 nodad");
        lab.start_clients().await;
        // Both work at first, and which of them is quicker is luck.
        lab.network(NO_UDP_V6);
        let node = serving(lab.config("paths", Some("tskey-auth-bob"))).await;
        comes_by(lab, "http://paths/", "direct 1").await;
        lab.network("ip6tables --flush INPUT");
        lab.network(NO_UDP_V4);
        comes_by(lab, "http://paths/", "direct [2001:db8:99::1]:").await;
        let dies = async {
            sleep(EVERY * 20).await;
            lab.network(NO_UDP_V6);
        };
        let gap = longest_wait(lab, "paths", 150, dies).await;
        println!("without UDP nothing came for {gap} ms");
        // Go's side leaves the path after 6.5 s, ours before; then TCP repeats what was lost.
        assert!((1000..9000).contains(&gap), "{gap} ms");
        comes_by(lab, "http://paths/", "derp lab").await;
        lab.network("ip6tables --flush INPUT");
        comes_by(lab, "http://paths/", "direct [2001:db8:99::1]:").await;
        node.close().await;
    });
}

#[test]
fn a_relay_that_goes_is_returned_to_and_streams_go_on() {
    with_lab(async |lab| {
        lab.start_clients().await;
        let config = Config {
            derp_only: true,
            ..lab.config("relayed", Some("tskey-auth-bob"))
        };
        let node = serving(config).await;
        comes_by(lab, "http://relayed/", "derp lab").await;
        let outage = async {
            sleep(EVERY * 10).await;
            lab.break_relay(true).await;
            sleep(EVERY * 30).await;
            lab.break_relay(false).await;
        };
        let gap = longest_wait(lab, "relayed", 100, outage).await;
        println!("while the relay was away nothing came for {gap} ms");
        assert!(gap >= 2900, "it was away for 3 s: {gap} ms");
        comes_by(lab, "http://relayed/", "derp lab").await;
        node.close().await;
    });
}

#[test]
fn either_side_starts_anew_and_is_reached_at_once() {
    with_lab(async |lab| {
        let clients = lab.start_clients().await;
        let config = lab.config("again", Some("tskey-auth-bob"));
        let node = serving(config.clone()).await;
        comes_by(lab, "http://again/", "direct ").await;
        node.close().await;
        let closed = Instant::now();
        let node = serving(config).await;
        comes_by(lab, "http://again/", "direct ").await;
        println!(
            "our node answers {:?} after the end of the one before",
            closed.elapsed()
        );
        assert!(
            closed.elapsed() < Duration::from_secs(15),
            "{:?}",
            closed.elapsed()
        );

        // Go's forgets its sessions and takes another port and disco key.
        lab.kill(clients);
        let killed = Instant::now();
        lab.start_clients().await;
        comes_by(lab, "http://again/", "direct ").await;
        println!(
            "Go's new process has its answer {:?} after the kill",
            killed.elapsed()
        );
        node.close().await;
    });
}

/// Go tries a handshake again after 5 s, and trusts a path for 6.5 s.
const WITHIN_GOS_PATIENCE: Duration = Duration::from_secs(3);

/// Starts a node from what one before it has stored, where it should be found as that one was; how long that took.
async fn successor(lab: &Lab, after: &str, config: &Config, before: &HandOver) -> (Node, Duration) {
    let started = Instant::now();
    let node = serving(config.clone()).await;
    eventually("Go's client has an answer", async || {
        lab.fetch("alice", "http://steady/1").await["body"] == "0\n"
    })
    .await;
    let took = started.elapsed();
    assert!(took < WITHIN_GOS_PATIENCE, "after {after}: {took:?}");
    let local = node.local();
    let disco = before.disco_key.as_ref().map(|key| key.public());
    assert_eq!(local.disco, disco, "after {after}");
    let port = before.udp_port.unwrap();
    let at_port = local
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.addr.port() == port);
    assert!(at_port.count() > 0, "after {after}: {port} in {local:?}");
    (node, took)
}

/// Ends a node as a crash does: nothing more is stored.
async fn crash(node: Node, before: &HandOver) {
    drop(node);
    let addr = (Ipv6Addr::UNSPECIFIED, before.udp_port.unwrap());
    eventually("its port is free", async || UdpSocket::bind(addr).is_ok()).await;
}

#[test]
fn a_go_peer_that_was_talking_is_answered_at_once_after_an_end_and_after_crash_upon_crash() {
    with_lab(async |lab| {
        lab.start_clients().await;
        let config = lab.config("steady", Some("tskey-auth-bob"));
        let node = serving(config.clone()).await;
        comes_by(lab, "http://steady/", "direct ").await;
        node.close().await;
        let before = stored(&config.store).await.hand_over;
        let (node, orderly) = successor(lab, "an orderly end", &config, &before).await;
        crash(node, &before).await;
        let (node, crashed) = successor(lab, "a crash", &config, &before).await;
        crash(node, &before).await;
        // This one doesn't live to see a netmap.
        let unreachable = Config {
            control_url: "http://127.0.0.1:1".to_owned(),
            ..config.clone()
        };
        let node = Node::start(unreachable).await.unwrap();
        let failing = |status: &Status| matches!(status, Status::Starting { last_error: Some(_) });
        status(&node, failing).await;
        crash(node, &before).await;
        let (node, again) = successor(lab, "a crash while control was away", &config, &before).await;
        println!(
            "Go has its answer {orderly:?} after the start that follows an orderly end, {crashed:?} after one that follows \
             a crash, and {again:?} after one that follows two"
        );
        node.close().await;
    });
}

/// As behind a NAT that forgets: Go itself is told nothing, and its old address is a dead end.
#[test]
fn a_go_peer_whose_address_changes_is_followed_and_streams_go_on() {
    with_lab(async |lab| {
        // Answers that leave from another address than the question's aren't known to NAT.
        lab.network(&format!("{NO_UDP_V4} --destination 127.0.0.1"));
        // What it has tracked before keeps its address.
        lab.network("iptables --table raw --append OUTPUT --protocol udp --jump CT --notrack");
        lab.start_clients().await;
        let node = serving(lab.config("follower", Some("tskey-auth-bob"))).await;
        comes_by(lab, "http://follower/", "direct ").await;
        let go = lab.node_key("alice-laptop").await;
        let Path::Direct(old) = node.traffic(&go).path else {
            panic!("{:?}", node.traffic(&go))
        };
        let moved = Path::Direct("10.99.0.77:7777".parse().unwrap());
        let moves = async {
            sleep(EVERY * 20).await;
            for change in [
                format!(
                    "raw --insert OUTPUT --protocol udp --dport {} --jump DROP",
                    old.port()
                ),
                format!(
                    "nat --append POSTROUTING --protocol udp --sport {} --jump SNAT --to-source 10.99.0.77:7777",
                    old.port()
                ),
                "raw --delete OUTPUT --protocol udp --jump CT --notrack".to_owned(),
            ] {
                lab.network(&format!("iptables --table {change}"));
            }
            let since = Instant::now();
            eventually("we have followed", async || node.traffic(&go).path == moved).await;
            println!("we have followed after {:?}", since.elapsed());
        };
        let gap = longest_wait(lab, "follower", 100, moves).await;
        println!("when Go had moved nothing came for {gap} ms");
        // We leave the old address within 6 s; then TCP repeats what was lost.
        assert!(gap < 9000, "{gap} ms");
        assert_eq!(node.traffic(&go).path, moved);
        comes_by(lab, "http://follower/", "direct ").await;
        node.close().await;
    });
}

/// As a NodePort is: the port that the world knows is another one than ours.
#[test]
fn a_static_endpoint_is_announced_and_used() {
    with_lab(async |lab| {
        lab.network("iptables --table nat --append OUTPUT --protocol udp --dport 30001 --jump REDIRECT --to-ports 41999");
        lab.network("iptables --table raw --append OUTPUT --protocol udp --dport 41999 --jump DROP");
        lab.start_clients().await;
        let config = Config {
            udp_port: 41999,
            static_endpoints: vec!["10.99.0.1:30001".parse().unwrap()],
            ..lab.config("static", Some("tskey-auth-bob"))
        };
        let node = serving(config).await;
        eventually("control knows the endpoints", async || {
            let endpoints = lab.device("static").await["endpoints"].clone();
            endpoints[0] == "10.99.0.1:30001" && endpoints.to_string().contains("10.99.0.1:41999")
        })
        .await;
        comes_by(lab, "http://static/", "direct 10.99.0.1:30001").await;
        node.close().await;
    });
}
