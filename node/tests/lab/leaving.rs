//! What a process has of its nodes after they have ended.

use std::collections::BTreeSet;

use postern_node::{funnel::FunnelMode, node::Config, state::HandOver};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    runtime::Handle,
};

use crate::lab::{Lab, eventually, stored, up, with_lab};

/// The sockets of this process in the test's own network: other tests run beside it.
fn sockets() -> BTreeSet<u64> {
    let mut here = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        let inodes = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(9));
        here.extend(inodes.map(|inode| inode.parse::<u64>().unwrap()));
    }
    let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let inode = |link: std::path::PathBuf| {
        let text = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        text.parse().ok()
    };
    links
        .filter_map(inode)
        .filter(|inode| here.contains(inode))
        .collect()
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Runs three nodes on two tailnets, uses them, and ends them with all that is open.
async fn live_and_die(lab: &Lab, elsewhere: &str, before: &BTreeSet<u64>) {
    let (one, me) = up(lab.secure_config("one", "tskey-auth-tagged")).await;
    let relayed = Config {
        derp_only: true,
        ..lab.config("two", Some("tskey-auth-bob"))
    };
    let (two, _) = up(relayed).await;
    let other = Config {
        control_url: elsewhere.to_owned(),
        ..lab.config("one", Some("tskey-auth-alice"))
    };
    let (three, other) = up(other).await;
    assert_eq!(
        (&*me.name, &*other.name),
        ("one.lab-tailnet.ts.net", "one.other-tailnet.ts.net")
    );

    let mut listener = one.listen(80).unwrap();
    let tls = one.listen_tls(443).unwrap();
    let funnel = one.listen_funnel(8443, FunnelMode::Both).await.unwrap();
    let datagrams = one.listen_packet("0.0.0.0:53".parse().unwrap()).await.unwrap();
    let (dialled, accepted) = tokio::join!(two.dial("one:80"), listener.accept());
    let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
    dialled.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
    // Connections that nobody accepts, a handshake that never ends, a stream to another tailnet's name.
    let _waiting = two.dial("one:80").await.unwrap();
    let _silent = two.dial("one:443").await.unwrap();
    assert!(three.dial("two:80").await.is_err());
    let clone = one.clone();
    tokio::join!(one.close(), two.close(), three.close());
    // Whoever holds one of these holds no socket of the node's, and no task.
    assert_eq!(sockets(), *before);
    drop((clone, listener, tls, funnel, datagrams, dialled, accepted));
}

#[test]
fn nodes_on_several_control_servers_leave_no_task_and_no_socket() {
    with_lab(async |lab| {
        lab.start_authority().await;
        let elsewhere = lab.start_other_control().await;
        let counted = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        assert_eq!(sockets().len(), 1, "this test's own is seen");
        drop(counted);
        let before = (tasks(), sockets());
        live_and_die(lab, &elsewhere, &before.1).await;
        eventually("the runtime has dropped what has ended", async || {
            tasks() == before.0
        })
        .await;
        assert_eq!(sockets(), before.1);
    });
}

#[test]
fn a_node_that_ends_and_starts_again_finds_its_port_free_whoever_holds_a_stream() {
    with_lab(async |lab| {
        let (peer, _) = up(lab.config("peer", Some("tskey-auth-bob"))).await;
        let config = lab.config("again", Some("tskey-auth-bob"));
        let (mut port, mut held) = (None, Vec::new());
        for round in 0..3 {
            let (node, _) = up(config.clone()).await;
            let mut listener = node.listen(80).unwrap();
            let datagrams = node.listen_packet("0.0.0.0:53".parse().unwrap()).await.unwrap();
            let (dialled, accepted) = tokio::join!(peer.dial("again:80"), listener.accept());
            held.push((dialled.unwrap(), accepted.unwrap(), listener, datagrams));
            node.close().await;
            let HandOver {
                udp_port, disco_key, ..
            } = stored(&config.store).await.hand_over;
            let now = (udp_port, disco_key.map(|key| key.public()));
            assert_eq!(*port.get_or_insert(now), now, "round {round}");
        }
        peer.close().await;
        assert_eq!(sockets(), BTreeSet::new());
    });
}
