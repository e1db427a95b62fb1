//! Two sides that talk without a network.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use super::{limiter::LOAD, *};
use crate::tailcfg;

type Datagram = Vec<u8>;

struct Side {
    key: NodePrivate,
    node: Arc<Node>,
    at: SocketAddr,
    now: Instant,
    peers: Peers,
}

impl Side {
    fn new(id: u8) -> Self {
        let key = NodePrivate::generate().unwrap();
        let node = json!({"ID": id, "Key": key.public(), "Addresses": [format!("100.64.0.{id}/32")]});
        let node: tailcfg::Node = serde_json::from_str(&node.to_string()).unwrap();
        Self {
            node: Arc::new(node.into()),
            at: ([127, 0, 0, id], 41_641).into(),
            now: Instant::now(),
            peers: Peers::new(&key),
            key,
        }
    }

    /// The same node in a new process.
    fn restart(&mut self) {
        self.peers = Peers::new(&self.key);
    }

    fn of(&self, other: &Self) -> Arc<Peer> {
        self.peers.peer(&other.node)
    }

    /// Takes a datagram from `other`; with what has to go back.
    fn take(&self, other: &Self, datagram: &[u8]) -> (Result<Incoming, Rejected>, Vec<Datagram>) {
        let mut replies = Vec::new();
        let admit = |key: &NodePublic| (*key == other.node.key).then(|| other.node.clone());
        let incoming = self
            .peers
            .receive(self.now, Source::Udp(other.at), datagram, admit, &mut replies);
        (incoming, replies.iter().map(bytes).collect())
    }

    /// The datagrams for packets to `other`.
    fn seal(&self, other: &Self, packets: &[&[u8]]) -> Vec<Datagram> {
        let mut sealed = Vec::new();
        let packets = packets.iter().map(|packet| BytesMut::from(*packet)).collect();
        self.peers.seal(&self.of(other), packets, &mut sealed);
        sealed.iter().map(bytes).collect()
    }

    fn initiate(&self, other: &Self) -> Option<Datagram> {
        self.peers.initiate(&self.of(other)).as_ref().map(bytes)
    }

    fn rejects(&self, other: &Self, datagram: &[u8], reason: Rejected) {
        let (taken, replies) = self.take(other, datagram);
        assert_eq!(taken.map(drop).unwrap_err(), reason);
        assert!(replies.is_empty());
    }
}

fn bytes(datagram: &Bytes) -> Datagram {
    datagram.to_vec()
}

/// Takes datagrams to and fro until none is left; gives what came out of the tunnel on either side.
fn settle(a: &Side, b: &Side, to_b: Vec<Datagram>) -> [Vec<Vec<u8>>; 2] {
    let mut came = [Vec::new(), Vec::new()];
    let mut under_way: Vec<(bool, Datagram)> = to_b.into_iter().map(|packet| (true, packet)).collect();
    while !under_way.is_empty() {
        for (to_b, datagram) in std::mem::take(&mut under_way) {
            let (from, to) = if to_b { (a, b) } else { (b, a) };
            let (taken, replies) = to.take(from, &datagram);
            if let Ok(Incoming::Data(_, packet)) = taken
                && !packet.is_empty()
            {
                came[usize::from(to_b)].push(packet.as_ref().to_vec());
            }
            under_way.extend(replies.into_iter().map(|reply| (!to_b, reply)));
        }
    }
    came
}

/// Padded as in a tunnel, so that it comes out as it went in.
fn text(text: &str) -> Vec<u8> {
    format!("{text:<32}").into_bytes()
}

fn assert_both_ways(a: &Side, b: &Side) {
    let [_, at_b] = settle(a, b, a.seal(b, &[&text("ping")]));
    assert_eq!(at_b, [text("ping")]);
    let [_, at_a] = settle(b, a, b.seal(a, &[&text("pong")]));
    assert_eq!(at_a, [text("pong")]);
}

#[test]
fn what_waited_for_a_session_comes_with_it() {
    let (a, b) = (Side::new(1), Side::new(2));
    let initiation = a.seal(&b, &[&text("1"), &text("2")]);
    assert_eq!(initiation.len(), 1, "one handshake for both");
    let [_, at_b] = settle(&a, &b, initiation);
    assert_eq!(at_b, [text("1"), text("2")]);
    assert_both_ways(&a, &b);
}

