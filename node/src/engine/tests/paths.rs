//! Bad paths, restarts, new keys.

use std::sync::atomic::AtomicU64;

use serde_json::json;
use tokio::{net::UdpSocket, task::JoinSet};

use super::*;

/// Stands between two sockets and does to their datagrams what `meddle` says: the copies to send now.
async fn relay(
    socket: Arc<UdpSocket>,
    [a, b]: [SocketAddr; 2],
    mut meddle: impl FnMut(Vec<u8>) -> Vec<Vec<u8>>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
        let to = if from == a { b } else { a };
        for datagram in meddle(buffer[..n].to_vec()) {
            socket.send_to(&datagram, to).await.unwrap();
        }
    }
}

/// Two nodes that reach each other through such a relay alone.
async fn pair_through(
    meddle: impl FnMut(Vec<u8>) -> Vec<Vec<u8>> + Send + 'static,
    tasks: &mut JoinSet<()>,
) -> (Side, Side) {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let between = socket.local_addr().unwrap();
    let b = Side::start(2, Vec::new());
    let a = Side::start(1, vec![b.as_recent(between)]);
    tasks.spawn(relay(socket, [a.endpoint(), b.endpoint()], meddle));
    let by_relay = |side: &Side| {
        let mut node = side.node();
        node["Endpoints"] = json!([between]);
        node
    };
    b.meet(&[by_relay(&a)]).await;
    a.meet(&[by_relay(&b)]).await;
    (a, b)
}

#[tokio::test]
async fn loss_reordering_and_duplicates_cost_time_but_no_bytes() {
    let mut tasks = JoinSet::new();
    let mut random = fastrand::Rng::with_seed(7);
    let mut held = None;
    let (a, b) = pair_through(
        move |datagram| match random.u8(..100) {
            0 => vec![],
            1 => {
                let before = held.replace(datagram);
                before.into_iter().collect()
            }
            2 => vec![datagram.clone(), datagram],
            _ => [datagram].into_iter().chain(held.take()).collect(),
        },
        &mut tasks,
    )
    .await;
    serve_echo(&b, &mut tasks);
    // A handshake may be lost as well, which costs 5 s.
    assert_echo(a.engine.dial(b.addr(PORT)).await.unwrap(), 1 << 20).await;
    assert!(a.dropped(DropReason::Replayed) + b.dropped(DropReason::Replayed) > 0);
}

#[tokio::test]
async fn garbage_and_replays_are_dropped() {
    let recorded = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let recorder = recorded.clone();
    let mut tasks = JoinSet::new();
    let (a, b) = pair_through(
        move |datagram| {
            recorder.lock().push(datagram.clone());
            vec![datagram]
        },
        &mut tasks,
    )
    .await;
    serve_echo(&b, &mut tasks);
    assert_echo(a.engine.dial(b.addr(PORT)).await.unwrap(), 50_000).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut sent = 0;
    let recorded = std::mem::take(&mut *recorded.lock());
    for datagram in recorded.iter().filter(|d| matches!(d[0], 1..=4)).take(100) {
        let mut torn = datagram.clone();
        let last = torn.len() - 1;
        torn[last] ^= 1;
        for datagram in [&datagram[..], &torn, &datagram[..last], &[datagram[0]; 48]] {
            socket.send_to(datagram, b.endpoint()).await.unwrap();
            sent += 1;
        }
    }
    for len in 0..200 {
        socket.send_to(&pattern(len), b.endpoint()).await.unwrap();
    }
    assert!(sent > 50);
    // Whether a torn packet counts as replayed or as not authentic depends on what is looked at first.
    let counts = [
        DropReason::Replayed,
        DropReason::NotAuthentic,
        DropReason::UnknownPeer,
    ];
    within(|| counts.iter().all(|reason| b.dropped(*reason) > 0)).await;
    assert_echo(a.engine.dial(b.addr(PORT)).await.unwrap(), 50_000).await;
}

