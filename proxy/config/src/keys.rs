//! Keys that open a name on Funnel, as hashes: the operator makes them of the user's Secrets, the proxy compares.
//!
//! A Secret's entries are keys by their names, or passwords by their users. Every line of an entry is one, so
//! that an old and a new one hold at once while clients change over. What can't be a key is left out and named;
//! the others count, so that a key that was taken out is out at once whatever else is wrong.

use std::fmt;

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{Context, SHA256},
};
use serde::{Deserialize, Serialize};

use crate::FORMAT;

/// The key of the Secret under which the JSON stands.
pub const KEYS_KEY: &str = "keys.json";

/// Shorter ones can be guessed.
pub const SHORTEST_KEY: usize = 16;
/// A password is guessed at the proxy alone, which counts failures.
pub const SHORTEST_PASSWORD: usize = 8;
/// Each request is compared with all of them.
const MOST_KEYS: usize = 512;

/// Every key of a name. Its `Debug` prints no hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keys {
    format: u32,
    salt: String,
    bearer: Vec<Key>,
    basic: Vec<Key>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Key {
    name: String,
    sha256: String,
}

/// What a request shows.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    /// RFC 6750.
    Bearer(&'a str),
    /// RFC 7617.
    Basic {
        /// Who.
        user: &'a str,
        /// And the proof.
        password: &'a str,
    },
}

/// Why an entry, or a line of it, is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {entry}: {reason}")]
pub struct KeyError {
    entry: String,
    reason: String,
}

impl Keys {
    /// Of the entries of a Secret with keys and one with passwords. One with the entries `username` and
    /// `password` alone (`kubernetes.io/basic-auth`) is one user's.
    pub fn new<'a>(
        salt: &str,
        bearer: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        basic: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> (Self, Vec<KeyError>) {
        let mut keys = Self {
            format: FORMAT,
            salt: salt.to_owned(),
            bearer: Vec::new(),
            basic: Vec::new(),
        };
        let mut errors = Vec::new();
        for (entry, value) in bearer {
            keys.add_bearer(entry, value, &mut errors);
        }
        let mut users: Vec<_> = basic.into_iter().collect();
        users.sort_unstable();
        if let [("password", password), ("username", user)] = users[..] {
            match std::str::from_utf8(user) {
                Ok(user) => keys.add_basic(user.trim(), "password", password, &mut errors),
                Err(_) => errors.push(error("username", "is not text")),
            }
        } else {
            for (user, value) in users {
                keys.add_basic(user, user, value, &mut errors);
            }
        }
        (keys, errors)
    }

    /// Reads what [`Keys`] was written as.
    ///
    /// # Errors
    /// When it is something else, or of a newer version.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        // serde_json's messages repeat the text that they fail on, which here is no secret but a hash.
        let keys: Self =
            serde_json::from_slice(json).map_err(|_| format!("{KEYS_KEY} is not what it should be"))?;
        if keys.format > FORMAT {
            return Err(format!(
                "{KEYS_KEY} is newer than this version reads: upgrade the proxy"
            ));
        }
        Ok(keys)
    }

    /// The name of the key, or the user, if it is one. It takes as long whether it is or isn't.
    pub fn find(&self, presented: Presented<'_>) -> Option<&str> {
        let (hash, keys) = match presented {
            Presented::Bearer(key) => (self.hash(&["bearer", key]), &self.bearer),
            Presented::Basic { user, password } => (self.hash(&["basic", user, password]), &self.basic),
        };
        let mut found = None;
        for key in keys {
            if verify_slices_are_equal(key.sha256.as_bytes(), hash.as_bytes()).is_ok() {
                found = Some(key.name.as_str());
            }
        }
        found
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.bearer.is_empty() && self.basic.is_empty()
    }

    /// Whether there are passwords, for which a browser can ask.
    pub fn has_passwords(&self) -> bool {
        !self.basic.is_empty()
    }

    fn add_bearer(&mut self, entry: &str, value: &[u8], errors: &mut Vec<KeyError>) {
        for line in lines(entry, value, errors) {
            if !line.bytes().all(|byte| byte.is_ascii_graphic()) {
                errors.push(error(entry, "has a key with a space or a character beyond ASCII"));
            } else if line.len() < SHORTEST_KEY {
                let reason =
                    format!("has a key of less than {SHORTEST_KEY} characters, which could be guessed");
                errors.push(error(entry, reason));
            } else if self.has_room(entry, errors) {
                let sha256 = self.hash(&["bearer", line]);
                let name = entry.to_owned();
                self.bearer.push(Key { name, sha256 });
            }
        }
    }

    fn add_basic(&mut self, user: &str, entry: &str, value: &[u8], errors: &mut Vec<KeyError>) {
        if user.is_empty() || user.contains(':') {
            errors.push(error(entry, "is of a user without a name, or with a colon in it"));
            return;
        }
        for line in lines(entry, value, errors) {
            if line.len() < SHORTEST_PASSWORD {
                let reason = format!("has a password of less than {SHORTEST_PASSWORD} characters");
                errors.push(error(entry, reason));
            } else if self.has_room(entry, errors) {
                let sha256 = self.hash(&["basic", user, line]);
                let name = user.to_owned();
                self.basic.push(Key { name, sha256 });
            }
        }
    }

    fn has_room(&self, entry: &str, errors: &mut Vec<KeyError>) -> bool {
        let room = self.bearer.len() + self.basic.len() < MOST_KEYS;
        if !room {
            errors.push(error(entry, format!("there are more than {MOST_KEYS} keys")));
        }
        room
    }

    /// Each part with its length, so that no two lists of parts are the same bytes.
    fn hash(&self, parts: &[&str]) -> String {
        let mut context = Context::new(&SHA256);
        for part in std::iter::once(&self.salt.as_str()).chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        hex::encode(context.finish())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys and {} passwords", self.bearer.len(), self.basic.len())
    }
}

