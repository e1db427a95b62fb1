//! STUN, home, regions and announced addresses.

use super::*;
use crate::control::EndpointKind;

fn stun_times(sim: &Sim, host: usize) -> Vec<Duration> {
    let servers: Vec<_> = sim.relays.iter().map(Relay::stun).collect();
    let sent = sim.hosts[host].sent.iter();
    sent.filter(|(_, to)| servers.contains(to))
        .map(|(at, _)| *at)
        .collect()
}

#[test]
fn the_nearest_region_becomes_home_and_our_address_is_known() {
    let mut sim = Sim::new(vec![Relay::new(1, 40), Relay::new(2, 5), Relay::new(3, 60)]);
    sim.add([10, 0, 0, 1], Some([192, 0, 2, 1]));
    sim.run(millis(500));
    let host = &sim.hosts[0];
    assert_eq!(host.regions, [2]);
    assert_eq!(host.net_info.preferred_derp, Some(2));
    assert_eq!(host.net_info.working_udp, Some(true));
    assert_eq!(host.net_info.mapping_varies_by_dest_ip, Some(false));
    assert!((host.net_info.derp_latency["2-v4"] - 0.01).abs() < 0.001);
    let seen = Endpoint {
        addr: "192.0.2.1:7001".parse().unwrap(),
        kind: EndpointKind::Stun,
    };
    let local = Endpoint {
        addr: "10.0.0.1:41641".parse().unwrap(),
        kind: EndpointKind::Local,
    };
    assert_eq!(host.endpoints, [seen, local]);
}

#[test]
fn without_udp_there_is_a_home_within_a_second_and_traffic_flows() {
    let mut sim = Sim::new(vec![Relay::new(1, 40), Relay::new(2, 5)]);
    sim.udp_blocked = true;
    sim.add([10, 0, 0, 1], None);
    sim.add([10, 0, 0, 2], None);
    sim.run(secs(1));
    let homes: Vec<_> = sim.hosts.iter().map(|h| h.net_info.preferred_derp).collect();
    assert!(homes.iter().all(Option::is_some), "{homes:?}");
    sim.introduce();
    sim.talk(0, 1, secs(10));
    assert!(longest_gap(&sim.hosts[1].received, secs(1), sim.elapsed()) < millis(200));
    assert_eq!(sim.hosts[0].net_info.working_udp, Some(false));
    assert_eq!(sim.hosts[0].net_info.preferred_derp, homes[0]);

    // When UDP works again, the nearest region is taken.
    sim.udp_blocked = false;
    sim.talk(0, 1, secs(30));
    assert_eq!(sim.hosts[0].net_info.preferred_derp, Some(2));
    assert!(sim.is_direct(0, 1));
}

#[test]
fn a_single_region_is_home_at_once() {
    let mut sim = Sim::new(vec![Relay::new(9, 2000)]);
    sim.add([10, 0, 0, 1], None);
    assert_eq!(sim.hosts[0].regions, [9]);
}

#[test]
fn derp_only_never_uses_udp() {
    let mut sim = Sim::new(vec![Relay::new(1, 5), Relay::new(2, 5)]);
    sim.add_with([192, 0, 2, 1], None, |config| config.derp_only = true);
    sim.add([192, 0, 2, 2], None);
    sim.run(secs(1));
    sim.introduce();
    sim.talk(0, 1, secs(60));
    let host = &sim.hosts[0];
    assert_eq!((host.sent.len(), host.endpoints.len()), (0, 0));
    assert!(host.net_info.preferred_derp.is_some());
    assert!(!sim.is_direct(0, 1) && !sim.is_direct(1, 0));
    assert!(longest_gap(&sim.hosts[1].received, secs(2), sim.elapsed()) < millis(200));
    assert!(host.received.iter().all(|(_, direct)| !direct));
}

#[test]
fn stun_goes_on_while_there_is_traffic() {
    let mut sim = two_public();
    sim.talk(0, 1, secs(120));
    let times = stun_times(&sim, 0);
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).skip(1).collect();
    assert!(gaps.len() >= 4, "{times:?}");
    assert!(
        gaps.iter().all(|gap| (secs(20)..secs(27)).contains(gap)),
        "{gaps:?}"
    );
    let idle_from = sim.elapsed();
    sim.run(secs(600));
    let late = stun_times(&sim, 0)
        .into_iter()
        .filter(|at| *at > idle_from + secs(75));
    assert_eq!(late.count(), 0);
    // With new traffic it begins at once.
    let before = stun_times(&sim, 0).len();
    sim.send(0, 1);
    assert_eq!(stun_times(&sim, 0).len(), before + 1);
}

