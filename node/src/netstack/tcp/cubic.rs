//! The congestion window: CUBIC (RFC 9438), with slow start as in RFC 5681.

use smoltcp::time::{Duration, Instant};

/// What is left of the window after a loss (RFC 9438 §4.6).
const BETA: f64 = 0.7;
/// How steeply it grows, in segments per cubic second (§4.1).
const C: f64 = 0.4;
/// The growth of Reno's window with this BETA (§4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// RFC 6928.
const INITIAL_SEGMENTS: f64 = 10.0;
const MIN_SEGMENTS: f64 = 2.0;

/// All sizes are in segments.
#[derive(Debug, Clone)]
pub(super) struct Cubic {
    segment: f64,
    window: f64,
    threshold: f64,
    /// The window before the last loss, lower when it had not come up to the one before that.
    max: f64,
    /// The window as it was just before the last loss.
    prior: f64,
    epoch: Option<Epoch>,
}

/// Congestion avoidance since the last loss.
#[derive(Debug, Clone)]
struct Epoch {
    start: Instant,
    /// Seconds until the window is `max` again.
    k: f64,
    /// What Reno would have.
    estimate: f64,
}

impl Cubic {
    /// `segment` in bytes.
    pub(super) fn new(segment: u64) -> Self {
        Self {
            segment: segment as f64,
            window: INITIAL_SEGMENTS,
            threshold: f64::INFINITY,
            max: 0.0,
            prior: 0.0,
            epoch: None,
        }
    }

    /// In bytes.
    pub(super) fn window(&self) -> u64 {
        (self.window * self.segment) as u64
    }

    /// In bytes; no bound until the first loss.
    pub(super) fn threshold(&self) -> u64 {
        (self.threshold * self.segment) as u64
    }

    pub(super) fn is_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// `bytes` have arrived while the window was the limit.
    pub(super) fn acknowledged(&mut self, now: Instant, bytes: u64, rtt: Duration) {
        let mut acked = bytes as f64 / self.segment;
        if self.window < self.threshold {
            let grown = (self.window + acked).min(self.threshold);
            acked -= grown - self.window;
            self.window = grown;
            if acked <= 0.0 {
                return;
            }
        }
        let epoch = self.epoch.get_or_insert_with(|| {
            let gap = (self.max - self.window).max(0.0);
            self.max = self.max.max(self.window);
            Epoch {
                start: now,
                k: (gap / C).cbrt(),
                estimate: self.window,
            }
        });
        let seconds = |duration: Duration| duration.total_micros() as f64 / 1e6;
        let alpha = if epoch.estimate < self.prior { ALPHA } else { 1.0 };
        epoch.estimate += alpha * acked / self.window;
        let t = seconds(now - epoch.start);
        let cubic = |t: f64| C * (t - epoch.k).powi(3) + self.max;
        if cubic(t) < epoch.estimate {
            self.window = self.window.max(epoch.estimate);
        } else {
            let target = cubic(t + seconds(rtt)).clamp(self.window, self.window * 1.5);
            self.window += (target - self.window) / self.window * acked;
        }
    }

    /// Something is lost: a new recovery begins.
    pub(super) fn lost(&mut self, in_flight: u64) {
        self.prior = self.window;
        // Fast convergence (§4.7).
        self.max = if self.window < self.max {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        // What is under way counts, not a window that wasn't used (§4.6).
        let used = (in_flight as f64 / self.segment).min(self.window);
        self.threshold = (used * BETA).max(MIN_SEGMENTS);
        self.window = self.threshold;
        self.epoch = None;
    }

    /// Nothing came back in time: start again from one segment.
    pub(super) fn timed_out(&mut self, in_flight: u64) {
        self.lost(in_flight);
        self.window = 1.0;
    }

    /// Nothing was sent for longer than a timeout: what the window says about the path is old (RFC 5681 §4.1).
    pub(super) fn idle(&mut self) {
        self.threshold = self.threshold.max(self.window * 0.75);
        self.window = self.window.min(INITIAL_SEGMENTS);
        self.epoch = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(100);

    /// Runs for so many round trips, each of which acknowledges a whole window; returns windows in segments.
    fn windows(cubic: &mut Cubic, from: i64, rounds: i64) -> Vec<f64> {
        (0..rounds)
            .map(|i| {
                let now = Instant::from_millis(from + i * 100);
                for _ in 0..cubic.window as u64 {
                    cubic.acknowledged(now, 1000, RTT);
                }
                cubic.window
            })
            .collect()
    }

    #[test]
    fn slow_start_doubles() {
        let mut cubic = Cubic::new(1000);
        assert_eq!(windows(&mut cubic, 0, 3), [20.0, 40.0, 80.0]);
    }

    #[test]
    fn after_a_loss_it_comes_back_fast_stays_and_then_looks_for_more() {
        let mut cubic = Cubic::new(1000);
        windows(&mut cubic, 0, 5);
        let before = cubic.window;
        cubic.lost(cubic.window());
        assert_eq!(cubic.window, before * BETA);
        // K = cbrt(320 * 0.3 / 0.4) = 6.2 s.
        let windows = windows(&mut cubic, 1000, 100);
        assert!((windows[61] - before).abs() < before * 0.02, "{}", windows[61]);
        assert!(windows[30] > before * 0.9 && windows[99] > before * 1.05);
        assert!(windows.is_sorted());
    }

    #[test]
    fn a_small_window_grows_at_least_as_renos() {
        let mut cubic = Cubic::new(1000);
        cubic.lost(cubic.window());
        assert_eq!(cubic.window, 7.0);
        let windows = windows(&mut cubic, 0, 40);
        // 3 segments at ALPHA (half a segment a round), then one a round.
        assert!(windows[39] > 7.0 + 30.0, "{}", windows[39]);
    }

    #[test]
    fn a_timeout_starts_over_and_two_losses_in_a_row_leave_room_for_others() {
        let mut cubic = Cubic::new(1000);
        windows(&mut cubic, 0, 3);
        cubic.timed_out(80_000);
        assert_eq!((cubic.window(), cubic.threshold()), (1000, 56_000));
        cubic.lost(1000);
        assert_eq!((cubic.threshold(), cubic.max), (2000, 0.85));
    }
}