fn lines<'a>(entry: &str, value: &'a [u8], errors: &mut Vec<KeyError>) -> Vec<&'a str> {
    let Ok(text) = std::str::from_utf8(value) else {
        errors.push(error(entry, "is not text"));
        return Vec::new();
    };
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        errors.push(error(entry, "is empty"));
    }
    lines
}

fn error(entry: &str, reason: impl Into<String>) -> KeyError {
    KeyError {
        entry: entry.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "sk-0123456789abcdef";
    const NEW: &str = "sk-fedcba9876543210";

    fn basic<'a>(user: &'a str, password: &'a str) -> Presented<'a> {
        Presented::Basic { user, password }
    }

    #[test]
    fn old_and_new_hold_at_once_and_nothing_else() {
        let both = format!("{OLD}\n{NEW}\r\n\n");
        let (keys, errors) = Keys::new(
            "salt",
            [("ci", both.as_bytes())],
            [("alice", b"correct horse".as_slice())],
        );
        assert_eq!(errors, []);
        for key in [OLD, NEW] {
            assert_eq!(keys.find(Presented::Bearer(key)), Some("ci"));
        }
        assert_eq!(keys.find(basic("alice", "correct horse")), Some("alice"));
        for wrong in [
            Presented::Bearer(""),
            Presented::Bearer("sk-0123456789abcdee"),
            Presented::Bearer(&both),
            basic("alice", OLD),
            basic("ci", OLD),
            basic("alic", "ecorrect horse"),
            basic("bob", "correct horse"),
        ] {
            assert_eq!(keys.find(wrong), None);
        }
        let written = serde_json::to_vec(&keys).unwrap();
        assert_eq!(Keys::parse(&written).unwrap(), keys);
        let shown = format!("{keys:?} {}", String::from_utf8(written).unwrap());
        assert!(!shown.contains(OLD) && !shown.contains("horse"), "{shown}");
        // The hash of one name's key says nothing about another's.
        let (other, _) = Keys::new("other", [("ci", OLD.as_bytes())], []);
        assert_ne!(other.bearer[0].sha256, keys.bearer[0].sha256);
    }

    #[test]
    fn a_bad_entry_is_named_and_left_out() {
        let entries: [(&str, &[u8]); 5] = [
            ("short", b"secret"),
            ("spaced", b"sk 0123456789abcdef"),
            ("none", b" \n"),
            ("binary", &[0xff; 32]),
            ("good", OLD.as_bytes()),
        ];
        let (keys, errors) = Keys::new("salt", entries, [("a:b", b"long enough".as_slice())]);
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for (line, entry) in said.iter().zip(["short", "spaced", "none", "binary", "a:b"]) {
            assert!(
                line.starts_with(&format!("entry {entry}: ")) && !line.contains("secret"),
                "{line}"
            );
        }
        assert_eq!((said.len(), keys.bearer.len(), keys.basic.len()), (5, 1, 0));
    }

    #[test]
    fn a_basic_auth_secret_is_one_users() {
        let entries: [(&str, &[u8]); 2] = [("username", b"bob"), ("password", b"long enough")];
        let (keys, errors) = Keys::new("salt", [], entries);
        assert_eq!(errors, []);
        assert_eq!(keys.find(basic("bob", "long enough")), Some("bob"));
        assert_eq!(keys.find(basic("password", "long enough")), None);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let json = br#"{"format":2,"salt":"","bearer":[],"basic":[]}"#;
        assert!(Keys::parse(json).unwrap_err().contains("upgrade"));
        assert!(Keys::parse(b"{").is_err());
    }
}