#[test]
fn both_sides_may_begin_at_once() {
    // Each order in which the four messages can come.
    for order in 0..4_u8 {
        let (a, b) = (Side::new(1), Side::new(2));
        let from_a = a.seal(&b, &[&text("of a")]).remove(0);
        let from_b = b.seal(&a, &[&text("of b")]).remove(0);
        let (_, answer_b) = b.take(&a, &from_a);
        let (_, answer_a) = a.take(&b, &from_b);
        let mut seen = BTreeSet::new();
        let mut note = |came: [Vec<Vec<u8>>; 2]| seen.extend(came.into_iter().flatten());
        if order & 1 == 0 {
            note(settle(&b, &a, answer_b));
            note(settle(&a, &b, answer_a));
        } else {
            note(settle(&a, &b, answer_a));
            note(settle(&b, &a, answer_b));
        }
        if order & 2 != 0 {
            // Repeated messages of a handshake that is over change nothing.
            b.rejects(&a, &from_a, Rejected::Replayed);
            a.rejects(&b, &from_b, Rejected::Replayed);
        }
        assert_eq!(
            seen,
            BTreeSet::from([text("of a"), text("of b")]),
            "order {order}"
        );
        assert_both_ways(&a, &b);
    }
}

#[test]
fn nothing_is_taken_twice() {
    let (a, b) = (Side::new(1), Side::new(2));
    let old = a.seal(&b, &[&text("1")]).remove(0);
    settle(&a, &b, vec![old.clone()]);
    let data = a.seal(&b, &[&text("2")]).remove(0);
    b.take(&a, &data).0.unwrap();
    b.rejects(&a, &data, Rejected::Replayed);
    // A newer handshake doesn't make the old one good, and a replay ends no session.
    settle(&a, &b, vec![a.initiate(&b).unwrap()]);
    for _ in 0..200 {
        b.rejects(&a, &old, Rejected::Replayed);
    }
    assert_both_ways(&a, &b);
    // Late packets of the session before are good, once.
    let late = a.seal(&b, &[&text("late")]).remove(0);
    settle(&a, &b, vec![a.initiate(&b).unwrap()]);
    assert!(matches!(b.take(&a, &late).0, Ok(Incoming::Data(..))));
    b.rejects(&a, &late, Rejected::Replayed);
}

#[tokio::test]
async fn under_load_a_cookie_opens_the_door() {
    let (a, mut b) = (Side::new(1), Side::new(2));
    overload(&b);
    let initiation = a.seal(&b, &[&text("at last")]).remove(0);
    let (taken, replies) = b.take(&a, &initiation);
    let Ok(Incoming::Cookie(_, cookie)) = taken else {
        panic!("no cookie was asked for")
    };
    assert!(replies.is_empty());
    assert!(cookie.as_ref().len() < initiation.len(), "it amplifies nothing");
    assert!(matches!(a.take(&b, cookie.as_ref()).0, Ok(Incoming::Done)));
    // The next attempt brings it, and finds as many others.
    let next = repeated(&a).await;
    b.now += Duration::from_secs(5);
    overload(&b);
    let [_, at_b] = settle(&a, &b, vec![next]);
    assert_eq!(at_b, [text("at last")]);
    assert_both_ways(&a, &b);
    // From elsewhere the cookie is worth nothing, and the session goes on meanwhile.
    let elsewhere = a.initiate(&b).unwrap();
    let mut replies = Vec::new();
    let moved = Source::Udp((a.at.ip(), 9).into());
    let taken = b
        .peers
        .receive(b.now, moved, &elsewhere, |_| Some(a.node.clone()), &mut replies);
    assert!(matches!(taken, Ok(Incoming::Cookie(..))));
    let data = a.seal(&b, &[&text("goes on")]);
    assert_eq!(settle(&a, &b, data)[1], [text("goes on")]);
}

/// A stranger's handshake comes from a new address each time, until cookies are asked for.
fn overload(side: &Side) {
    let flood = Side::new(9).initiate(side).unwrap();
    let mut computed = 0;
    for i in 0..=LOAD {
        let source = Source::Udp(((0x0a00_0000 + i).to_be_bytes(), 1).into());
        match side
            .peers
            .receive(side.now, source, &flood, |_| None, &mut Vec::new())
        {
            Ok(Incoming::Cookie(..)) => return,
            Err(rejected) => assert_eq!(rejected, Rejected::Unknown),
            Ok(_) => panic!("a stranger was let in"),
        }
        computed += 1;
    }
    panic!("{computed} handshakes were computed for addresses that may be made up");
}

/// The handshake that WireGuard repeats by itself, after 5 s.
async fn repeated(side: &Side) -> Datagram {
    let mut sent = None;
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let sending = async {
        while sent.is_none() {
            ticks.tick().await;
            side.peers.tick(|_, packet| sent = Some(bytes(&packet)));
        }
    };
    let sending = tokio::time::timeout(Duration::from_secs(60), sending).await;
    sending.expect("it is repeated");
    sent.unwrap()
}

