//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from half a second to a limit; half of each wait is random, so that the clients of a server
/// that comes back don't all come at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

/// Failures that may pass.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// Failures that only a change of configuration ends.
pub(super) const REFUSED_LIMIT: Duration = Duration::from_secs(300);
const FIRST: Duration = Duration::from_millis(500);

impl Backoff {
    /// The wait after another failure; `random` is in `0.0..1.0`.
    pub(super) fn next(&mut self, limit: Duration, random: f64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(limit);
        self.failures += 1;
        full.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }

    /// Something went well.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_begin_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.next(LIMIT, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        for _ in 0..100 {
            assert_eq!(backoff.next(LIMIT, 0.0), LIMIT / 2);
        }
        assert_eq!(backoff.next(REFUSED_LIMIT, 1.0), REFUSED_LIMIT);
        backoff.reset();
        assert_eq!(backoff.next(LIMIT, 0.0), FIRST / 2);
    }
}
