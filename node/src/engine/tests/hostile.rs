//! A peer that is on the tailnet and means harm: what it sends is dropped and counted, and others are served meanwhile.

use serde_json::json;
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

/// Serves the honest one while the other does its worst, and once more afterwards.
async fn served_while(honest: &Side, node: &Side, attack: impl Future<Output = ()>) {
    let mut tasks = JoinSet::new();
    serve_echo(node, &mut tasks);
    let to = node.addr(PORT);
    let mut open = honest.engine.dial(to).await.unwrap();
    let honest_work = async {
        for round in 0..10 {
            let question = pattern(20_000 + round);
            let mut answer = vec![0; question.len()];
            let (mut reader, mut writer) = tokio::io::split(&mut open);
            let (written, read) = tokio::join!(writer.write_all(&question), reader.read_exact(&mut answer));
            written.unwrap();
            read.unwrap();
            assert!(answer == question);
            assert_echo(honest.engine.dial(to).await.unwrap(), 5_000).await;
        }
    };
    let both = async { tokio::join!(honest_work, attack) };
    tokio::time::timeout(PATIENCE, both).await.expect("it starves");
    assert_echo(honest.engine.dial(to).await.unwrap(), 5_000).await;
}

/// Lets others have their turn after every few.
async fn each(count: u32, mut send: impl FnMut(u32)) {
    for i in 0..count {
        send(i);
        if i % 32 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn garbage_in_the_tunnel_harms_nobody() {
    let (honest, node, hostile) = three().await;
    let mut random = fastrand::Rng::with_seed(5);
    let attack = each(5_000, |i| {
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
    });
    served_while(&honest, &node, attack).await;
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
    let attack = each(20_000, |i| {
        let from = hostile.addr(1 + (i % 60_000) as u16);
        hostile.inject(&node, forge(from, node.addr(PORT), TcpControl::Syn, i as i32));
    });
    served_while(&honest, &node, attack).await;
    within(|| node.dropped(DropReason::TooManyFlows) > 0).await;
}

#[tokio::test]
async fn nobody_speaks_for_others() {
    let (honest, node, hostile) = three().await;
    let attack = each(2_000, |i| {
        let control = if i % 2 == 0 {
            TcpControl::Rst
        } else {
            TcpControl::Syn
        };
        // The ports that the honest one's connections have are among them.
        let from = honest.addr(32_768 + (i * 14 % 28_000) as u16);
        hostile.inject(&node, forge(from, node.addr(PORT), control, i as i32));
    });
    served_while(&honest, &node, attack).await;
    within(|| node.dropped(DropReason::SourceNotAllowed) > 0).await;
}

#[tokio::test]
async fn repeated_handshakes_and_large_datagrams_starve_nobody() {
    let (honest, node, hostile) = three().await;
    let peers = &hostile.engine.shared.peers;
    let view = hostile.engine.shared.view.load_full().unwrap();
    let peer = peers.peer(&view.peer(&node.key.public()).unwrap());
    let initiation = loop {
        // One may be under way from greeting it.
        match peers.initiate(&peer) {
            Some(initiation) => break initiation.as_ref().to_vec(),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    assert_eq!(initiation.len(), 148);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = node.endpoint();
    // Of no session.
    let large = [&[4, 0, 0, 0][..], &[0xaa; 65_000]].concat();
    let attack = each(4_000, |i| {
        let datagram = if i % 50 == 0 { &large } else { &initiation };
        let _ = socket.try_send_to(datagram, to);
    });
    served_while(&honest, &node, attack).await;
    within(|| node.dropped(DropReason::Replayed) > 0 && node.dropped(DropReason::UnknownPeer) > 0).await;
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
