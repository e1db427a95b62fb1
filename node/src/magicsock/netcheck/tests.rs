use super::*;
use crate::derp_map::DerpRegion;

fn map(regions: u16, nodes: u8) -> DerpMap {
    let node = |region: u16, n: u8| DerpNode {
        ipv4: DerpAddr::Literal(IpAddr::from([192, 0, region as u8, n])),
        ipv6: DerpAddr::Literal(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, region, n.into()])),
        stun_port: Some(3478),
        ..DerpNode::default()
    };
    let region = |id| DerpRegion {
        id,
        nodes: (1..=nodes).map(|n| node(id, n)).collect(),
        ..DerpRegion::default()
    };
    DerpMap {
        regions: (1..=regions).map(|id| (id, region(id))).collect(),
        ..DerpMap::default()
    }
}

fn check(regions: u16, nodes: u8) -> Netcheck {
    let mut check = Netcheck::default();
    assert!(check.set_map(&map(regions, nodes)));
    assert!(!check.set_map(&map(regions, nodes)));
    check
}

fn tx(request: &[u8]) -> stun::TxId {
    request[8..20].try_into().unwrap()
}

fn seen(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], port))
}

#[test]
fn unanswered_probes_are_repeated_at_the_next_node_and_the_round_ends() {
    let (mut check, start, mut sent) = (check(1, 2), Instant::now(), Vec::new());
    check.start(start, false, &[]);
    for after in [0, 300, 900] {
        assert_eq!(check.deadline(), Some(start + Duration::from_millis(after)));
        assert_eq!(check.poll(start + Duration::from_millis(after), &mut sent), None);
    }
    let to: Vec<_> = sent.iter().map(|(to, _)| to.ip().to_string()).collect();
    assert_eq!(to, ["192.0.1.1", "192.0.1.2", "192.0.1.1"]);
    assert_eq!(check.deadline(), Some(start + ROUND));
    let report = check.poll(start + ROUND, &mut sent).unwrap();
    assert!(report.asked && !report.answered());
    assert_eq!(check.deadline(), None);
}

#[test]
fn the_mapping_varies_when_two_servers_see_different_ports() {
    for (ports, varies) in [([7, 7], Some(false)), ([7, 8], Some(true))] {
        let (mut check, now, mut sent) = (check(2, 1), Instant::now(), Vec::new());
        check.start(now, false, &[]);
        check.poll(now, &mut sent);
        for ((_, request), port) in sent.iter().zip(ports) {
            check.on_answer(now, &tx(request), seen(port));
        }
        let report = check.poll(now, &mut sent).unwrap();
        assert_eq!(report.mapping_varies, varies);
        assert_eq!(report.global_v4.map(|a| a.ip()), Some(seen(1).ip()));
    }
}

#[test]
fn one_answer_says_nothing_about_the_mapping_and_strangers_nothing_at_all() {
    let (mut check, now, mut sent) = (check(2, 1), Instant::now(), Vec::new());
    check.start(now, false, &[]);
    check.poll(now, &mut sent);
    check.on_answer(now, &[0; 12], seen(1));
    let later = now + Duration::from_millis(20);
    check.on_answer(later, &tx(&sent[1].1), seen(2));
    // The same again counts nothing.
    check.on_answer(later, &tx(&sent[1].1), seen(3));
    let report = check.poll(now + ROUND, &mut sent).unwrap();
    assert_eq!(report.mapping_varies, None);
    assert_eq!(report.global_v4, Some(seen(2)));
    assert_eq!(
        report.latencies(),
        Latencies::from([(2, Duration::from_millis(20))])
    );
}

#[test]
fn a_few_fast_answers_end_the_round_early() {
    let (mut check, now, mut sent) = (check(10, 1), Instant::now(), Vec::new());
    check.start(now, false, &[]);
    check.poll(now, &mut sent);
    let later = now + Duration::from_millis(80);
    for (_, request) in &sent[..3] {
        check.on_answer(later, &tx(request), seen(1));
    }
    assert_eq!(check.poll(later, &mut sent), None);
    assert_eq!(check.deadline(), Some(now + Duration::from_millis(160)));
    assert!(check.poll(now + Duration::from_millis(160), &mut sent).is_some());
}

#[test]
fn between_full_rounds_only_the_nearest_are_asked() {
    let (mut check, now) = (check(10, 1), Instant::now());
    let mut asked = |after, nearest: &[RegionId]| {
        let (mut sent, now) = (Vec::new(), now + Duration::from_secs(after));
        check.start(now, true, nearest);
        check.poll(now, &mut sent);
        check.poll(now + ROUND, &mut Vec::new());
        sent.len()
    };
    let nearest = [4, 2, 7, 1, 3];
    assert_eq!(asked(0, &nearest), 20);
    assert_eq!(asked(20, &nearest), 6);
    assert_eq!(asked(40, &[]), 20);
    assert_eq!(asked(400, &nearest), 20);
}
