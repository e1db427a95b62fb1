//! A Go node that is talked to: by streams, datagrams and pings.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use postern_node::{
    dial::Destination,
    engine::{PingKind, UdpSocket},
    node::{Error, Node},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::lab::{Lab, eventually, up, with_lab};

/// A node of ours that knows the Go node, and that one's addresses.
async fn beside_go(lab: &mut Lab) -> (Node, [IpAddr; 2]) {
    let go = lab.start_peer("echo", "echo", &[]);
    lab.says(go, "serving").await;
    let (node, _) = up(lab.config("dialler", Some("tskey-auth-bob"))).await;
    let known = lab.addresses("echo").await;
    assert!(known[0].is_ipv4() && known[1].is_ipv6());
    eventually("the node knows the Go node", async || {
        let netmap = node.netmap().borrow().clone().unwrap();
        known.iter().all(|ip| netmap.node_by_ip(*ip).is_some())
    })
    .await;
    (node, known)
}

/// What a stream brings back.
async fn streamed(node: &Node, to: impl Into<Destination>, said: &[u8]) -> (SocketAddr, Vec<u8>) {
    let mut stream = node.dial(to).await.unwrap();
    stream.write_all(said).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    (stream.peer_addr(), heard)
}

/// Sends a datagram until it comes back, since some may be lost.
async fn returned(socket: &UdpSocket, said: &[u8]) -> Vec<u8> {
    let mut heard = vec![0; said.len() + 1];
    let mut length = 0;
    eventually("the datagram comes back", async || {
        socket.send(said).unwrap();
        let answer = timeout(Duration::from_secs(1), socket.recv(&mut heard)).await;
        length = answer.map_or(0, Result::unwrap);
        length > 0
    })
    .await;
    heard.truncate(length);
    heard
}

#[test]
fn a_go_node_is_reached_by_streams_over_either_family_and_by_its_names() {
    with_lab(async |lab| {
        let (node, [v4, v6]) = beside_go(lab).await;
        let said: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        for ip in [v4, v6] {
            let (peer, heard) = streamed(&node, (ip, 7), &said).await;
            assert_eq!(peer, (ip, 7).into());
            assert!(heard == said, "{ip}: the bytes differ");
        }
        for name in [
            "echo:7",
            "echo.lab-tailnet.ts.net:7",
            "ECHO.lab-tailnet.ts.net.:7",
        ] {
            let (peer, heard) = streamed(&node, name, b"by name").await;
            assert_eq!((peer, &heard[..]), ((v4, 7).into(), &b"by name"[..]), "{name}");
        }
        let refused = node.dial((v6, 8)).await.unwrap_err();
        let Error::Io { source, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(source.kind(), ErrorKind::ConnectionRefused);
        node.close().await;
    });
}

#[test]
fn a_go_node_is_reached_by_datagrams_over_either_family_and_by_its_name() {
    with_lab(async |lab| {
        let (node, [v4, v6]) = beside_go(lab).await;
        let largest = [7; UdpSocket::MAX_PAYLOAD];
        for to in [Destination::from((v4, 7)), (v6, 7).into(), "echo:7".into()] {
            let text = to.to_string();
            let socket = node.dial_packet(to).await.unwrap();
            for said in [&b"hello"[..], &largest] {
                assert_eq!(returned(&socket, said).await, said, "{text}");
            }
        }
        node.close().await;
    });
}

#[test]
fn a_go_node_answers_pings_over_either_family() {
    with_lab(async |lab| {
        let (node, addresses) = beside_go(lab).await;
        for ip in addresses {
            for kind in [PingKind::Icmp, PingKind::Tsmp, PingKind::Disco] {
                let pong = node.ping(ip, kind).await;
                assert!(pong.is_ok(), "{kind:?} to {ip}: {pong:?}");
            }
        }
        node.close().await;
    });
}
