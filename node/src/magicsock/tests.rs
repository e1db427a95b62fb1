//! Nodes facing each other in virtual time.

use super::*;
use crate::disco::SharedKey;

mod hostile;
mod network;
mod sim;

use sim::{Relay, Sim, node};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Two hosts with public addresses that know each other.
fn two_public() -> Sim {
    let mut sim = Sim::new(vec![Relay::new(1, 10)]);
    sim.add([192, 0, 2, 1], None);
    sim.add([192, 0, 2, 2], None);
    sim.run(secs(1));
    sim.introduce();
    sim
}

/// The longest time without a packet within a span of the run.
fn longest_gap(received: &[(Duration, bool)], from: Duration, to: Duration) -> Duration {
    let inside = received
        .iter()
        .map(|(at, _)| *at)
        .filter(|at| (from..to).contains(at));
    let marks: Vec<_> = std::iter::once(from).chain(inside).chain([to]).collect();
    marks.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
}

#[test]
fn the_first_packet_goes_through_the_relay_and_the_path_comes_up() {
    let mut sim = two_public();
    let route = sim.send(0, 1);
    assert_eq!((route.udp, route.derp), (None, Some(1)));
    sim.run(millis(100));
    assert_eq!(sim.path(0, 1), Path::Direct(sim.hosts[1].addr));
    // The other side has not sent anything: our ping alone made it ping back.
    assert_eq!(sim.path(1, 0), Path::Direct(sim.hosts[0].addr));
    assert_eq!(
        sim.send(1, 0),
        Route {
            udp: Some(sim.hosts[0].addr),
            derp: None
        }
    );
    assert_eq!(
        sim.send(0, 1),
        Route {
            udp: Some(sim.hosts[1].addr),
            derp: None
        }
    );
}

#[test]
fn both_behind_nats_meet_by_call_me_maybe() {
    let mut sim = Sim::new(vec![Relay::new(1, 10), Relay::new(2, 20)]);
    sim.add([10, 0, 0, 1], Some([192, 0, 2, 1]));
    sim.add([10, 9, 0, 1], Some([192, 0, 2, 2]));
    sim.cut.insert(([10, 0, 0, 1].into(), [10, 9, 0, 1].into()));
    sim.cut.insert(([10, 9, 0, 1].into(), [10, 0, 0, 1].into()));
    sim.run(secs(1));
    sim.introduce();
    sim.talk(0, 1, secs(2));
    let public = |i: usize| sim.hosts[i].nat.as_ref().unwrap().public;
    assert_eq!(sim.path(0, 1), Path::Direct(public(1)));
    assert_eq!(sim.path(1, 0), Path::Direct(public(0)));
}

#[test]
fn a_network_of_ipv6_alone_is_as_good() {
    let mut sim = Sim::new(vec![Relay::v6(1, 10)]);
    sim.add([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], None);
    sim.add([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2], None);
    sim.run(secs(1));
    let info = &sim.hosts[0].net_info;
    assert_eq!((info.working_ipv6, info.preferred_derp), (Some(true), Some(1)));
    assert_eq!(
        sim.hosts[0].endpoints[0].addr, sim.hosts[0].addr,
        "as STUN sees it"
    );
    sim.introduce();
    sim.talk(0, 1, secs(1));
    assert_eq!(sim.path(0, 1), Path::Direct(sim.hosts[1].addr));
    assert_eq!(sim.path(1, 0), Path::Direct(sim.hosts[0].addr));
}

#[test]
fn a_peer_that_control_gives_no_address_for_is_found_by_call_me_maybe() {
    let mut sim = Sim::new(vec![Relay::new(1, 10)]);
    sim.add([192, 0, 2, 1], None);
    sim.add([10, 9, 0, 1], Some([192, 0, 2, 2]));
    sim.run(secs(1));
    let (mut server, mut client) = (node(&sim.hosts[0]), node(&sim.hosts[1]));
    server.endpoints.clear();
    client.endpoints.clear();
    let now = sim.now;
    sim.hosts[0]
        .sock
        .set_peers(now, &Netmap::with_peers([client.clone()]));
    sim.hosts[1]
        .sock
        .set_peers(now, &Netmap::with_peers([server.clone()]));
    sim.talk(0, 1, secs(1));
    assert!(sim.is_direct(1, 0) && sim.is_direct(0, 1));
}