#[test]
fn new_keys_under_load_lose_nothing() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (a, b) = (Side::new(1), Side::new(2));
        settle(&a, &b, a.seal(&b, &[&text("hello")]));
        let mut under_way: Vec<(bool, Datagram)> = Vec::new();
        let mut sent = [BTreeSet::new(), BTreeSet::new()];
        let mut came = [BTreeSet::new(), BTreeSet::new()];
        for step in 0..3000 {
            let to_b = random.bool();
            let (from, to) = if to_b { (&a, &b) } else { (&b, &a) };
            match random.u8(..20) {
                // One in twenty is a handshake, often both sides' at once. None is late by more than some packets, or
                // the three sessions that WireGuard remembers would not do.
                0 if under_way.len() < 8 => {
                    let initiation = from.initiate(to);
                    under_way.extend(initiation.map(|packet| (to_b, packet)));
                }
                0..10 => {
                    let packet = text(&format!("{step}"));
                    let sealed = from.seal(to, &[&packet]);
                    under_way.extend(sealed.into_iter().map(|packet| (to_b, packet)));
                    sent[usize::from(to_b)].insert(packet);
                }
                _ if !under_way.is_empty() => {
                    // Nothing is lost, but all is out of order.
                    let (to_b, datagram) = under_way.swap_remove(random.usize(..under_way.len().min(8)));
                    let (from, to) = if to_b { (&a, &b) } else { (&b, &a) };
                    let (taken, replies) = to.take(from, &datagram);
                    if let Ok(Incoming::Data(_, packet)) = taken
                        && !packet.is_empty()
                    {
                        let new = came[usize::from(to_b)].insert(packet.as_ref().to_vec());
                        assert!(new, "twice: {packet:?}");
                    }
                    under_way.extend(replies.into_iter().map(|reply| (!to_b, reply)));
                }
                _ => {}
            }
        }
        let (to_b, to_a): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|(to_b, _)| *to_b);
        let datagrams = |way: Vec<(bool, Datagram)>| way.into_iter().map(|(_, datagram)| datagram).collect();
        let [at_a, at_b] = settle(&a, &b, datagrams(to_b));
        came[0].extend(at_a);
        came[1].extend(at_b);
        let [at_b, at_a] = settle(&b, &a, datagrams(to_a));
        came[0].extend(at_a);
        came[1].extend(at_b);
        for (sent, came) in sent.iter().zip(&came) {
            let lost = sent.difference(came).count();
            // What was sealed by a session that both sides have replaced thrice is lost, which TCP sends again.
            assert!(lost * 50 <= sent.len(), "seed {seed}: {lost} of {}", sent.len());
            assert!(
                came.is_subset(sent),
                "seed {seed}: something came that wasn't sent"
            );
        }
        assert_both_ways(&a, &b);
    }
}

#[test]
fn an_initiation_stays_old_when_its_peer_is_forgotten() {
    let (a, b) = (Side::new(1), Side::new(2));
    let old = a.initiate(&b).unwrap();
    settle(&a, &b, vec![old.clone()]);
    // As if the session were long over.
    let forgotten = b.of(&a);
    b.peers
        .forget_indices(&forgotten, &mut forgotten.session.lock(), |_| false);
    forgotten.set_idle();
    drop(forgotten);
    b.peers.tick(|_, _| {});
    assert!(b.peers.is_idle());
    b.rejects(&a, &old, Rejected::Replayed);
    assert!(b.peers.is_idle(), "a copy brings nobody back");
    settle(
        &a,
        &b,
        vec![a.peers.initiate_again(&a.of(&b)).as_ref().map(bytes).unwrap()],
    );
    assert_both_ways(&a, &b);
    // It is remembered for nodes of the netmap only.
    b.peers.retain(|_| None);
    assert!(b.peers.initiations.lock().is_empty());
}

#[test]
fn a_peer_that_restarts_is_heard_at_once() {
    let (mut a, b) = (Side::new(1), Side::new(2));
    settle(&a, &b, a.seal(&b, &[&text("before")]));
    let for_the_dead = b.seal(&a, &[&text("lost")]);
    a.restart();
    a.rejects(&b, &for_the_dead[0], Rejected::Unknown);
    let [_, at_b] = settle(&a, &b, a.seal(&b, &[&text("after")]));
    assert_eq!(at_b, [text("after")]);
    assert_both_ways(&a, &b);
}

#[test]
fn a_key_that_is_replaced_opens_nothing() {
    let (a, mut b) = (Side::new(1), Side::new(2));
    settle(&a, &b, a.seal(&b, &[&text("before")]));
    let (of_old_key, old) = (a.seal(&b, &[&text("lost")]).remove(0), b.node.clone());
    let renewed = NodePrivate::generate().unwrap();
    b.peers.set_key(&renewed);
    b.rejects(&a, &of_old_key, Rejected::Unknown);
    let mut node = Node::clone(&b.node);
    node.key = renewed.public();
    b.node = Arc::new(node);
    let gone = a.peers.retain(|key| (*key == b.node.key).then(|| b.node.clone()));
    assert_eq!(gone.len(), 1);
    assert!(a.peers.live_peer(&old.key).is_none());
    assert_both_ways(&a, &b);
}
