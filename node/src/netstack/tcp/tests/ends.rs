//! Two machines on a good path: what a connection costs, and how it ends.

use super::{
    sim::{Net, Path},
    *,
};

const CLEAN: Path = Path::clean(Duration::from_millis(10));

fn settle(net: &mut Net, seconds: u64) {
    let until = net.now + Duration::from_secs(seconds);
    net.flush();
    while net.next_event().is_some_and(|next| next <= until) {
        net.step();
    }
    net.now = until;
    net.flush();
}

fn drain(tcp: &mut Tcp) -> usize {
    match tcp.read(|bytes| bytes.len()) {
        Read::Data(n) => n,
        _ => 0,
    }
}

#[test]
fn an_idle_connection_costs_little() {
    let mut net = Net::connected(CLEAN, 1);
    net.ends[0].write(&pattern(300_000, 1));
    let mut got = 0;
    while got < 300_000 {
        net.step();
        got += drain(&mut net.ends[1]);
    }
    settle(&mut net, 1);
    net.ends.iter_mut().for_each(Tcp::release);
    assert!(net.ends.iter().all(|tcp| !tcp.holds_memory()));
    assert!(size_of::<Tcp>() <= 1200, "{} bytes", size_of::<Tcp>());
}

#[test]
fn a_vanished_peer_is_noticed() {
    for busy in [false, true] {
        let mut net = Net::connected(CLEAN, 2);
        settle(&mut net, 1);
        net.cut = true;
        if busy {
            net.ends[0].write(b"anybody?");
        }
        settle(&mut net, 250);
        assert!(net.ends.iter().all(Tcp::is_over));
        assert_eq!(net.ends[0].read(|_| 0), Read::Reset);
    }
}

#[test]
fn an_idle_connection_stays() {
    let mut net = Net::connected(CLEAN, 3);
    settle(&mut net, 100_000);
    assert!(net.ends.iter().all(Tcp::may_send));
    assert!(net.sent[0] + net.sent[1] < 6_000);
}

#[test]
fn memory_that_is_short_slows_down_and_stops_nothing() {
    let node = Pool::new(256 << 10);
    let share = || Share::new(Pool::new(1 << 30), node.clone());
    let mut nets: Vec<_> = (0..8)
        .map(|seed| Net::new(CLEAN, seed, [ample(), share()]))
        .collect();
    let data = pattern(500_000, 9);
    let mut progress = vec![(0, Vec::new()); nets.len()];
    let mut most = 0;
    for round in 0.. {
        for (net, (written, got)) in nets.iter_mut().zip(&mut progress) {
            net.step();
            *written += net.ends[0].write(&data[*written..]);
            // Nobody reads for a while, so that everything fills up.
            if net.now > Instant::from_secs(60) {
                net.ends[1].read(|bytes| {
                    let n = bytes.len().min(5_000);
                    got.extend_from_slice(&bytes[..n]);
                    n
                });
            }
            most = most.max(net.ends[1].share.held());
        }
        if progress.iter().all(|(_, got)| got.len() == data.len()) {
            break;
        }
        assert!(
            round < 200_000,
            "{:?}",
            progress.iter().map(|(_, got)| got.len()).collect::<Vec<_>>()
        );
    }
    assert!(progress.iter().all(|(_, got)| *got == data));
    assert!(most < 512 << 10, "{most}");
    // What was promised is kept: hardly more packets than there is data, so nothing is sent again.
    let sent = nets.iter().map(|net| net.sent[0]).max();
    assert!(sent < Some(500_000 / 1240 + 20), "{sent:?}");
}

#[test]
fn a_long_path_gets_a_larger_window() {
    let mut net = Net::connected(Path::clean(Duration::from_millis(50)), 5);
    let block = pattern(1 << 20, 1);
    let (start, mut got) = (net.now, 0);
    while got < 40 << 20 {
        net.ends[0].write(&block);
        net.step();
        got += drain(&mut net.ends[1]);
    }
    let seconds = (net.now - start).total_micros() as f64 / 1e6;
    assert!(seconds < 3.0, "{seconds} s for 40 MiB");
}

#[test]
fn a_window_is_open_before_the_sender_doubles() {
    let round_trip = Duration::from_millis(150);
    let mut net = Net::connected(Path::clean(round_trip / 2), 5);
    let block = pattern(1 << 20, 1);
    let (start, mut got) = (net.now, 0);
    for flights in 1..=8 {
        while net.now < start + round_trip * flights {
            net.ends[0].write(&block);
            net.step();
            got += drain(&mut net.ends[1]);
        }
        // Slow start from ten segments on (RFC 6928): each flight is twice the one before.
        let flown = 12_400 * ((1 << flights) - 1);
        assert!(
            5 * got >= 3 * flown,
            "{got} of {flown} after {flights} round trips"
        );
    }
}

#[test]
fn somebody_who_reads_later_may_be_sent_a_good_deal_before() {
    let mut net = Net::connected(CLEAN, 8);
    let data = pattern(200_000, 1);
    assert_eq!(net.ends[0].write(&data), data.len());
    settle(&mut net, 2);
    assert_eq!(
        (net.ends[0].send_queue(), drain(&mut net.ends[1])),
        (0, data.len())
    );
}

#[test]
fn a_burst_leaves_in_full_segments_under_one_call() {
    let mut net = Net::connected(CLEAN, 6);
    settle(&mut net, 1);
    net.ends[0].write(&pattern(12_400, 1));
    let mut out = Vec::new();
    net.ends[0].egress(net.now, &mut out);
    assert_eq!(
        out.iter().map(|packet| packet.len()).collect::<Vec<_>>(),
        [1280; 10]
    );
}

#[test]
fn a_tail_that_is_lost_comes_again_in_two_round_trips() {
    let mut net = Net::connected(CLEAN, 7);
    net.ends[0].write(&pattern(10_000, 1));
    settle(&mut net, 1);
    assert_eq!(drain(&mut net.ends[1]), 10_000);
    net.ends[0].write(&pattern(5_000, 1));
    net.cut = true;
    net.flush();
    net.cut = false;
    let start = net.now;
    let mut got = 0;
    while got < 5_000 {
        net.step();
        got += drain(&mut net.ends[1]);
    }
    let took = (net.now - start).total_millis();
    assert!(took < 120, "{took} ms at a round trip of 20");
}
