//! Clients that objects of the cluster declare to an identity provider: entries of a Secret by the client's ID.
//!
//! The operator writes each entry of its object alone, so that one that changes concerns no other; the proxy reads
//! them all. No client secret is among them: they are random, so that their hash says nothing.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{FORMAT, access::Access, group::Signing};

/// A client. A field that this version doesn't know might restrict it, so it is refused as a whole then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Client {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// The object's generation that this was made of.
    pub generation: i64,
    /// For people.
    pub name: String,
    /// Where answers may go.
    pub redirect_uris: Vec<String>,
    /// It can't keep a secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
    /// How its ID tokens are signed.
    #[serde(default)]
    pub signing: Signing,
    /// Who may log in; absent: whoever reaches the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Newest first; several while one is being replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<ClientSecret>,
}

/// The hash of a client's secret. Its `Debug` doesn't print it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientSecret {
    /// Of the secret's text, in hexadecimal digits.
    pub sha256: String,
    /// Until when it is good; absent: as long as the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl ClientSecret {
    /// Of a text that is random and long.
    pub fn of(secret: &str) -> Self {
        Self {
            sha256: hex::encode(digest(&SHA256, secret.as_bytes())),
            expires: None,
        }
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSecret")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Reads an entry.
    ///
    /// # Errors
    /// When it is something else, or of a newer version.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        // serde_json's messages repeat the text that they fail on, which here may be a hash.
        let client: Self = serde_json::from_slice(json)
            .map_err(|error| format!("line {} column {} makes no sense", error.line(), error.column()))?;
        if client.format > FORMAT {
            return Err("it is newer than this version reads: upgrade the proxy".to_owned());
        }
        Ok(client)
    }

    /// Its entry.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("our own types have string keys and no failing serialisers")
    }
}

/// All clients of a provider, as they were read. Its `Debug` counts them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Clients {
    /// By their IDs.
    pub clients: BTreeMap<String, Client>,
    /// Which text each was read from, for reports: [`revision`].
    pub revisions: BTreeMap<String, String>,
    /// IDs of those that can't be read, and why. The others count all the same.
    pub refused: BTreeMap<String, String>,
}

impl Clients {
    /// Reads the entries of a Secret.
    pub fn read<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut all = Self::default();
        for (id, json) in entries {
            match Client::parse(json) {
                Ok(client) => {
                    all.clients.insert(id.to_owned(), client);
                    all.revisions.insert(id.to_owned(), revision(json));
                }
                Err(reason) => {
                    all.refused.insert(id.to_owned(), reason);
                }
            }
        }
        all
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients")
            .field("clients", &self.clients.len())
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

/// Tells an entry from what stood there before.
pub fn revision(json: &[u8]) -> String {
    hex::encode(&digest(&SHA256, json).as_ref()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client {
            format: FORMAT,
            generation: 1,
            name: "Grafana".into(),
            redirect_uris: vec!["https://grafana.example.ts.net/login/generic_oauth".into()],
            public: false,
            signing: Signing::Es256,
            access: None,
            secrets: vec![ClientSecret::of("a long and random text")],
        }
    }

    #[test]
    fn a_client_that_is_not_understood_costs_no_other() {
        let good = client().json();
        let newer = Client {
            format: FORMAT + 1,
            ..client()
        };
        let newer = newer.json();
        let restricted =
            String::from_utf8(good.clone())
                .unwrap()
                .replacen('{', r#"{"onlyOnSundays":true,"#, 1);
        let read = Clients::read([
            ("good", &good[..]),
            ("newer", &newer[..]),
            ("restricted", restricted.as_bytes()),
            ("broken", &b"{\"secrets\":[{\"sha256\":5}]}"[..]),
        ]);
        assert_eq!(read.clients, [("good".to_owned(), client())].into());
        assert_eq!(read.revisions, [("good".to_owned(), revision(&good))].into());
        assert_eq!(read.refused.len(), 3);
        assert!(read.refused["newer"].contains("upgrade"));
    }

    #[test]
    fn no_secret_and_no_hash_is_printed() {
        let client = client();
        let json = String::from_utf8(client.json()).unwrap();
        assert!(!json.contains("random text"), "{json}");
        let printed = format!("{client:?}");
        assert!(!printed.contains(&client.secrets[0].sha256), "{printed}");
    }

    #[test]
    fn every_change_is_another_revision() {
        let one = client().json();
        let two = Client {
            generation: 2,
            ..client()
        };
        assert_ne!(revision(&one), revision(&two.json()));
        assert_eq!(revision(&one).len(), 16);
    }
}
