//! How fast it is on paths that lose and reorder, in virtual time.

use super::{
    sim::{Net, Path},
    *,
};

const MIB: usize = 1 << 20;

/// Sends for `seconds` and returns MiB per second, and how many packets were sent for each that was needed.
fn throughput(path: Path, seconds: i64, seed: u64) -> (f64, f64) {
    let mut net = Net::connected(path, seed);
    let block = pattern(64 << 10, 1);
    let (start, mut got) = (net.now, 0);
    let end = start + Duration::from_secs(seconds as u64);
    while net.now < end && got < 8 * MIB {
        while net.ends[0].send_queue() < net.ends[0].send_capacity() {
            net.ends[0].write(&block);
        }
        net.step();
        net.ends[1].read(|bytes| {
            got += bytes.len();
            bytes.len()
        });
        assert!(net.ends.iter().all(Tcp::may_send), "{path:?}: it gave up");
    }
    let seconds = (net.now - start).total_micros() as f64 / 1e6;
    (
        got as f64 / MIB as f64 / seconds,
        net.sent[0] as f64 * 1240.0 / net.ends[0].sender.next() as f64,
    )
}

fn mean<const N: usize>(figures: [(f64, f64); N]) -> (f64, f64) {
    let sum = |of: fn(&(f64, f64)) -> f64| figures.iter().map(of).sum::<f64>() / N as f64;
    (sum(|figure| figure.0), sum(|figure| figure.1))
}

/// What CUBIC can reach at this rate of loss (RFC 9438 §5.1 and, in the region where Reno would be faster,
/// §4.3), with segments of 1240 bytes.
fn possible(loss: f64, rtt: f64) -> f64 {
    let reno = (1.5 / loss).sqrt();
    let cubic = 1.054 * (rtt / loss).powf(0.75);
    reno.max(cubic) * 1240.0 / rtt / MIB as f64
}

#[test]
fn lossy_paths_are_as_fast_as_cubic_can_be() {
    println!("MiB/s                 loss 0    0.1 %     1 %     2 %   reordering");
    for ms in [1, 10, 50, 150] {
        let rtt = ms as f64 / 1e3;
        let clean = Path::clean(Duration::from_micros(ms * 500));
        let lossy = |loss| Path { loss, ..clean };
        let reordering = Path {
            reordering: 500,
            jitter: Duration::from_micros(ms * 100),
            ..clean
        };
        let figures =
            [lossy(0), lossy(10), lossy(100), lossy(200), reordering].map(|path| throughput(path, 30, 1).0);
        print!("round trip {ms:>3} ms ");
        figures.iter().for_each(|figure| print!("{figure:>9.2}"));
        println!();
        let [none, _, one, two, reordered] = figures;
        assert!(none > if ms < 50 { 30.0 } else { 3.0 }, "{ms} ms: {none}");
        assert!(
            one > 0.7 * possible(0.01, rtt).min(100.0),
            "{ms} ms: {one} of {}",
            possible(0.01, rtt)
        );
        assert!(
            two > 0.7 * possible(0.02, rtt).min(100.0),
            "{ms} ms: {two} of {}",
            possible(0.02, rtt)
        );
        assert!(reordered > 0.5 * none, "{ms} ms: {reordered}");
    }
}

#[test]
fn packets_that_overtake_others_are_not_taken_for_losses() {
    println!("MiB/s, and packets for each needed     none       0.1 %           1 %           5 %");
    for ms in [1, 10, 50, 150] {
        let path = |early| Path {
            early,
            ..Path::clean(Duration::from_micros(ms * 500))
        };
        let figures = [0, 10, 100, 500].map(|early| {
            mean(std::array::from_fn::<_, 6, _>(|seed| {
                throughput(path(early), 30, seed as u64)
            }))
        });
        println!("round trip {ms:>3} ms {figures:.2?}");
        let [(none, _), others @ ..] = figures;
        for (figure, sent) in others {
            // The first on a path overtakes by more than RFC 8985 waits for.
            assert!(
                figure > 0.55 * none && sent < 1.3,
                "{ms} ms: {figure} with {sent} of {none}"
            );
        }
    }
}

#[test]
fn retransmissions_are_not_wasted() {
    for (loss, most) in [(0, 1.01), (100, 1.04), (200, 1.06)] {
        let path = Path {
            loss,
            ..Path::clean(Duration::from_millis(10))
        };
        let (_, sent) = throughput(path, 20, 7);
        assert!(sent < most, "{sent} times as much at {loss}");
    }
}

/// Lets time pass until `done` with both ends, for 10 s at most; says how long that took.
fn until(net: &mut Net, mut done: impl FnMut(&mut Net) -> bool) -> Duration {
    let start = net.now;
    while !done(net) {
        assert!(
            net.step() && net.now - start < Duration::from_secs(10),
            "it stalls"
        );
    }
    net.now - start
}

fn read_all(end: &mut Tcp) -> usize {
    let mut got = 0;
    end.read(|bytes| {
        got = bytes.len();
        got
    });
    got
}

#[test]
fn a_lost_end_of_an_answer_costs_milliseconds() {
    let path = Path {
        loss: 200,
        ..Path::clean(Duration::from_millis(2))
    };
    let mut net = Net::connected(path, 1);
    let (question, answer) = (pattern(100, 1), pattern(1400, 2));
    let mut took: Vec<_> = (0..1000)
        .map(|_| {
            let (mut asked, mut answered) = (0, 0);
            net.ends[0].write(&question);
            until(&mut net, |net| {
                asked += read_all(&mut net.ends[1]);
                if asked == question.len() {
                    asked = 0;
                    net.ends[1].write(&answer);
                }
                answered += read_all(&mut net.ends[0]);
                answered == answer.len()
            })
        })
        .collect();
    took.sort();
    println!("median {}, p99 {}, worst {}", took[500], took[990], took[999]);
    assert!(took[990] < Duration::from_millis(50), "p99 {}", took[990]);
}

#[test]
fn an_end_that_delays_its_acks_is_not_probed_for_ever() {
    let mut net = Net::connected(Path::clean(Duration::from_millis(2)), 1);
    let word = pattern(100, 1);
    let before = net.sent[0];
    for _ in 0..100 {
        let (pause, mut got) = (net.now + Duration::from_secs(1), 0);
        net.ends[0].write(&word);
        until(&mut net, |net| {
            got += read_all(&mut net.ends[1]);
            got == word.len() && (net.now >= pause || net.ends[0].send_queue() == 0)
        });
        net.now = net.now.max(pause);
    }
    let needless = net.sent[0] - before - 100;
    println!("{needless} of 100 segments were sent again");
    assert!(needless < 8, "{needless}");
}