#[tokio::test]
async fn a_successor_greets_the_peers_of_its_predecessor() {
    let (a, b) = pair().await;
    let (dialled, accepted) = connected(&a, &b).await;
    drop((dialled, accepted));
    let hand_over = b.engine.hand_over();
    assert_eq!(hand_over.udp_port, Some(b.endpoint().port()));
    assert_eq!(
        hand_over.disco_key.as_ref().unwrap().public(),
        b.local.borrow().disco.unwrap()
    );
    let [recent] = &hand_over.recent_peers[..] else {
        panic!("one peer was active: {:?}", hand_over.recent_peers)
    };
    assert_eq!((recent.key, recent.addr), (a.key.public(), Some(a.endpoint())));
    let stamp = a.engine.hand_over().newest_tai64n.unwrap();
    assert!(stamp.len() == 24 && stamp.starts_with("40000000"), "{stamp}");
    // Peers remember it also through a run whose clock is behind, and through one that says nothing.
    let late = "4000000100000000075bcd15";
    let behind = HandOver {
        newest_tai64n: Some(late.to_owned()),
        ..HandOver::default()
    };
    let behind = Side::restart(&a, behind).engine.hand_over();
    assert_eq!(behind.newest_tai64n.as_deref(), Some(late));
    b.stop().await;
    // The same identity on another port: `a` hears from it before it says anything.
    let start = Instant::now();
    let c = Side::restart(&b, hand_over.clone());
    c.meet(&[a.node()]).await;
    let mut listener = c.engine.listen(None, PORT).unwrap();
    within(|| {
        a.engine
            .hand_over()
            .recent_peers
            .iter()
            .any(|peer| peer.addr == Some(c.endpoint()))
    })
    .await;
    // The way back is path selection's, which trusts the old address for 6.5 s unless the disco key is another.
    a.hear(json!({"PeersChanged": [c.node()]})).await;
    a.engine.dial(c.addr(PORT)).await.unwrap();
    listener.accept().await.unwrap();
    let took = start.elapsed();
    println!("reached on another port after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_taken_port_is_replaced_and_one_that_was_named_is_missed_aloud() {
    let stats = Arc::default();
    let (first, _receiver) = bind(0, None, &stats).unwrap();
    let taken = first.port();
    let try_to = |named, remembered| {
        logged(|| {
            let (udp, _receiver) = bind(named, remembered, &stats).unwrap();
            assert_ne!(udp.port(), taken);
        })
    };
    assert_eq!(try_to(0, Some(taken)), "");
    let text = try_to(taken, None);
    assert!(
        text.contains("WARN") && text.contains(&format!("port={taken}")),
        "{text}"
    );
    assert!(text.contains("name another port"), "{text}");
    // A port that is free is taken as it is, the named one before the remembered.
    drop((first, _receiver));
    let (udp, _receiver) = bind(taken, Some(1), &stats).unwrap();
    assert_eq!(udp.port(), taken);
}

#[tokio::test]
async fn who_has_not_answered_the_greeting_is_handed_on() {
    let nobody = NodePrivate::generate().unwrap().public();
    let addr: SocketAddr = ([127, 0, 0, 1], 9).into();
    let b = Side::start(2, Vec::new());
    let stranger = RecentPeer {
        key: nobody,
        ..b.as_recent(addr)
    };
    let old = Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let silent = RecentPeer {
        seen: old,
        ..b.as_recent(addr)
    };
    let a = Side::start(1, vec![silent, stranger]);
    let handed_on = || {
        let peers = a.engine.hand_over().recent_peers.into_iter();
        peers
            .map(|peer| (peer.key, peer.addr, peer.seen))
            .collect::<Vec<_>>()
    };
    let silent = (b.key.public(), Some(addr), old);
    // Without a netmap nobody can be greeted.
    assert_eq!(handed_on()[0].0, nobody, "the newest first");
    assert_eq!(handed_on()[1..], [silent]);
    a.meet(&[b.node()]).await;
    within(|| a.engine.shared.ungreeted.lock().is_empty()).await;
    assert_eq!(
        handed_on(),
        [silent],
        "it doesn't know us yet; the other is not in the tailnet"
    );
    // What we hear ourselves is worth more.
    b.meet(&[a.node()]).await;
    within(|| matches!(handed_on()[..], [(_, at, seen)] if at == Some(b.endpoint()) && seen > old)).await;
    // Neither is who has left the tailnet.
    a.hear(json!({"PeersRemoved": [2]})).await;
    within(|| handed_on().is_empty()).await;
}

#[tokio::test]
async fn a_new_node_key_is_a_new_peer() {
    let (a, b) = pair().await;
    let (dialled, accepted) = connected(&a, &b).await;
    drop((dialled, accepted));
    let key = NodePrivate::generate().unwrap();
    b.engine.set_node_key(key.clone());
    let mut node = b.node();
    node["Key"] = serde_json::to_value(key.public()).unwrap();
    b.hear(json!({"Node": node})).await;
    a.hear(json!({"PeersChanged": [node]})).await;
    let _listener = b.engine.listen(None, PORT).unwrap();
    let peer = a
        .engine
        .shared
        .view
        .load_full()
        .unwrap()
        .peer(&key.public())
        .unwrap();
    let live = a.engine.shared.peers.peer(&peer);
    live.note_seen(Timestamp::now(), Some(b.endpoint()));
    let dialled = a.engine.dial(b.addr(PORT)).await.unwrap();
    assert_eq!(dialled.peer_key(), key.public());
}

/// How long WireGuard is given new keys all the time while streams go on.
const REKEYING: Duration = Duration::from_secs(120);

#[tokio::test]
async fn two_minutes_of_new_keys_loss_and_reordering_end_no_stream() {
    let mut tasks = JoinSet::new();
    let mut random = fastrand::Rng::with_seed(11);
    let mut held: Option<(u8, Vec<u8>)> = None;
    let initiations = Arc::new(AtomicU64::new(0));
    let count = initiations.clone();
    let (a, b) = pair_through(
        move |datagram| {
            count.fetch_add(u64::from(datagram[0] == 1), Relaxed);
            let late = held
                .take_if(|(left, _)| {
                    *left -= 1;
                    *left == 0
                })
                .map(|(_, datagram)| datagram);
            match random.u8(..100) {
                0 | 1 => late.into_iter().collect(),
                // Some others overtake it.
                2..5 if held.is_none() => {
                    held = Some((random.u8(1..6), datagram));
                    late.into_iter().collect()
                }
                _ => [datagram].into_iter().chain(late).collect(),
            }
        },
        &mut tasks,
    )
    .await;
    serve_echo(&b, &mut tasks);
    let start = tokio::time::Instant::now();
    let mut streams = JoinSet::new();
    for number in 0..4_u8 {
        let mut stream = a.engine.dial(b.addr(PORT)).await.unwrap();
        streams.spawn(async move {
            let (mut rounds, mut answer) = (0_u64, vec![0; 20_000]);
            while start.elapsed() < REKEYING {
                let size = 1 + (rounds as usize * 997) % answer.len();
                let question = vec![number ^ rounds as u8; size];
                stream.write_all(&question).await.unwrap();
                stream.flush().await.unwrap();
                stream.read_exact(&mut answer[..size]).await.unwrap();
                assert_eq!(answer[..size], question);
                rounds += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            rounds
        });
    }
    // Timers make new keys each second, where WireGuard does every two minutes. Every fifth second both begin at once.
    for (side, other) in [(&a, &b), (&b, &a)] {
        assert!(side.engine.age_quickly(&other.key.public()));
    }
    let (mut forced, mut every) = (0, tokio::time::interval(Duration::from_secs(5)));
    while start.elapsed() < REKEYING {
        every.tick().await;
        for (side, other) in [(&a, &b), (&b, &a)] {
            forced += u64::from(side.engine.rekey(&other.key.public()));
        }
    }
    let rounds = streams.join_all().await;
    let by_timers = initiations.load(Relaxed) - forced;
    println!(
        "{by_timers} handshakes began by timers and {forced} by force while the streams did {rounds:?} rounds"
    );
    assert!(by_timers > 60 && forced > 20 && rounds.iter().all(|rounds| *rounds > 100));
    assert_eq!(
        a.engine.stats().flows.load(Relaxed),
        4,
        "no stream was opened again"
    );
}
