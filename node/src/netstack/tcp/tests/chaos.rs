//! Every byte arrives, in order and once, or the connection ends with an error: whatever the network does.

use super::{
    sim::{Net, Path},
    *,
};

/// What one side does: sends so many bytes, reads at a pace of its own, closes its half at the end.
struct Side {
    data: Vec<u8>,
    written: usize,
    got: Vec<u8>,
    eof: bool,
    closed: bool,
    /// Reads at most this many bytes at once…
    sip: usize,
    /// …and not before this time; it makes so many pauses, long enough that the window closes.
    thirsty: Instant,
    pause: Duration,
    pauses: u32,
}

impl Side {
    fn new(random: &mut fastrand::Rng) -> Self {
        let len = match random.u32(..4) {
            0 => random.usize(..3),
            1 => random.usize(..5_000),
            2 => random.usize(..200_000),
            _ => random.usize(..1_500_000),
        };
        Self {
            data: pattern(len, random.u64(..)),
            written: 0,
            got: Vec::new(),
            eof: false,
            closed: false,
            sip: 1 << random.u32(6..20),
            thirsty: Instant::ZERO,
            pause: Duration::from_millis(random.u64(..4) * random.u64(..300)),
            pauses: 20,
        }
    }

    fn act(&mut self, tcp: &mut Tcp, now: Instant) {
        if tcp.may_send() && !self.closed {
            self.written += tcp.write(&self.data[self.written..]);
            if self.written == self.data.len() {
                tcp.close();
                self.closed = true;
            }
        }
        if now < self.thirsty {
            return;
        }
        let mut left = self.sip;
        let read = tcp.read(|bytes| {
            let n = bytes.len().min(left);
            left -= n;
            self.got.extend_from_slice(&bytes[..n]);
            n
        });
        self.eof = tcp.receiver.is_finished() && !tcp.has_unread();
        if matches!(read, Read::Data(_)) && self.pauses > 0 {
            self.pauses -= 1;
            self.thirsty = now + self.pause;
        }
    }
}

/// Whether everything arrived; panics if something wrong did.
fn exchange(path: Path, seed: u64) -> bool {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut net = Net::new(path, random.u64(..), [ample(), ample()]);
    let mut sides = [Side::new(&mut random), Side::new(&mut random)];
    let mut steps = 0;
    loop {
        for (side, tcp) in sides.iter_mut().zip(&mut net.ends) {
            side.act(tcp, net.now);
        }
        let [a, b] = &sides;
        for (sent, got) in [(a, b), (b, a)] {
            assert!(sent.data.starts_with(&got.got), "seed {seed}: bytes differ");
            assert!(
                !got.eof || sent.data.len() == got.got.len(),
                "seed {seed}: the end came too early"
            );
        }
        let done = sides.iter().all(|side| side.eof && side.closed);
        let over = |tcp: &Tcp| tcp.state == State::Closed;
        if done && net.ends.iter().all(over) {
            return true;
        }
        // What came before the end can still be read.
        let failed = |(tcp, side): (&Tcp, &Side)| {
            let reads = tcp.has_unread() || side.thirsty > net.now;
            over(tcp) && !reads && !(side.eof && side.closed)
        };
        if net.ends.iter().zip(&sides).any(failed) {
            return false;
        }
        steps += 1;
        let going_on = net.now < Instant::from_secs(50_000) && steps < 1_000_000;
        assert!(going_on, "seed {seed}: no end at {} after {steps} steps", net.now);
        net.flush();
        let read = |(tcp, side): (&Tcp, &Side)| {
            let waits = tcp.has_unread() || tcp.receiver.is_finished() && !side.eof;
            waits.then(|| side.thirsty.max(net.now + Duration::from_micros(100)))
        };
        let read = net.ends.iter().zip(&sides).filter_map(read).min();
        match (read, net.next_event()) {
            (Some(read), next) if next.is_none_or(|next| read < next) => net.now = read,
            (None, None) => assert!(net.ends.iter().all(over), "seed {seed}: nothing will ever happen"),
            _ => assert!(net.step()),
        }
    }
}

#[test]
fn every_byte_arrives_over_a_clean_path() {
    for seed in 0..40 {
        assert!(
            exchange(Path::clean(Duration::from_millis(seed % 7 * 5)), seed),
            "seed {seed}"
        );
    }
}

#[test]
fn every_byte_arrives_whatever_the_path_does() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let path = Path {
            delay: Duration::from_micros(random.u64(..80_000)),
            jitter: Duration::from_micros(random.u64(..60_000)),
            loss: random.u32(..500),
            duplication: random.u32(..300),
            reordering: random.u32(..3_000),
            early: random.u32(..300),
            rate: 1 << random.u32(18..27),
            queue: 1 << random.u32(14..21),
        };
        assert!(exchange(path, seed), "seed {seed}: {path:?}");
    }
}

#[test]
fn a_path_that_loses_a_third_ends_in_success_or_an_error() {
    let mut arrived = 0;
    for seed in 0..12 {
        let path = Path {
            loss: 3_300,
            ..Path::clean(Duration::from_millis(20))
        };
        arrived += u32::from(exchange(path, seed));
    }
    assert!(arrived >= 4, "{arrived} of 12");
}
