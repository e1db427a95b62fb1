//! The retransmission timeout (RFC 6298).

use smoltcp::time::{Duration, Instant};

/// Before the first measurement.
const INITIAL: Duration = Duration::from_secs(1);
/// The least by which a timeout is longer than a round trip: the other side may delay its ACK, or be busy. RFC 6298
/// says 1 s for all; this is what Linux does.
const MIN_SLACK: Duration = Duration::from_millis(200);
const MAX: Duration = Duration::from_secs(60);
/// A smallest round trip is believed this long (as in Linux).
const MIN_RTT_WINDOW: Duration = Duration::from_secs(300);

/// Round-trip times of a connection.
#[derive(Debug, Default)]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    min: Option<(Duration, Instant)>,
    backoff: u32,
}

impl Rtt {
    /// Takes a measurement of a segment that was sent once.
    pub(super) fn measured(&mut self, now: Instant, rtt: Duration) {
        let rtt = rtt.max(Duration::from_micros(1));
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variation = rtt / 2;
            }
            Some(smoothed) => {
                let off = if smoothed > rtt {
                    smoothed - rtt
                } else {
                    rtt - smoothed
                };
                self.variation = self.variation * 3 / 4 + off / 4;
                self.smoothed = Some(smoothed * 7 / 8 + rtt / 8);
            }
        }
        if self
            .min
            .is_none_or(|(min, at)| rtt <= min || now - at > MIN_RTT_WINDOW)
        {
            self.min = Some((rtt, now));
        }
    }

    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(super) fn min(&self) -> Option<Duration> {
        self.min.map(|(min, _)| min)
    }

    /// How long an acknowledgement may take.
    pub(super) fn timeout(&self) -> Duration {
        let timeout = match self.smoothed {
            None => INITIAL,
            Some(smoothed) => smoothed + (self.variation * 4).max(MIN_SLACK),
        };
        (timeout * (1 << self.backoff.min(8))).min(MAX)
    }

    /// It took longer.
    pub(super) fn back_off(&mut self) {
        self.backoff += 1;
    }

    /// The other side has acknowledged something new.
    pub(super) fn reset_backoff(&mut self) {
        self.backoff = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_path() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), INITIAL);
        rtt.measured(Instant::from_secs(1), ms(100));
        assert_eq!(rtt.timeout(), ms(300));
        for i in 0..200 {
            rtt.measured(Instant::from_secs(2 + i), ms(100));
        }
        assert_eq!((rtt.timeout(), rtt.min()), (ms(300), Some(ms(100))));
        rtt.measured(Instant::from_secs(250), ms(500));
        assert_eq!(rtt.timeout(), ms(150) + ms(400));
        for _ in 0..20 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), MAX);
        rtt.reset_backoff();
        assert_eq!(rtt.timeout(), ms(550));
        // A path that has become longer is believed in the end.
        rtt.measured(Instant::from_secs(700), ms(500));
        assert_eq!(rtt.min(), Some(ms(500)));
    }
}