#[test]
fn a_lost_relay_connection_asks_for_a_measurement() {
    let mut sim = two_public();
    sim.run(secs(100));
    let before = stun_times(&sim, 0).len();
    let now = sim.now;
    for _ in 0..10 {
        sim.hosts[0].sock.on_derp_state(now, 1, false);
        sim.drain(0);
    }
    sim.run(secs(1));
    assert_eq!(stun_times(&sim, 0).len(), before + 1);
}

/// A relay is away: it answers nothing, and each attempt to connect to it fails.
fn away(sim: &mut Sim, host: usize, region: RegionId, time: Duration) {
    for relay in sim.relays.iter_mut().filter(|relay| relay.region == region) {
        relay.answers_stun = false;
    }
    let end = sim.now + time;
    while sim.now < end {
        let now = sim.now;
        sim.hosts[host].sock.on_derp_state(now, region, false);
        sim.drain(host);
        sim.run(secs(2));
    }
}

#[test]
fn a_home_that_stays_away_is_left_for_another_even_without_traffic() {
    let mut sim = two_homes();
    sim.udp_blocked = false;
    sim.cut = [
        ([192, 0, 2, 1].into(), [192, 0, 2, 2].into()),
        ([192, 0, 2, 2].into(), [192, 0, 2, 1].into()),
    ]
    .into();
    sim.talk(1, 0, secs(10));
    assert_eq!(sim.hosts[0].net_info.preferred_derp, Some(1));
    away(&mut sim, 0, 1, secs(4));
    assert_eq!(sim.hosts[0].net_info.preferred_derp, Some(1));
    away(&mut sim, 0, 1, secs(4));
    assert_eq!(sim.hosts[0].net_info.preferred_derp, Some(2));
}

#[test]
fn a_home_that_stays_away_is_left_where_nothing_can_be_measured() {
    for derp_only in [true, false] {
        let mut sim = Sim::new(vec![Relay::new(1, 5), Relay::new(2, 50), Relay::new(3, 90)]);
        sim.udp_blocked = !derp_only;
        sim.add_with([192, 0, 2, 1], None, |config| config.derp_only = derp_only);
        sim.run(secs(5));
        let mut homes = Vec::new();
        for _ in 0..3 {
            let home = sim.hosts[0].regions[0];
            assert_eq!(sim.hosts[0].net_info.preferred_derp, Some(home));
            away(&mut sim, 0, home, secs(4));
            assert_eq!(sim.hosts[0].regions[0], home);
            away(&mut sim, 0, home, secs(4));
            homes.push(home);
        }
        homes.sort_unstable();
        assert_eq!(homes, [1, 2, 3], "each had its turn");
    }
}

#[test]
fn while_no_relay_is_reached_each_is_home_for_its_time() {
    let mut sim = Sim::new(vec![Relay::new(1, 5), Relay::new(2, 50)]);
    sim.add_with([192, 0, 2, 1], None, |config| config.derp_only = true);
    let mut homes = Vec::new();
    for _ in 0..60 {
        homes.push(sim.hosts[0].regions[0]);
        for region in sim.hosts[0].regions.clone() {
            away(&mut sim, 0, region, millis(500));
        }
    }
    let changes = homes.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let most = sim.elapsed().as_secs() as usize / 5;
    assert!(
        (most / 4..=most).contains(&changes),
        "{changes} of at most {most}"
    );
}

#[test]
fn a_relay_that_is_back_in_time_stays_home() {
    let mut sim = Sim::new(vec![Relay::new(1, 5), Relay::new(2, 50)]);
    sim.add_with([192, 0, 2, 1], None, |config| config.derp_only = true);
    let home = sim.hosts[0].regions[0];
    for _ in 0..5 {
        away(&mut sim, 0, home, secs(4));
        let now = sim.now;
        sim.hosts[0].sock.on_derp_state(now, home, true);
        sim.run(secs(1));
    }
    assert_eq!(sim.hosts[0].regions, [home]);
}

