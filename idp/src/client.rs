//! Clients: the programs that users log in to.

mod authenticate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use authenticate::Credentials;

use crate::{
    identify::{Peer, User},
    keys::Algorithm,
    redirect,
    secret::{Hash, spread},
    state::Content,
    store::{Key, Shard},
};

/// A registered client. Its id is not a part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Client {
    /// For people; may be empty.
    pub name: String,
    /// Where answers may go. What was registered elsewhere is taken as it is; what is registered here is checked.
    pub redirect_uris: Vec<String>,
    /// Whether the client can keep a secret.
    pub kind: Kind,
    /// Those that are good, newest first; several at once while one is being replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<ClientSecret>,
    /// How its ID tokens are signed.
    pub signing: Algorithm,
    /// Resource servers that it stands for: tokens for them it may introspect and exchange.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Who may log in to it; `None`: whoever the tailnet lets reach the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Allow>>,
    /// Who registered it.
    pub origin: Origin,
    /// Seconds since 1970.
    pub created: i64,
    /// When it goes by itself; seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
}

/// Whether a client can keep a secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A server: it shows a secret.
    #[default]
    Confidential,
    /// A program or a page on the user's machine: PKCE instead of a secret.
    Public,
}

/// The hash of a secret, and how long it is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientSecret {
    /// Of the secret.
    pub hash: Hash,
    /// Seconds since 1970; `None`: as long as the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
}

/// One who may log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Allow {
    /// By login name.
    User(String),
    /// By group, as control reveals it.
    Group(String),
    /// By a capability that the policy grants towards the provider.
    Capability(String),
}

/// Who registered a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// Somebody on the admin page.
    #[default]
    Admin,
    /// The host's configuration, which the admin page can't change.
    Declared,
    /// The client itself, by dynamic registration.
    Dynamic,
    /// tsidp, before us.
    Imported,
}

impl Client {
    /// Whether answers may go there.
    pub(crate) fn redirects_to(&self, uri: &str) -> bool {
        self.redirect_uris
            .iter()
            .any(|registered| redirect::matches(registered, uri))
    }

    /// Whether this secret is good.
    pub(crate) fn has_secret(&self, secret: &str, now: i64) -> bool {
        let good = self
            .secrets
            .iter()
            .filter(|s| s.expires.is_none_or(|end| end > now));
        // All are compared: how long it takes says nothing about which one it was.
        good.fold(false, |found, s| s.hash.is_of(secret) | found)
    }

    /// Whether the user may log in to it.
    pub(crate) fn admits(&self, peer: &Peer, user: &User) -> bool {
        let Some(allow) = &self.allow else { return true };
        allow.iter().any(|entry| match entry {
            Allow::User(login) => *login == user.login,
            Allow::Group(group) => user.groups.contains(group),
            Allow::Capability(capability) => peer.capabilities.contains_key(capability),
        })
    }

    /// What people call it.
    pub(crate) fn title<'a>(&'a self, id: &'a str) -> &'a str {
        if self.name.is_empty() { id } else { &self.name }
    }
}

/// The document.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Clients(pub(crate) BTreeMap<String, Client>);

impl Content for Clients {
    fn prune(&mut self, now: i64) {
        self.0
            .retain(|_, client| client.expires.is_none_or(|end| end > now));
        for client in self.0.values_mut() {
            client
                .secrets
                .retain(|secret| secret.expires.is_none_or(|end| end > now));
        }
    }
}

/// Where the client with this id is.
pub(crate) fn key(id: &str) -> Key {
    Key::Clients(Shard::of(spread(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_good_until_it_ends() {
        let secret = |text: &str, expires| ClientSecret {
            hash: Hash::of(text),
            expires,
        };
        let client = Client {
            secrets: vec![secret("new", None), secret("old", Some(10))],
            ..Client::default()
        };
        assert!(client.has_secret("new", 9) && client.has_secret("old", 9));
        assert!(client.has_secret("new", 10) && !client.has_secret("old", 10));
        assert!(!client.has_secret("", 0));
    }

    #[test]
    fn who_may_log_in() {
        let user = User {
            login: "alice@example.com".to_owned(),
            groups: vec!["group:eng".to_owned()],
            ..User::default()
        };
        let peer = Peer {
            machine: crate::identify::Machine::default(),
            user: Some(user.clone()),
            capabilities: [("example.com/cap/app".to_owned(), Vec::new())].into(),
        };
        let admits = |allow| {
            let client = Client {
                allow,
                ..Client::default()
            };
            client.admits(&peer, &user)
        };
        assert!(admits(None));
        assert!(!admits(Some(Vec::new())));
        assert!(admits(Some(vec![Allow::User("alice@example.com".to_owned())])));
        assert!(admits(Some(vec![
            Allow::Group("group:ops".to_owned()),
            Allow::Group("group:eng".to_owned())
        ])));
        assert!(admits(Some(vec![Allow::Capability(
            "example.com/cap/app".to_owned()
        )])));
        assert!(!admits(Some(vec![Allow::User("bob@example.com".to_owned())])));
    }
}
