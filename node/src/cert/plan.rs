//! When to ask the certificate authority. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Waits after the first, second, … failure in a row: three attempts in the first hour, where Let's Encrypt
/// allows five failed validations of a name (the same steps as in Go, `kube/certs/certs.go`).
const STEPS: [SignedDuration; 4] = [
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(10),
    SignedDuration::from_mins(100),
    SignedDuration::from_hours(24),
];

/// The validity of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its beginning.
    pub not_before: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
}

/// When to renew a certificate.
///
/// With the authority's renewal window (RFC 9773) that is a point in it, which has begun at once when the
/// window is over. Without one it is up to 1/20 of the lifetime before two thirds of it. `jitter` is from
/// 0 to 1 and is drawn once per certificate, so that names and replicas don't all come at the same time.
pub fn due(
    validity: Validity,
    window: Option<(Timestamp, Timestamp)>,
    now: Timestamp,
    jitter: f64,
) -> Timestamp {
    let Validity {
        not_before,
        not_after,
    } = validity;
    let within = |start: Timestamp, end: Timestamp, share: f64| {
        let length = end.duration_since(start).max(SignedDuration::ZERO);
        let offset = length.mul_f64(share.clamp(0.0, 1.0));
        start.saturating_add(offset).unwrap_or(end)
    };
    match window {
        Some((_, end)) if end <= now => now,
        // Whatever the window says, an ended certificate serves nobody.
        Some((start, end)) => within(start, end, jitter).min(not_after),
        None => within(not_before, not_after, 2.0 / 3.0 - jitter.clamp(0.0, 1.0) / 20.0),
    }
}

/// When to ask for the authority's window again, which wants a pause before that: a day at most (RFC 9773 §4.3.2).
pub fn ask_again(pause: Duration, now: Timestamp) -> Timestamp {
    let pause = pause.min(Duration::from_secs(86_400));
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

/// Failures in a row for one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures(usize);

impl Failures {
    /// One more; the time before which the authority must not be asked again about this name.
    ///
    /// What the authority said (`Retry-After`) wins. Failures that it can't have seen, such as a network that
    /// is down, don't count against its limits and keep the shortest wait.
    pub fn add(
        &mut self,
        seen_by_authority: bool,
        retry_after: Option<Timestamp>,
        now: Timestamp,
    ) -> Timestamp {
        let wait = STEPS[if seen_by_authority {
            self.0.min(STEPS.len() - 1)
        } else {
            0
        }];
        self.0 += usize::from(seen_by_authority);
        let retry_at = now.saturating_add(wait).unwrap_or(Timestamp::MAX);
        retry_after.filter(|at| *at > now).unwrap_or(retry_at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(days: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap()
    }

    const NINETY_DAYS: (i64, i64) = (0, 90);

    fn validity((from, to): (i64, i64)) -> Validity {
        Validity {
            not_before: day(from),
            not_after: day(to),
        }
    }

    #[test]
    fn two_thirds_of_the_life_or_somewhat_before() {
        let cert = validity(NINETY_DAYS);
        let due = |cert, window, now, jitter| {
            let at: Timestamp = due(cert, window, now, jitter);
            at.round(jiff::Unit::Second).unwrap()
        };
        assert_eq!(due(cert, None, day(1), 0.0), day(60));
        assert_eq!(
            due(cert, None, day(1), 1.0),
            day(55) + SignedDuration::from_hours(12)
        );
        // A certificate of six days, at the end of its life or not.
        assert_eq!(due(validity((0, 6)), None, day(99), 0.0), day(4));
    }

    #[test]
    fn the_authoritys_window_wins() {
        let cert = validity(NINETY_DAYS);
        assert_eq!(due(cert, Some((day(10), day(20))), day(1), 0.5), day(15));
        assert_eq!(
            due(cert, Some((day(10), day(20))), day(50), 0.5),
            day(50),
            "it is over: at once"
        );
        assert_eq!(
            due(cert, Some((day(80), day(200))), day(1), 1.0),
            day(90),
            "not after the end"
        );
        assert_eq!(
            due(cert, Some((day(20), day(10))), day(1), 0.5),
            day(20),
            "a window upside down"
        );
    }

    #[test]
    fn waits_grow_and_the_authority_may_ask_for_more() {
        let now = day(0);
        let mut failures = Failures::default();
        let mut wait = |seen, retry_after| failures.add(seen, retry_after, now).duration_since(now).as_secs();
        assert_eq!(wait(true, None), 60);
        assert_eq!(wait(false, None), 60, "not seen by the authority");
        assert_eq!(wait(true, None), 600);
        assert_eq!(wait(true, Some(day(3))), 3 * 86_400);
        assert_eq!(wait(true, Some(day(-1))), 86_400, "a time that is over is none");
        assert_eq!(wait(true, None), 86_400);
    }

    #[test]
    fn the_authority_is_not_asked_for_its_window_too_soon_nor_never_again() {
        let pause = |secs| {
            ask_again(Duration::from_secs(secs), day(0))
                .duration_since(day(0))
                .as_secs()
        };
        assert_eq!((pause(0), pause(21_600), pause(u64::MAX)), (0, 21_600, 86_400));
    }

    proptest! {
        #[test]
        fn a_certificate_is_never_renewed_after_its_end(
            life in 1_i64..400, window in proptest::option::of((-50_i64..500, -50_i64..500)), now in 0_i64..400, jitter in 0.0..1.0_f64
        ) {
            let cert = validity((0, life));
            let window = window.map(|(start, end)| (day(start), day(end)));
            let at = due(cert, window, day(now), jitter);
            prop_assert!(at <= cert.not_after.max(day(now)));
        }
    }
}
