//! Logins and the sessions that come of them: the document behind single-use codes and refresh tokens.

use std::collections::BTreeMap;

use aws_lc_rs::{error::Unspecified, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    identify::{NodeId, UserId},
    keys::KeySet,
    provider::Lifetimes,
    scope::Scopes,
    secret::spread,
    state::Content,
    store::{Key, Shard},
};

/// A login's name: in its code, in the session that the code makes, in refresh and access tokens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct SessionId(String);

impl SessionId {
    /// A new one. All of a user's at one client are in one shard, so that they can be counted there.
    pub(crate) fn new(user: UserId, client: &str) -> Result<Self, Unspecified> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes)?;
        bytes[0] = spread(&format!("{user} {client}"));
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Where it is kept.
    pub(crate) fn key(&self) -> Key {
        let bytes = URL_SAFE_NO_PAD.decode(&self.0).unwrap_or_default();
        Key::Sessions(Shard::of(bytes.first().copied().unwrap_or_default()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What was agreed upon when the user came by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Login {
    pub(crate) client: String,
    pub(crate) user: UserId,
    pub(crate) node: NodeId,
    pub(crate) scopes: Scopes,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    /// When the user confirmed who is there; seconds since 1970.
    pub(crate) auth_time: i64,
}

/// The document.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sessions(BTreeMap<SessionId, Entry>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Entry {
    Open(Session),
    /// Its code has been redeemed, but it is over. Kept as long as the code would be good.
    Ended {
        until: i64,
    },
}

/// A login whose code has been redeemed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) login: Login,
    /// Of the refresh token that is good now.
    pub(crate) counter: u32,
    /// When that one was given out.
    rotated: i64,
    expires: i64,
    /// When its code ends; until then the entry must not vanish.
    code_until: i64,
}

/// Why a refresh token isn't good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotGood {
    /// The session is over, or was never.
    Ended,
    /// The token belongs to another client.
    OtherClient,
    /// It was used before: somebody has a copy. The session is ended.
    Reused,
}

/// An answer that was lost on its way may be asked for again for so long (RFC 9700, section 4.14.2, leaves
/// this to us). Several workers of one client that refresh at once get the same token.
const GRACE: i64 = 20;
/// Of one user at one client; beyond it the one that was unused the longest ends.
const MOST: usize = 50;

impl Sessions {
    /// Redeems a code. `false`: it comes a second time, and what came of the first is ended (RFC 6749,
    /// section 4.1.2).
    pub(crate) fn begin(
        &mut self,
        id: &SessionId,
        login: &Login,
        code_until: i64,
        lifetimes: &Lifetimes,
        now: i64,
    ) -> bool {
        if self.0.contains_key(id) {
            self.0.insert(id.clone(), Entry::Ended { until: code_until });
            return false;
        }
        self.make_room(login, now);
        let session = Session {
            login: login.clone(),
            counter: 0,
            rotated: now,
            expires: now + lifetimes.refresh,
            code_until,
        };
        self.0.insert(id.clone(), Entry::Open(session));
        true
    }

    /// Uses the refresh token with this counter: the session with the counter of the next one.
    pub(crate) fn refresh(
        &mut self,
        id: &SessionId,
        counter: u32,
        client: &str,
        lifetimes: &Lifetimes,
        now: i64,
    ) -> Result<Session, NotGood> {
        let Some(Entry::Open(session)) = self.0.get_mut(id) else {
            return Err(NotGood::Ended);
        };
        if session.expires <= now {
            return Err(NotGood::Ended);
        }
        if session.login.client != client {
            return Err(NotGood::OtherClient);
        }
        if counter == session.counter {
            session.counter += 1;
            session.rotated = now;
            session.expires = now + lifetimes.refresh;
            return Ok(session.clone());
        }
        let just_before = counter.checked_add(1) == Some(session.counter);
        if just_before && now - session.rotated <= GRACE {
            return Ok(session.clone());
        }
        self.end(id);
        Err(NotGood::Reused)
    }

    /// The session, if it goes on.
    pub(crate) fn get(&self, id: &SessionId, now: i64) -> Option<&Session> {
        match self.0.get(id)? {
            Entry::Open(session) if session.expires > now => Some(session),
            _ => None,
        }
    }

    /// Ends it: no token of it is good any more.
    pub(crate) fn end(&mut self, id: &SessionId) {
        if let Some(entry) = self.0.get_mut(id)
            && let Entry::Open(session) = entry
        {
            let until = session.code_until;
            *entry = Entry::Ended { until };
        }
    }

    fn make_room(&mut self, login: &Login, now: i64) {
        let same = |entry: &Entry| match entry {
            Entry::Open(session) => (session.login.user == login.user
                && session.login.client == login.client)
                .then_some(session.rotated),
            Entry::Ended { .. } => None,
        };
        let mut of_user: Vec<(i64, SessionId)> = self
            .0
            .iter()
            .filter_map(|(id, entry)| Some((same(entry)?, id.clone())))
            .collect();
        of_user.sort();
        let surplus = (of_user.len() + 1).saturating_sub(MOST);
        for (_, id) in of_user.drain(..surplus) {
            self.end(&id);
        }
        self.prune(now);
    }
}

impl Content for Sessions {
    fn prune(&mut self, now: i64) {
        self.0.retain(|_, entry| match entry {
            Entry::Open(session) => session.expires > now || session.code_until > now,
            Entry::Ended { until } => *until > now,
        });
    }
}

/// A refresh token: good by our MAC before the store is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefreshToken {
    pub(crate) session: SessionId,
    pub(crate) counter: u32,
}

const REFRESH_PREFIX: &str = "prt_";

