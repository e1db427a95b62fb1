//! How much one caller may ask for: requests a minute, and requests at once.
//!
//! Memory is bounded whoever calls. What is under way is counted while it is; buckets are kept in two
//! generations, and those that were not asked for while a whole generation of others was are forgotten, which
//! makes them full again. Strangers' addresses have generations of their own, so that no flood of them takes a
//! user's or a key's bucket away.

use std::{
    mem,
    net::IpAddr,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use postern_proxy_config::funnel::Quota;

/// The limits of one name.
#[derive(Debug, Default)]
pub struct Limiter(Mutex<State>);

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A user of the tailnet, on a route.
    User {
        /// The route's label.
        route: Arc<str>,
        /// Who.
        user: Arc<str>,
    },
    /// Whoever holds a key.
    Key(Arc<str>),
    /// An address of the internet, or a network that is as good as one.
    Address(IpAddr),
    /// Its connections.
    Connections(IpAddr),
    /// Its keys that were none.
    Failures(IpAddr),
}

/// Something that is under way; dropped, it has ended.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    subject: Option<Subject>,
}

/// Not now; again after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub Duration);

/// When something that is under way will end is unknown.
const SOON: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Subjects of a generation.
const GENERATION: usize = 8192;

impl Limiter {
    /// Lets one more request in, or says when to come again.
    ///
    /// # Errors
    /// When the quota is used up.
    pub fn admit(self: &Arc<Self>, subject: Subject, quota: Quota, now: Instant) -> Result<Permit, Refused> {
        let Quota {
            requests_per_minute,
            concurrent,
        } = quota;
        let mut state = self.0.lock();
        let under_way = state.under_way.get(&subject).copied().unwrap_or_default();
        if concurrent.is_some_and(|most| under_way >= most.get()) {
            return Err(Refused(SOON));
        }
        if let Some(rate) = requests_per_minute {
            state.buckets(&subject).take(&subject, rate, now)?;
        }
        let counted = concurrent.map(|_| {
            state.under_way.insert(subject.clone(), under_way + 1);
            subject
        });
        Ok(Permit {
            limiter: self.clone(),
            subject: counted,
        })
    }

