//! Bounds a rate and lets bursts pass.

use std::time::Instant;

/// Fills with `rate` tokens a second up to `burst`.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full one.
    pub(crate) fn new(rate: f64, burst: f64, now: Instant) -> Self {
        Self {
            rate,
            burst,
            tokens: burst,
            filled: now,
        }
    }

    /// Takes `n` tokens if they are there.
    pub(crate) fn take(&mut self, now: Instant, n: f64) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.rate).min(self.burst);
        let there = self.tokens >= n;
        if there {
            self.tokens -= n;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(2.0, 3.0, start);
        assert!((0..3).all(|_| bucket.take(start, 1.0)));
        assert!(!bucket.take(start, 1.0));
        assert!(!bucket.take(start + Duration::from_millis(400), 1.0));
        assert!(bucket.take(start + Duration::from_millis(500), 1.0));
        let later = start + Duration::from_secs(100);
        assert_eq!((0..10).filter(|_| bucket.take(later, 1.0)).count(), 3);
    }
}