impl RefreshToken {
    /// As the client gets it.
    pub(crate) fn text(&self, keys: &KeySet) -> String {
        let body = format!("{REFRESH_PREFIX}{}.{}", self.session.0, self.counter);
        let mac = keys.mac(&body);
        format!("{body}.{mac}")
    }

    /// `None`: we never made it.
    pub(crate) fn parse(keys: &KeySet, text: &str) -> Option<Self> {
        let (body, mac) = text.rsplit_once('.')?;
        if !keys.is_mac(body, mac) {
            return None;
        }
        let (session, counter) = body.strip_prefix(REFRESH_PREFIX)?.split_once('.')?;
        Some(Self {
            session: SessionId(session.to_owned()),
            counter: counter.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::fixture;

    const LIFE: Lifetimes = Lifetimes {
        code: 60,
        token: 300,
        refresh: 1000,
        consent_page: 600,
    };

    fn login(client: &str) -> Login {
        Login {
            client: client.to_owned(),
            user: 7,
            node: 1,
            scopes: Scopes::parse(None),
            resources: Vec::new(),
            auth_time: 0,
        }
    }

    fn begun() -> (Sessions, SessionId) {
        let mut sessions = Sessions::default();
        let id = SessionId::new(7, "app").unwrap();
        assert!(sessions.begin(&id, &login("app"), 60, &LIFE, 0));
        (sessions, id)
    }

    #[test]
    fn a_code_is_good_once_and_twice_ends_all() {
        let (mut sessions, id) = begun();
        assert!(sessions.get(&id, 1).is_some());
        assert!(!sessions.begin(&id, &login("app"), 60, &LIFE, 1));
        assert!(sessions.get(&id, 1).is_none());
        // The mark stays as long as the code would be good.
        sessions.prune(59);
        assert!(!sessions.begin(&id, &login("app"), 60, &LIFE, 59));
        sessions.prune(60);
        assert_eq!(sessions, Sessions::default());
    }

    #[test]
    fn refresh_rotates_and_reuse_ends() {
        let (mut sessions, id) = begun();
        let refresh = |sessions: &mut Sessions, counter, now| {
            sessions
                .refresh(&id, counter, "app", &LIFE, now)
                .map(|s| s.counter)
        };
        assert_eq!(refresh(&mut sessions, 0, 100), Ok(1));
        // A repetition within the grace gets the same one.
        assert_eq!(refresh(&mut sessions, 0, 100 + GRACE), Ok(1));
        assert_eq!(refresh(&mut sessions, 1, 200), Ok(2));
        assert_eq!(refresh(&mut sessions, 0, 201), Err(NotGood::Reused));
        assert_eq!(refresh(&mut sessions, 2, 202), Err(NotGood::Ended));
    }

    #[test]
    fn a_token_of_another_client_changes_nothing() {
        let (mut sessions, id) = begun();
        assert_eq!(
            sessions.refresh(&id, 0, "other", &LIFE, 1),
            Err(NotGood::OtherClient)
        );
        assert!(sessions.refresh(&id, 0, "app", &LIFE, 1).is_ok());
    }

    #[test]
    fn sessions_end_by_themselves_unless_they_are_used() {
        let (mut sessions, id) = begun();
        assert!(sessions.refresh(&id, 0, "app", &LIFE, 999).is_ok());
        assert!(sessions.get(&id, 1998).is_some());
        assert!(sessions.get(&id, 1999).is_none());
        assert_eq!(sessions.refresh(&id, 1, "app", &LIFE, 1999), Err(NotGood::Ended));
    }

    #[test]
    fn a_user_has_so_many_sessions_at_a_client() {
        let mut sessions = Sessions::default();
        let ids: Vec<SessionId> = (0..=MOST).map(|_| SessionId::new(7, "app").unwrap()).collect();
        for (now, id) in (0..).zip(&ids) {
            assert!(sessions.begin(id, &login("app"), now + 60, &LIFE, now));
        }
        let other = SessionId::new(7, "other").unwrap();
        assert!(sessions.begin(&other, &login("other"), 100, &LIFE, 50));
        let now = 60;
        let open = ids.iter().filter(|id| sessions.get(id, now).is_some()).count();
        assert_eq!(open, MOST);
        assert!(sessions.get(&ids[0], now).is_none());
        assert_eq!(ids[0].key(), ids[1].key());
    }

    #[test]
    fn refresh_tokens_cannot_be_made_up() {
        let keys = fixture();
        let token = RefreshToken {
            session: SessionId::new(7, "app").unwrap(),
            counter: 3,
        };
        let text = token.text(keys);
        assert_eq!(RefreshToken::parse(keys, &text), Some(token));
        assert_eq!(RefreshToken::parse(keys, &text.replace(".3.", ".4.")), None);
        assert_eq!(RefreshToken::parse(keys, "prt_x.0."), None);
        assert_eq!(RefreshToken::parse(keys, ""), None);
    }

    proptest! {
        /// Whatever is presented in whatever order: a counter that was used up is never good again after the
        /// grace, and once ended a session stays ended.
        #[test]
        fn an_old_token_is_never_good_again(uses in proptest::collection::vec((0u32..6, 0i64..200), 1..40)) {
            let (mut sessions, id) = begun();
            let (mut now, mut current, mut rotated, mut ended) = (0, 0, 0, false);
            for (counter, wait) in uses {
                now += wait;
                match sessions.refresh(&id, counter, "app", &LIFE, now) {
                    Ok(session) => {
                        prop_assert!(!ended);
                        if counter == current {
                            current += 1;
                            rotated = now;
                        } else {
                            prop_assert!(counter + 1 == current && now - rotated <= GRACE);
                        }
                        prop_assert_eq!(session.counter, current);
                    }
                    Err(_) => ended = true,
                }
            }
        }
    }
}