#[test]
fn a_dead_path_is_left_within_its_trust_and_comes_back() {
    let mut sim = two_public();
    sim.talk(0, 1, secs(20));
    assert!(sim.is_direct(0, 1));
    let died = sim.elapsed();
    sim.udp_blocked = true;
    sim.talk(0, 1, secs(60));
    for host in &sim.hosts {
        let gap = longest_gap(&host.received, died, sim.elapsed());
        assert!(gap > secs(2) && gap < secs(6), "{gap:?}");
    }
    assert_eq!(sim.path(0, 1), Path::Derp(1));
    // Nothing is thrown after a path that has been dead for long.
    assert_eq!(
        sim.send(0, 1),
        Route {
            udp: None,
            derp: Some(1)
        }
    );

    sim.udp_blocked = false;
    sim.talk(0, 1, secs(8));
    assert!(sim.is_direct(0, 1) && sim.is_direct(1, 0));
    let told: Vec<_> = sim.hosts[0].paths.iter().map(|(_, path)| *path).collect();
    let direct = Path::Direct(sim.hosts[1].addr);
    assert_eq!(told, [direct, Path::Derp(1), direct]);
}

#[test]
fn a_lost_heartbeat_costs_no_trust() {
    let mut sim = two_public();
    sim.talk(0, 1, secs(10));
    let before = sim.hosts[0].paths.len();
    for _ in 0..20 {
        // Whatever is on its way at this moment is lost, which is often a heartbeat.
        sim.udp_blocked = true;
        sim.talk(0, 1, millis(700));
        sim.udp_blocked = false;
        sim.talk(0, 1, millis(2600));
    }
    assert_eq!(sim.hosts[0].paths.len(), before, "{:?}", sim.hosts[0].paths);
    assert!(sim.is_direct(0, 1) && sim.is_direct(1, 0));
}

#[test]
fn an_untrusted_path_is_used_beside_the_relay() {
    let mut sim = two_public();
    sim.talk(0, 1, secs(10));
    sim.udp_blocked = true;
    sim.talk(0, 1, secs(8));
    let udp = Some(sim.hosts[1].addr);
    assert_eq!(sim.send(0, 1), Route { udp, derp: Some(1) });
    // So that a path that is back is used with the first packet.
    sim.udp_blocked = false;
    let before = sim.hosts[1].received.len();
    sim.send(0, 1);
    sim.run(millis(20));
    assert!(sim.hosts[1].received[before..].iter().any(|(_, direct)| *direct));
}

#[test]
fn a_peer_that_moves_is_found_again() {
    let mut sim = two_public();
    sim.talk(0, 1, secs(10));
    let moved = sim.elapsed();
    sim.hosts[1].addr = "192.0.2.77:5555".parse().unwrap();
    sim.talk(0, 1, secs(12));
    assert_eq!(sim.path(0, 1), Path::Direct("192.0.2.77:5555".parse().unwrap()));
    assert!(longest_gap(&sim.hosts[1].received, moved, sim.elapsed()) < secs(6));
}

#[test]
fn heartbeats_last_as_long_as_the_traffic_and_a_little() {
    let mut sim = two_public();
    sim.talk(0, 1, secs(10));
    let last = sim.elapsed();
    let peer = sim.hosts[1].addr;
    sim.run(secs(200));
    let beats: Vec<_> = sim.hosts[0]
        .sent
        .iter()
        .filter(|(at, to)| *to == peer && *at > last)
        .map(|(at, _)| *at - last)
        .collect();
    assert!(beats.iter().all(|at| *at < secs(47)), "{beats:?}");
    // Both beat and each answers the other.
    assert!((28..=34).contains(&beats.len()), "{}", beats.len());
    assert_eq!(sim.path(0, 1), Path::Derp(1));
    // The old address is tried beside the relay when traffic is back.
    assert_eq!(
        sim.send(0, 1),
        Route {
            udp: Some(peer),
            derp: Some(1)
        }
    );
}

