//! The secret of a client, which nobody but the app's Secret shows.

use std::fmt;

use aws_lc_rs::rand;
use postern_proxy_config::clients;
use zeroize::Zeroizing;

/// 256 random bits in hexadecimal digits. Its `Debug` prints nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSecret(Zeroizing<String>);

const DIGITS: usize = 64;

impl ClientSecret {
    /// A new one.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; DIGITS / 2]);
        rand::fill(&mut bytes[..]).expect("the system's random numbers are there since start");
        Self(Zeroizing::new(hex::encode(&bytes[..])))
    }

    /// One that was made here. Whatever else somebody has put there could be guessed.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let is_ours = text.len() == DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_ours.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// What the provider knows of it.
    pub fn hash(&self) -> clients::ClientSecret {
        clients::ClientSecret::of(&self.0)
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_random_and_shows_nothing() {
        let (one, two) = (ClientSecret::generate(), ClientSecret::generate());
        assert_ne!(one, two);
        assert_eq!(ClientSecret::parse(one.expose().as_bytes()), Some(one.clone()));
        assert_eq!(format!("{one:?}"), "[redacted]");
        for other in [
            "",
            "password",
            &one.expose()[1..],
            &one.expose().replace(|_| true, "A"),
        ] {
            assert_eq!(ClientSecret::parse(other.as_bytes()), None, "{other}");
        }
    }
}
