//! Who is let in, and how often.
//!
//! The tailnet's callers are known; what they may do is the route's. Nobody on the internet is: there a route
//! has to be public, and the name's lock decides. Failed keys are counted before anything is hashed.
//!
//! A key is ours wherever it is shown: on a public route it is taken out of the request and counted for the
//! tailnet's callers as well, though they need none, so that a program works the same from both sides and the
//! backend never sees it. What is no key of ours passes there, since it may be the application's own.

use std::{num::NonZeroU32, sync::Arc, time::Instant};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};
use postern_idp::Declared;
use postern_proxy_config::{
    funnel::{Funnel, Quota},
    keys::{Keys, Presented},
};

use super::{Caller, Connection, Failure};
use crate::{
    limiter::{Limiter, Permit, Refused, Subject},
    route::Route,
};

/// What a name remembers about its callers, and the keys and clients that it knows.
#[derive(Debug, Default)]
pub struct Gate {
    /// Counts.
    pub limiter: Arc<Limiter>,
    /// `None`: not known yet.
    pub keys: ArcSwapOption<Keys>,
    /// Of its identity provider.
    pub clients: Declared,
}

/// Somebody who is in.
#[derive(Debug, Default)]
pub struct Entered {
    /// Held until the answer has ended.
    pub permits: Vec<Permit>,
    /// The name of the key that was shown.
    pub key: Option<Arc<str>>,
}

/// Wrong keys of one address.
const FAILURES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Decides about a request to a route of a site that has `funnel` open.
pub(super) fn enter(
    connection: &Connection,
    route: &Route,
    funnel: Option<&Funnel>,
    caller: &Caller,
    headers: &mut HeaderMap,
    now: Instant,
) -> Result<Entered, Failure> {
    let gate = &*connection.gate;
    let public = funnel.filter(|_| route.config.funnel);
    let mut entered = Entered::default();
    if connection.funnel {
        let funnel = public.ok_or(Failure::NoRoute)?;
        if !funnel.admits(connection.peer.ip().to_canonical()) {
            return Err(Failure::Denied);
        }
        let address = Subject::Address(connection.source);
        entered.count(gate, address, funnel.limits.per_address, now)?;
        if funnel.keys.is_some() {
            entered.key = Some(gate.unlock(connection, headers, now)?);
        }
    } else {
        if !caller.may(route.config.access.as_ref()) {
            return Err(Failure::Denied);
        }
        let user = Subject::User {
            route: route.label.clone(),
            user: caller.subject(),
        };
        entered.count(gate, user, route.config.limits.per_user, now)?;
        if public.is_some_and(|funnel| funnel.keys.is_some()) {
            entered.key = gate.recognise(headers);
        }
    }
    if let Some(key) = &entered.key {
        headers.remove(header::AUTHORIZATION);
        let quota = public.and_then(|funnel| funnel.limits.per_key);
        let key = Subject::Key(key.clone());
        entered.count(gate, key, quota, now)?;
    }
    Ok(entered)
}

impl Entered {
    fn count(
        &mut self,
        gate: &Gate,
        subject: Subject,
        quota: Option<Quota>,
        now: Instant,
    ) -> Result<(), Failure> {
        if let Some(quota) = quota {
            self.permits.push(gate.limiter.admit(subject, quota, now)?);
        }
        Ok(())
    }
}

impl Gate {
    /// The name of the key that has to be there.
    fn unlock(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<Arc<str>, Failure> {
        let keys = self.keys.load();
        let keys = keys.as_deref().ok_or(Failure::Unavailable)?;
        let wrong = Failure::Unauthorized {
            passwords: keys.has_passwords(),
        };
        let shown = Shown::read(headers).ok_or(wrong)?;
        let failures = Subject::Failures(connection.source);
        self.limiter.take(&failures, FAILURES_PER_MINUTE, now)?;
        let name = keys.find(shown.presented()).ok_or(wrong)?;
        self.limiter.give_back(&failures, FAILURES_PER_MINUTE, now);
        Ok(name.into())
    }

    /// The name of the key that happens to be there.
    fn recognise(&self, headers: &HeaderMap) -> Option<Arc<str>> {
        let shown = Shown::read(headers)?;
        let keys = self.keys.load();
        keys.as_deref()?.find(shown.presented()).map(Into::into)
    }
}

/// The credentials of a request.
enum Shown<'a> {
    Bearer(&'a str),
    Basic(String, usize),
}

impl<'a> Shown<'a> {
    /// Of the one `Authorization` field; of two, nobody could say which the backend would take.
    fn read(headers: &'a HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(rest));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        let colon = decoded.find(':')?;
        Some(Self::Basic(decoded, colon))
    }

    fn presented(&self) -> Presented<'_> {
        match self {
            Self::Bearer(key) => Presented::Bearer(key),
            Self::Basic(text, colon) => Presented::Basic {
                user: &text[..*colon],
                password: &text[colon + 1..],
            },
        }
    }
}

impl From<Refused> for Failure {
    fn from(Refused(wait): Refused) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self::TooManyRequests {
            retry_after: u32::try_from(seconds).unwrap_or(u32::MAX).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        Shown::read(&headers).map(|shown| match shown.presented() {
            Presented::Bearer(key) => format!("bearer {key}"),
            Presented::Basic { user, password } => format!("basic {user} {password}"),
        })
    }

    #[test]
    fn credentials_are_read_from_one_field() {
        let basic = format!("basic {}", STANDARD.encode("alice:a:b"));
        assert_eq!(shown(&["Bearer  key "]).as_deref(), Some("bearer key"));
        assert_eq!(shown(&[&basic]).as_deref(), Some("basic alice a:b"));
        for none in [
            &[][..],
            &["Bearer"],
            &["Basic !"],
            &["Basic YQ=="],
            &["Digest x"],
            &["Bearer a", "Bearer b"],
        ] {
            assert_eq!(shown(none), None, "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn no_field_is_too_odd_to_be_read(scheme in "(?i)(basic|bearer|\\PC{0,8})", rest in proptest::collection::vec(any::<u8>(), 0..64)) {
            for text in [STANDARD.encode(&rest), String::from_utf8_lossy(&rest).into_owned()] {
                let Ok(value) = http::HeaderValue::from_str(&format!("{scheme} {text}")) else { continue };
                let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
                if let Some(Presented::Basic { user, .. }) = Shown::read(&headers).as_ref().map(Shown::presented) {
                    prop_assert!(!user.contains(':'));
                }
            }
        }
    }

    #[test]
    fn whoever_is_refused_is_told_whole_seconds() {
        let after = |ms| match Failure::from(Refused(std::time::Duration::from_millis(ms))) {
            Failure::TooManyRequests { retry_after } => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!((after(1), after(1000), after(1001)), (1, 1, 2));
    }
}
