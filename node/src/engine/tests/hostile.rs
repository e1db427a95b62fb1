//! A peer that is on the tailnet and means harm: what it sends is dropped and counted, and others are served meanwhile.

use std::{cell::Cell, time::Instant};

use serde_json::{Value, json};
use smoltcp::wire::TcpControl;
use tokio::{net::UdpSocket, task::JoinSet};

use super::{policy::forge, *};
use crate::engine::shared::MAX_FLOWS_PER_PEER;

/// Somebody honest, the node that serves it, and somebody hostile.
async fn three() -> (Side, Side, Side) {
    let (honest, node) = pair().await;
    let hostile = Side::start(3, vec![node.as_recent(node.endpoint())]);
    node.hear(json!({"PeersChanged": [hostile.node()]})).await;
    hostile.meet(&[node.node()]).await;
    (honest, node, hostile)
}

/// Serves the honest one while the other does its worst, for as long as that takes and `least` times, and once more
/// afterwards. It may take longer than in peace, but not out of all proportion.
async fn served_while(honest: &Side, node: &Side, least: u32, mut attack: impl FnMut(u32)) {
    let mut tasks = JoinSet::new();
    serve_echo(node, &mut tasks);
    let to = node.addr(PORT);
    let mut open = honest.engine.dial(to).await.unwrap();
    let start = Instant::now();
    honest_work(honest, to, &mut open).await;
    let in_peace = start.elapsed();

    let bound = 20 * in_peace + Duration::from_secs(10);
    let done = Cell::new(false);
    let work = async {
        let start = Instant::now();
        let work = tokio::time::timeout(bound, honest_work(honest, to, &mut open)).await;
        done.set(true);
        work.map(|()| start.elapsed())
    };
    let attack = async {
        let mut attacks = 0;
        while !done.get() || attacks < least {
            attack(attacks);
            attacks += 1;
            // Others have their turn after every few.
            if attacks % 32 == 0 {
                tokio::task::yield_now().await;
            }
        }
        attacks
    };
    let (work, attacks) = tokio::join!(work, attack);
    println!("{in_peace:?} in peace, {work:?} during {attacks} attacks");
    assert!(work.is_ok(), "it starves");
    assert_echo(honest.engine.dial(to).await.unwrap(), 5_000).await;
}

/// Questions over a connection that is open, and over new ones.
async fn honest_work(honest: &Side, to: SocketAddr, open: &mut TcpStream) {
    for round in 0..10 {
        let question = pattern(20_000 + round);
        let mut answer = vec![0; question.len()];
        let (mut reader, mut writer) = tokio::io::split(&mut *open);
        let (written, read) = tokio::join!(writer.write_all(&question), reader.read_exact(&mut answer));
        written.unwrap();
        read.unwrap();
        assert!(answer == question);
        assert_echo(honest.engine.dial(to).await.unwrap(), 5_000).await;
    }
}

/// A handshake initiation for `to` that was caught on its way.
fn initiation(from: &Side, to: &Side) -> Vec<u8> {
    let peers = &from.engine.shared.peers;
    let view = from.engine.shared.view.load_full().unwrap();
    let peer = peers.peer(&view.peer(&to.key.public()).unwrap());
    let initiation = peers.initiate_again(&peer).unwrap().to_vec();
    assert_eq!(initiation.len(), 148);
    initiation
}

#[tokio::test]
async fn garbage_in_the_tunnel_harms_nobody() {
    let (honest, node, hostile) = three().await;
    let mut random = fastrand::Rng::with_seed(5);
    served_while(&honest, &node, 5_000, |i| {
        let control = [
            TcpControl::Syn,
            TcpControl::Rst,
            TcpControl::Fin,
            TcpControl::None,
        ];
        let from = hostile.addr(1 + (i % 5_000) as u16);
        let mut packet = forge(from, node.addr(PORT), control[i as usize % 4], i as i32);
        // Too long, too short, or with some bytes of it changed.
        match random.u8(..4) {
            0 => packet.resize(random.usize(..60_000), 0xaa),
            1 => packet.truncate(random.usize(..packet.len())),
            2 => random.fill(&mut packet),
            _ => {
                for _ in 0..random.u8(1..4) {
                    let at = random.usize(..packet.len());
                    packet[at] = random.u8(..);
                }
            }
        }
        hostile.inject(&node, packet);
    })
    .await;
    for reason in [
        DropReason::Malformed,
        DropReason::SourceNotAllowed,
        DropReason::NotForUs,
    ] {
        within(|| node.dropped(reason) > 0).await;
    }
}

