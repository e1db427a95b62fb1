//! What a hostile sender can and can't bring about.

use super::*;

fn outputs(sock: &mut Magicsock) -> Vec<Output> {
    std::iter::from_fn(|| sock.poll_output()).collect()
}

/// A packet from host 1 to host 0.
fn from_peer(sim: &Sim, nonce: u32, message: &Message) -> Bytes {
    seal(sim, &shared(sim), nonce, message)
}

fn shared(sim: &Sim) -> SharedKey {
    SharedKey::new(&sim.hosts[1].disco, &sim.hosts[0].disco.public())
}

fn seal(sim: &Sim, shared: &SharedKey, nonce: u32, message: &Message) -> Bytes {
    let mut bytes = [0; 24];
    bytes[..4].copy_from_slice(&nonce.to_be_bytes());
    shared.seal(&sim.hosts[1].disco.public(), bytes, message)
}

fn ping(number: u32) -> Message {
    let mut tx = [0; 12];
    tx[..4].copy_from_slice(&number.to_be_bytes());
    Message::Ping {
        tx,
        node: None,
        padding: 0,
    }
}

fn source(n: u32) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, (n % 250) as u8], 1024 + (n % 50_000) as u16))
}

#[test]
fn an_unknown_sender_gets_no_answer() {
    let mut sim = two_public();
    let stranger = DiscoPrivate::from_bytes([99; 32]);
    let shared = SharedKey::new(&stranger, &sim.hosts[0].disco.public());
    let packet = shared.seal(&stranger.public(), [1; 24], &ping(1));
    let now = sim.now;
    let key = NodePublic::from_bytes([98; 32]);
    assert!(sim.hosts[0].sock.on_udp(now, source(1), &packet));
    assert!(sim.hosts[0].sock.on_derp(now, 1, key, &packet));
    assert_eq!(outputs(&mut sim.hosts[0].sock), []);
}

#[test]
fn a_forgery_in_the_name_of_a_peer_gets_no_answer() {
    let mut sim = two_public();
    let mut packet = from_peer(&sim, 1, &ping(1)).to_vec();
    *packet.last_mut().unwrap() ^= 1;
    let now = sim.now;
    assert!(sim.hosts[0].sock.on_udp(now, source(1), &packet));
    assert_eq!(outputs(&mut sim.hosts[0].sock), []);
}

#[test]
fn a_flood_of_pings_is_answered_at_a_bounded_rate_with_bounded_state() {
    let mut sim = two_public();
    let (mut answers, shared) = (0, shared(&sim));
    for n in 0..5000 {
        let packet = seal(&sim, &shared, n, &ping(n));
        let now = sim.now + millis(u64::from(n));
        sim.hosts[0].sock.on_udp(now, source(n), &packet);
        answers += outputs(&mut sim.hosts[0].sock).len();
    }
    // 20 pongs and 5 pings a second after a burst of 64 and 32.
    assert!((100..=230).contains(&answers), "{answers}");
    let size = sim.hosts[0].sock.peers.used(&sim.hosts[1].key).unwrap().size();
    assert!(size <= 250, "{size}");
    assert!(sim.hosts[0].sock.timers.len() <= 1);
}

#[test]
fn a_replayed_ping_is_answered_once() {
    let mut sim = two_public();
    let packet = from_peer(&sim, 1, &ping(1));
    let (now, addr) = (sim.now, sim.hosts[1].addr);
    sim.hosts[0].sock.on_udp(now, addr, &packet);
    // Pong and ping back.
    assert_eq!(outputs(&mut sim.hosts[0].sock).len(), 2);
    for n in 0..50 {
        sim.hosts[0].sock.on_udp(now, source(n), &packet);
    }
    assert_eq!(outputs(&mut sim.hosts[0].sock), []);
}

#[test]
fn call_me_maybe_does_not_make_us_a_weapon() {
    let mut sim = two_public();
    let (now, key) = (sim.now, sim.hosts[1].key);
    let victims: Vec<_> = (0..1000).map(source).collect();
    let mut pings = 0;
    for n in 0..100 {
        let packet = from_peer(&sim, n, &Message::CallMeMaybe(victims.clone()));
        sim.hosts[0].sock.on_derp(now, 1, key, &packet);
        pings += outputs(&mut sim.hosts[0].sock).len();
    }
    assert!(pings <= 32, "{pings}");
    assert!(sim.hosts[0].sock.peers.used(&key).unwrap().size() <= 150);
}

#[test]
fn call_me_maybe_counts_only_over_a_relay_that_names_its_sender() {
    let mut sim = two_public();
    let packet = from_peer(&sim, 1, &Message::CallMeMaybe(vec![source(1)]));
    let (now, addr) = (sim.now, sim.hosts[1].addr);
    sim.hosts[0].sock.on_udp(now, addr, &packet);
    let other = NodePublic::from_bytes([98; 32]);
    sim.hosts[0].sock.on_derp(now, 1, other, &packet);
    assert_eq!(outputs(&mut sim.hosts[0].sock), []);
}

#[test]
fn a_pong_to_no_ping_of_ours_proves_nothing() {
    let mut sim = two_public();
    let (now, peer, addr) = (sim.now, sim.hosts[1].key, source(7));
    sim.send(0, 1);
    let pong = Message::Pong {
        tx: [0; 12],
        src: addr,
    };
    let packet = from_peer(&sim, 1, &pong);
    assert!(sim.hosts[0].sock.on_udp(now, addr, &packet));
    assert_eq!(sim.hosts[0].sock.path(now, &peer), Path::Derp(1));
}

#[test]
fn junk_is_done_with_and_wireguard_is_not() {
    let mut sim = two_public();
    let now = sim.now;
    let sock = &mut sim.hosts[0].sock;
    for junk in [
        &[][..],
        &[7],
        &[0; 100],
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    ] {
        assert!(sock.on_udp(now, source(1), junk), "{junk:?}");
    }
    for kind in 1..=4 {
        let mut message = [0; 64];
        message[0] = kind;
        assert!(!sock.on_udp(now, source(1), &message));
    }
}