    /// Takes one of a minute's `rate` away.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, subject: &Subject, rate: NonZeroU32, now: Instant) -> Result<(), Refused> {
        self.0.lock().buckets(subject).take(subject, rate, now)
    }

    /// Undoes a [`Limiter::take`].
    pub fn give_back(&self, subject: &Subject, rate: NonZeroU32, now: Instant) {
        self.0.lock().buckets(subject).give_back(subject, rate, now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(subject) = self.subject.take() else {
            return;
        };
        let mut state = self.limiter.0.lock();
        if let Some(count) = state.under_way.get_mut(&subject) {
            *count -= 1;
            if *count == 0 {
                state.under_way.remove(&subject);
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    under_way: AHashMap<Subject, u32>,
    known: Buckets,
    strangers: Buckets,
}

impl State {
    fn buckets(&mut self, subject: &Subject) -> &mut Buckets {
        match subject {
            Subject::User { .. } | Subject::Key(_) => &mut self.known,
            Subject::Address(_) | Subject::Connections(_) | Subject::Failures(_) => &mut self.strangers,
        }
    }
}

/// Token buckets, each as the time from which on it is full: GCRA (ITU-T I.371) with a minute's burst.
#[derive(Debug, Default)]
struct Buckets {
    young: AHashMap<Subject, Instant>,
    old: AHashMap<Subject, Instant>,
}

impl Buckets {
    fn take(&mut self, subject: &Subject, rate: NonZeroU32, now: Instant) -> Result<(), Refused> {
        let full_at = self.full_at(subject, now);
        let after = (*full_at).max(now) + MINUTE / rate.get();
        match after.saturating_duration_since(now).checked_sub(MINUTE) {
            Some(wait) if !wait.is_zero() => Err(Refused(wait)),
            _ => {
                *full_at = after;
                Ok(())
            }
        }
    }

    fn give_back(&mut self, subject: &Subject, rate: NonZeroU32, now: Instant) {
        let full_at = self.full_at(subject, now);
        *full_at = full_at.checked_sub(MINUTE / rate.get()).unwrap_or(now);
    }

    fn full_at(&mut self, subject: &Subject, now: Instant) -> &mut Instant {
        if !self.young.contains_key(subject) {
            let known = self.old.remove(subject).unwrap_or(now);
            if self.young.len() >= GENERATION {
                self.old = mem::take(&mut self.young);
            }
            self.young.insert(subject.clone(), known);
        }
        self.young.entry(subject.clone()).or_insert(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quota(rate: u32, concurrent: u32) -> Quota {
        Quota {
            requests_per_minute: NonZeroU32::new(rate),
            concurrent: NonZeroU32::new(concurrent),
        }
    }

    fn key(name: &str) -> Subject {
        Subject::Key(name.into())
    }

    fn address(n: u32) -> Subject {
        Subject::Address(std::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn a_minutes_requests_pass_at_once_and_then_the_rate_holds() {
        let (limiter, start) = (Arc::new(Limiter::default()), Instant::now());
        let ask = |at: Duration| limiter.admit(key("a"), quota(30, 0), start + at).map(drop);
        assert!((0..30).all(|_| ask(Duration::ZERO).is_ok()));
        assert_eq!(ask(Duration::ZERO), Err(Refused(Duration::from_secs(2))));
        assert_eq!(
            ask(Duration::from_millis(500)),
            Err(Refused(Duration::from_millis(1500)))
        );
        assert_eq!(ask(Duration::from_secs(2)), Ok(()));
        assert!(ask(Duration::from_secs(2)).is_err());
        // Others are not concerned.
        assert!(limiter.admit(key("b"), quota(30, 0), start).is_ok());
        let later = Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| ask(later).is_ok()).count(), 30);
    }

    #[test]
    fn what_is_under_way_counts_until_it_ends() {
        let (limiter, now) = (Arc::new(Limiter::default()), Instant::now());
        let ask = || limiter.admit(key("a"), quota(3, 2), now);
        let (first, second) = (ask().unwrap(), ask().unwrap());
        assert_eq!(ask().unwrap_err(), Refused(SOON));
        drop(first);
        // Whoever was refused for that has not used a request up.
        let third = ask().unwrap();
        drop((second, third));
        assert!(ask().unwrap_err().0 > SOON);
        assert!(limiter.0.lock().under_way.is_empty());
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let rate = NonZeroU32::new(1).unwrap();
        for _ in 0..5 {
            limiter.take(&key("a"), rate, now).unwrap();
            limiter.give_back(&key("a"), rate, now);
        }
        limiter.take(&key("a"), rate, now).unwrap();
        assert!(limiter.take(&key("a"), rate, now).is_err());
    }

    #[test]
    fn a_flood_of_strangers_is_bounded_and_costs_no_key_its_count() {
        let (limiter, now) = (Arc::new(Limiter::default()), Instant::now());
        drop(limiter.admit(key("a"), quota(1, 0), now));
        let flood = 5 * u32::try_from(GENERATION).unwrap();
        for n in 0..flood {
            drop(limiter.admit(address(n), quota(1, 1), now));
        }
        let state = limiter.0.lock();
        assert!(state.strangers.young.len() + state.strangers.old.len() <= 2 * GENERATION);
        assert!(state.under_way.is_empty());
        drop(state);
        // Those that came last are still known, and so is the key.
        assert!(limiter.admit(address(flood - 1), quota(1, 0), now).is_err());
        assert!(limiter.admit(key("a"), quota(1, 0), now).is_err());
    }

    proptest! {
        /// However requests are spread, a window of `n` minutes sees at most `n + 1` minutes' worth.
        #[test]
        fn no_spacing_gets_more_than_the_rate(
            rate in 1_u32..120,
            pauses in proptest::collection::vec(0_u64..5_000, 1..400),
        ) {
            let limiter = Arc::new(Limiter::default());
            let start = Instant::now();
            let (mut now, mut passed) = (start, 0_u32);
            for pause in pauses {
                now += Duration::from_millis(pause);
                passed += u32::from(limiter.admit(key("a"), quota(rate, 0), now).is_ok());
            }
            let minutes = (now - start).as_secs_f64() / 60.0;
            prop_assert!(f64::from(passed) <= f64::from(rate) * (minutes + 1.0) + 1.0);
        }
    }
}