#[tokio::test]
async fn a_flood_of_syns_costs_others_nothing() {
    let (honest, node, hostile) = three().await;
    // It takes no answer, or its own TCP would refuse them.
    hostile
        .hear(json!({"PacketFilter": [], "Node": {"ID": 3, "Key": hostile.key.public(), "Addresses": ["100.64.0.77/32"]}}))
        .await;
    served_while(&honest, &node, 20_000, |i| {
        let from = hostile.addr(1 + (i % 60_000) as u16);
        hostile.inject(&node, forge(from, node.addr(PORT), TcpControl::Syn, i as i32));
    })
    .await;
    within(|| node.dropped(DropReason::TooManyFlows) > 0).await;
}

#[tokio::test]
async fn nobody_speaks_for_others() {
    let (honest, node, hostile) = three().await;
    served_while(&honest, &node, 2_000, |i| {
        let control = if i % 2 == 0 {
            TcpControl::Rst
        } else {
            TcpControl::Syn
        };
        // The ports that the honest one's connections have are among them.
        let from = honest.addr(32_768 + (i * 14 % 28_000) as u16);
        hostile.inject(&node, forge(from, node.addr(PORT), control, i as i32));
    })
    .await;
    within(|| node.dropped(DropReason::SourceNotAllowed) > 0).await;
}

#[tokio::test]
async fn repeated_handshakes_and_large_datagrams_starve_nobody() {
    let (honest, node, hostile) = three().await;
    let initiation = initiation(&hostile, &node);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = node.endpoint();
    // Of no session.
    let large = [&[4, 0, 0, 0][..], &[0xaa; 65_000]].concat();
    served_while(&honest, &node, 4_000, |i| {
        let datagram = if i % 50 == 0 { &large } else { &initiation };
        let _ = socket.try_send_to(datagram, to);
    })
    .await;
    within(|| node.dropped(DropReason::Replayed) > 0 && node.dropped(DropReason::UnknownPeer) > 0).await;
}

#[tokio::test]
async fn a_handshake_from_a_thousand_addresses_starves_nobody() {
    let (honest, node, hostile) = three().await;
    let captured = initiation(&hostile, &node);
    let to = node.endpoint();
    served_while(&honest, &node, 4_000, |i| {
        let from = (0x7f01_0000 + i % 30_000).to_be_bytes();
        let socket = std::net::UdpSocket::bind(SocketAddr::from((from, 0))).unwrap();
        let _ = socket.send_to(&captured, to);
    })
    .await;
    within(|| node.dropped(DropReason::Replayed) > 0).await;
}

#[tokio::test]
async fn a_handshake_that_somebody_else_passes_on_moves_nobody() {
    let (honest, node) = pair().await;
    // Nothing but its packets says where it is.
    let mut without_disco = honest.node();
    without_disco["DiscoKey"] = Value::Null;
    without_disco["Endpoints"] = json!([]);
    node.hear(json!({"PeersChanged": [without_disco]})).await;
    drop(connected(&honest, &node).await);
    let place = || {
        let peer = node.engine.shared.peers.live_peer(&honest.key.public()).unwrap();
        (peer.seen().addr, node.engine.shared.route(&peer).udp)
    };
    let home = (Some(honest.endpoint()), Some(honest.endpoint()));
    within(|| place() == home).await;

    let captured = initiation(&honest, &node);
    let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    elsewhere.send_to(&captured, node.endpoint()).await.unwrap();
    let mut answer = [0; 200];
    let answered = tokio::time::timeout(PATIENCE, elsewhere.recv(&mut answer));
    assert_eq!(answered.await.unwrap().unwrap(), 92);
    assert_eq!(place(), home);
    drop(connected(&honest, &node).await);
}

#[tokio::test]
async fn one_peer_cannot_take_all_connections() {
    let (honest, node, hostile) = three().await;
    let mut tasks = JoinSet::new();
    serve_echo(&node, &mut tasks);
    assert_echo(hostile.engine.dial(node.addr(PORT)).await.unwrap(), 10).await;
    let peer = node.engine.shared.peers.live_peer(&hostile.key.public()).unwrap();
    // As if it had so many open.
    peer.open_flows.fetch_add(MAX_FLOWS_PER_PEER, Relaxed);
    let before = node.dropped(DropReason::TooManyFlows);
    tokio::select! {
        answer = hostile.engine.dial(node.addr(PORT)) => panic!("there was an answer: {answer:?}"),
        () = within(|| node.dropped(DropReason::TooManyFlows) > before) => {}
    }
    assert_echo(honest.engine.dial(node.addr(PORT)).await.unwrap(), 10).await;
    peer.open_flows.fetch_sub(MAX_FLOWS_PER_PEER, Relaxed);
    assert_echo(hostile.engine.dial(node.addr(PORT)).await.unwrap(), 10).await;
}