#[test]
fn a_better_path_is_taken_within_a_minute() {
    let mut sim = Sim::new(vec![Relay::new(1, 10)]);
    sim.add([192, 0, 2, 1], None);
    sim.add_with([10, 0, 0, 2], None, |config| {
        config.static_endpoints = vec!["10.0.0.2:41641".parse().unwrap()];
    });
    // Two addresses of one host, as a dual-homed one has.
    let slow: SocketAddr = "203.0.113.2:41641".parse().unwrap();
    sim.run(secs(1));
    sim.introduce();
    let mut peer = node(&sim.hosts[1]);
    peer.endpoints = vec![slow];
    let now = sim.now;
    sim.hosts[0]
        .sock
        .set_peers(now, &Netmap::with_peers([peer.clone()]));
    let fast = sim.hosts[1].addr;
    sim.hosts[1].addr = slow;
    sim.udp_latency.insert(slow.ip(), millis(40));
    sim.talk(0, 1, secs(5));
    assert_eq!(sim.path(0, 1), Path::Direct(slow));

    peer.endpoints = vec![slow, fast];
    let now = sim.now;
    sim.hosts[0].sock.set_peers(now, &Netmap::with_peers([peer]));
    sim.drain(0);
    // From now on it is at both.
    let key = sim.hosts[1].key;
    let mut left = 70;
    while sim.path(0, 1) != Path::Direct(fast) {
        left -= 1;
        assert!(left > 0, "still on the slow path");
        sim.hosts[1].addr = if left % 2 == 0 { fast } else { slow };
        sim.send(0, 1);
        sim.run(secs(1));
    }
    assert_eq!(sim.hosts[0].sock.path(sim.now, &key), Path::Direct(fast));
}

#[test]
fn a_new_disco_key_ends_what_was_known() {
    let mut sim = two_public();
    sim.talk(0, 1, secs(2));
    assert!(sim.is_direct(0, 1));
    let mut peer = node(&sim.hosts[1]);
    peer.disco = Some(DiscoPrivate::from_bytes([77; 32]).public());
    let now = sim.now;
    sim.hosts[0]
        .sock
        .set_peers(now, &Netmap::with_peers([peer.clone()]));
    assert_eq!(sim.path(0, 1), Path::Derp(1));
    sim.hosts[0].sock.set_peers(now, &Netmap::with_peers([]));
    assert_eq!(sim.path(0, 1), Path::None);
    assert_eq!(sim.hosts[0].sock.route(now, &peer.key), Route::default());
}

#[test]
fn pings_over_the_relay_are_answered_over_the_relay() {
    let mut sim = two_public();
    let (a, b) = (&sim.hosts[0], &sim.hosts[1]);
    let shared = SharedKey::new(&b.disco, &a.disco.public());
    let ping = Message::Ping {
        tx: [5; 12],
        node: Some(b.key),
        padding: 0,
    };
    let packet = shared.seal(&b.disco.public(), [1; 24], &ping);
    let (now, from) = (sim.now, b.key);
    assert!(sim.hosts[0].sock.on_derp(now, 1, from, &packet));
    let outputs: Vec<_> = std::iter::from_fn(|| sim.hosts[0].sock.poll_output()).collect();
    let [
        Output::Derp {
            region: 1,
            to,
            packet,
        },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert_eq!(*to, from);
    let src = "127.3.3.40:1".parse().unwrap();
    assert_eq!(shared.open(packet), Some(Message::Pong { tx: [5; 12], src }));
}

#[test]
fn a_wireguard_only_peer_is_where_its_packets_come_from() {
    let mut sim = two_public();
    let mut peer = node(&sim.hosts[1]);
    (peer.disco, peer.home_derp) = (None, None);
    let now = sim.now;
    let sock = &mut sim.hosts[0].sock;
    sock.set_peers(now, &Netmap::with_peers([peer.clone()]));
    let route = |addr| Route {
        udp: Some(addr),
        derp: None,
    };
    assert_eq!(sock.route(now, &peer.key), route(peer.endpoints[0]));
    let other = "203.0.113.9:1".parse().unwrap();
    sock.on_wireguard(now, peer.key, other);
    assert_eq!(sock.route(now, &peer.key), route(other));
    assert_eq!(sock.path(now, &peer.key), Path::Direct(other));
}

#[test]
fn two_nodes_of_one_machine_are_told_apart() {
    let mut sim = Sim::new(vec![Relay::new(1, 10)]);
    sim.add([192, 0, 2, 1], None);
    sim.add([192, 0, 2, 2], None);
    sim.run(secs(1));
    sim.introduce();
    // Another login of the second machine: same disco key, same socket.
    let first = node(&sim.hosts[1]);
    let mut second = first.clone();
    (second.id, second.key) = (250, NodePublic::from_bytes([250; 32]));
    let now = sim.now;
    sim.hosts[0]
        .sock
        .set_peers(now, &Netmap::with_peers([first.clone(), second.clone()]));
    sim.hosts[1].sock.set_node_key(second.key);
    sim.hosts[1].key = second.key;
    sim.send(1, 0);
    sim.run(millis(200));
    assert_eq!(sim.hosts[0].sock.path(sim.now, &first.key), Path::Derp(1));
    assert!(matches!(
        sim.hosts[0].sock.path(sim.now, &second.key),
        Path::Direct(_)
    ));
}