#[test]
fn a_new_interface_is_announced_and_measured_from() {
    let mut sim = two_public();
    sim.talk(0, 1, secs(3));
    let before = stun_times(&sim, 0).len();
    let now = sim.now;
    let old: IpAddr = [192, 0, 2, 1].into();
    sim.hosts[0]
        .sock
        .set_interfaces(now, &[old, [10, 5, 5, 5].into()]);
    sim.drain(0);
    let addrs: Vec<_> = sim.hosts[0]
        .endpoints
        .iter()
        .map(|e| e.addr.to_string())
        .collect();
    assert!(addrs.contains(&"10.5.5.5:41641".to_owned()), "{addrs:?}");
    assert_eq!(stun_times(&sim, 0).len(), before + 1);
    assert_eq!(sim.send(0, 1).derp, Some(1));
    sim.run(millis(100));
    assert_eq!(sim.send(0, 1).derp, None);
}

/// Hosts with homes in two regions, and no UDP between them.
fn two_homes() -> Sim {
    let mut sim = Sim::new(vec![Relay::new(1, 5), Relay::new(2, 50)]);
    sim.add([192, 0, 2, 1], None);
    sim.run(secs(1));
    sim.relays[0].distance = millis(200);
    sim.add([192, 0, 2, 2], None);
    sim.run(secs(1));
    sim.introduce();
    sim.udp_blocked = true;
    assert_eq!(sim.hosts[0].regions, [1]);
    assert_eq!(sim.hosts[1].regions, [2]);
    sim
}

#[test]
fn a_peer_is_answered_through_the_region_it_came_from_until_that_is_over() {
    let mut sim = two_homes();
    assert_eq!(sim.send(1, 0).derp, Some(1));
    assert_eq!(sim.hosts[1].regions, [2, 1]);
    sim.run(millis(100));
    // Not to region 2, where the peer lives: no second connection is needed.
    assert_eq!(sim.send(0, 1).derp, Some(1));
    assert_eq!(sim.hosts[0].regions, [1]);
    let (now, peer) = (sim.now, sim.hosts[1].key);
    sim.hosts[0].sock.on_peer_gone(now, 2, peer);
    assert_eq!(sim.send(0, 1).derp, Some(1));
    sim.hosts[0].sock.on_peer_gone(now, 1, peer);
    assert_eq!(sim.send(0, 1).derp, Some(2));
    assert_eq!(sim.hosts[0].regions, [1, 2]);

    sim.send(1, 0);
    sim.run(millis(100));
    assert_eq!(sim.send(0, 1).derp, Some(1));
    sim.hosts[0].sock.on_derp_state(now, 1, false);
    assert_eq!(sim.send(0, 1).derp, Some(2));
}

#[test]
fn other_regions_are_left_after_a_minute_without_a_packet() {
    let mut sim = two_homes();
    sim.talk(1, 0, secs(100));
    assert_eq!(sim.hosts[1].regions, [2, 1]);
    // Heartbeats ask for a path for 45 s more. What they ask goes out when our own address is known, which is looked
    // up now and then: nobody answers, so the last packet may be any of theirs and some seconds late.
    sim.run(secs(55));
    assert_eq!(sim.hosts[1].regions, [2, 1]);
    sim.run(secs(65));
    assert_eq!(sim.hosts[1].regions, [2]);
}

#[test]
fn a_region_that_leaves_the_map_is_left() {
    let mut sim = two_homes();
    sim.send(1, 0);
    let now = sim.now;
    let map = sim::derp_map(&[Relay::new(1, 5), Relay::new(7, 5)]);
    sim.hosts[1].sock.set_map(now, &map);
    sim.run(secs(5));
    let regions = &sim.hosts[1].regions;
    assert!(regions[0] == 1 || regions[0] == 7, "{regions:?}");
    assert!(!regions.contains(&2));
    sim.hosts[1].sock.set_map(now, &Arc::default());
    assert_eq!(sim.send(1, 0), Route::default());
}

#[test]
fn names_of_stun_servers_are_left_to_the_engine() {
    let mut sim = Sim::new(vec![Relay::new(1, 5)]);
    sim.add([192, 0, 2, 1], None);
    let mut map = DerpMap::clone(&sim::derp_map(&sim.relays));
    let server = sim.relays[0].stun();
    let entry = &mut map.regions.get_mut(&1).unwrap().nodes[0];
    entry.ipv4 = crate::derp_map::DerpAddr::Dns;
    entry.host_name = "derp.example.com".to_owned();
    let now = sim.now;
    sim.run(secs(10));
    let before = stun_times(&sim, 0).len();
    let sock = &mut sim.hosts[0].sock;
    sock.set_map(now, &Arc::new(map));
    assert_eq!(sock.stun_hosts(), ["derp.example.com"]);
    sock.set_stun_addrs(now, "derp.example.com", &[server.ip()]);
    sim.drain(0);
    assert_eq!(stun_times(&sim, 0).len(), before + 1);
}
