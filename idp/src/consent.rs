//! What users have agreed to: which client may learn what, and where the answer goes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    identify::UserId,
    scope::Scopes,
    secret::spread,
    state::Content,
    store::{Key, Shard},
};

/// The document.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Consents(BTreeMap<UserId, BTreeMap<String, Consent>>);

/// One user's with one client.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Consent {
    /// Hosts that answers may go to.
    places: BTreeSet<String>,
    scopes: Scopes,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    resources: BTreeSet<String>,
    /// When the user confirmed last; seconds since 1970.
    pub(crate) at: i64,
}

/// What consent is needed for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) place: &'a str,
    pub(crate) scopes: &'a Scopes,
    pub(crate) resources: &'a [String],
}

/// Who has not confirmed for so long is asked again.
const LASTS: i64 = 365 * 86_400;

/// Where a user's consents are.
pub(crate) fn key(user: UserId) -> Key {
    Key::Consents(Shard::of(spread(&user.to_string())))
}

impl Consents {
    pub(crate) fn get(&self, user: UserId, client: &str, now: i64) -> Option<&Consent> {
        let consent = self.0.get(&user)?.get(client)?;
        (consent.at + LASTS > now).then_some(consent)
    }

    /// Adds to what the user has agreed to.
    pub(crate) fn add(&mut self, user: UserId, client: &str, wanted: Wanted<'_>, now: i64) {
        let of_user = self.0.entry(user).or_default();
        let consent = of_user.entry(client.to_owned()).or_default();
        consent.places.insert(wanted.place.to_owned());
        consent.scopes = consent.scopes.joined_with(wanted.scopes);
        consent.resources.extend(wanted.resources.iter().cloned());
        consent.at = now;
    }
}

impl Consent {
    /// Whether the user has agreed to all of this.
    pub(crate) fn covers(&self, wanted: Wanted<'_>) -> bool {
        self.places.contains(wanted.place)
            && self.scopes.cover(wanted.scopes)
            && wanted
                .resources
                .iter()
                .all(|resource| self.resources.contains(resource))
    }
}

impl Content for Consents {
    fn prune(&mut self, now: i64) {
        self.0.retain(|_, of_user| {
            of_user.retain(|_, consent| consent.at + LASTS > now);
            !of_user.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consent_is_for_one_client_place_and_set_of_scopes() {
        let (few, more) = (Scopes::parse(Some("openid")), Scopes::parse(Some("openid email")));
        let wanted = |place, scopes, resources| Wanted {
            place,
            scopes,
            resources,
        };
        let mcp = ["https://mcp".to_owned()];
        let mut consents = Consents::default();
        consents.add(1, "app", wanted("a.example", &few, &[]), 10);
        assert_eq!(consents.get(2, "app", 10), None);
        assert_eq!(consents.get(1, "other", 10), None);
        let consent = consents.get(1, "app", 10).unwrap();
        assert!(consent.covers(wanted("a.example", &few, &[])));
        assert!(!consent.covers(wanted("b.example", &few, &[])));
        assert!(!consent.covers(wanted("a.example", &more, &[])));
        assert!(!consent.covers(wanted("a.example", &few, &mcp)));
        consents.add(1, "app", wanted("b.example", &more, &mcp), 20);
        let consent = consents.get(1, "app", 20).unwrap();
        assert!(consent.covers(wanted("a.example", &more, &mcp)) && consent.at == 20);
        assert_eq!(consents.get(1, "app", 20 + LASTS), None);
        consents.prune(20 + LASTS);
        assert!(consents.0.is_empty());
    }

    #[test]
    fn the_document_is_json() {
        let mut consents = Consents::default();
        let scopes = Scopes::parse(None);
        let wanted = Wanted {
            place: "a",
            scopes: &scopes,
            resources: &[],
        };
        consents.add(-5, "app", wanted, 1);
        let text = serde_json::to_string(&consents).unwrap();
        let again: Consents = serde_json::from_str(&text).unwrap();
        assert_eq!(again.get(-5, "app", 2), consents.get(-5, "app", 2));
    }
}
