//! Random texts, hashes of secrets, and secrets that don't show themselves.

use std::fmt;

use aws_lc_rs::{constant_time, digest, error::Unspecified, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A text that is shown to nobody but the one it is for.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// 256 random bits.
    pub(crate) fn generate() -> Result<Self, Unspecified> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(&mut bytes[..])?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes[..]))))
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// SHA-256 of a secret. The secrets are random and long, so that a slow hash would add nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hash(String);

impl Hash {
    /// Of this text.
    pub fn of(text: &str) -> Self {
        Self(hex::encode(digest::digest(&digest::SHA256, text.as_bytes())))
    }

    /// As somebody else has made it of a secret: 64 hexadecimal digits in lower case. Others are no secret's.
    pub fn of_hex(digits: &str) -> Self {
        Self(digits.to_owned())
    }

    /// Whether this text is the one, found out in constant time.
    pub(crate) fn is_of(&self, text: &str) -> bool {
        let other = Self::of(text);
        constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

/// `N` random bytes in base64url.
pub(crate) fn random<const N: usize>() -> Result<String, Unspecified> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The base64url of the SHA-256, as PKCE's S256 does it (RFC 7636, section 4.2).
pub(crate) fn s256(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// An evenly distributed byte for [`crate::store::Shard::of`].
pub(crate) fn spread(text: &str) -> u8 {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show_themselves() {
        let secret = Secret::generate().unwrap();
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(secret.expose().len(), 43);
        let hash = Hash::of(secret.expose());
        assert!(hash.is_of(secret.expose()) && !hash.is_of("other"));
        assert!(!serde_json::to_string(&hash).unwrap().contains(secret.expose()));
    }

    /// RFC 7636, appendix B.
    #[test]
    fn s256_is_what_the_rfc_says() {
        assert_eq!(
            s256("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }
}
