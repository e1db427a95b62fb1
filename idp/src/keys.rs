//! Signing keys with their rotation, and the key that seals what users carry.
//!
//! Of each algorithm there are three: the *next* is published long before it signs, so that nobody's cached
//! JWKS lacks it; the *previous* is published until what it has signed has ended.

mod set;

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    error::Unspecified,
    rand,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

pub(crate) use set::{KeySet, Purpose, SigningKey};

use crate::secret::random;

/// How ID tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSASSA-PKCS1-v1_5 with 2048 bits: what every client understands.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    /// As JWS names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// The secret document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Keys {
    format: u32,
    /// Codes, consent pages and refresh tokens are sealed with keys derived from it. It isn't rotated: that
    /// would end every session, and can be had by removing the document.
    seal: Bytes,
    es256: Rotation,
    rs256: Rotation,
}

/// The keys of one algorithm.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rotation {
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<StoredKey>,
    current: StoredKey,
    next: StoredKey,
    /// Since when the current one signs; seconds since 1970.
    since: i64,
}

/// A private key with its name.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredKey {
    kid: String,
    pkcs8: Bytes,
}

/// Secret bytes; base64 in JSON.
pub(crate) struct Bytes(Zeroizing<Vec<u8>>);

/// How long a key signs, and how long it is still published then.
const SIGNS: i64 = 90 * 86_400;
const LINGERS: i64 = 2 * 86_400;

impl Keys {
    pub(crate) const FORMAT: u32 = 1;

    /// New ones; `rsa` signs RS256 at first if it is given.
    pub(crate) fn generate(rsa: Option<StoredKey>, now: i64) -> Result<Self, Unspecified> {
        let mut seal = Zeroizing::new(vec![0; 32]);
        rand::fill(&mut seal)?;
        Ok(Self {
            format: Self::FORMAT,
            seal: Bytes(seal),
            es256: Rotation::new(StoredKey::generate(Algorithm::Es256)?, Algorithm::Es256, now)?,
            rs256: Rotation::new(
                match rsa {
                    Some(key) => key,
                    None => StoredKey::generate(Algorithm::Rs256)?,
                },
                Algorithm::Rs256,
                now,
            )?,
        })
    }

    /// Rotates what is due. What it does depends on the stored times alone, so that of several replicas that
    /// try it one wins the swap and the others find nothing to do.
    pub(crate) fn tend(&mut self, now: i64) -> Result<(), Unspecified> {
        self.es256.tend(Algorithm::Es256, now)?;
        self.rs256.tend(Algorithm::Rs256, now)
    }
}

impl Rotation {
    fn new(current: StoredKey, algorithm: Algorithm, now: i64) -> Result<Self, Unspecified> {
        Ok(Self {
            previous: None,
            current,
            next: StoredKey::generate(algorithm)?,
            since: now,
        })
    }

    fn tend(&mut self, algorithm: Algorithm, now: i64) -> Result<(), Unspecified> {
        let age = now.saturating_sub(self.since);
        if age >= SIGNS {
            let fresh = StoredKey::generate(algorithm)?;
            let next = std::mem::replace(&mut self.next, fresh);
            self.previous = Some(std::mem::replace(&mut self.current, next));
            self.since = now;
        } else if age >= LINGERS {
            self.previous = None;
        }
        Ok(())
    }
}

impl StoredKey {
    fn generate(algorithm: Algorithm) -> Result<Self, Unspecified> {
        let pkcs8 = match algorithm {
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
                Zeroizing::new(pair.to_pkcs8v1()?.as_ref().to_vec())
            }
            Algorithm::Rs256 => rsa_pkcs8(&RsaKeyPair::generate(KeySize::Rsa2048)?)?,
        };
        Ok(Self {
            kid: random::<12>()?,
            pkcs8: Bytes(pkcs8),
        })
    }

    /// An RSA key in PKCS#1 (`RSA PRIVATE KEY`) under the name that it has. `None`: it is no such key.
    pub(crate) fn from_pkcs1(kid: String, der: &[u8]) -> Option<Self> {
        let pair = RsaKeyPair::from_der(der).ok()?;
        let pkcs8 = Bytes(rsa_pkcs8(&pair).ok()?);
        Some(Self { kid, pkcs8 })
    }
}

fn rsa_pkcs8(pair: &RsaKeyPair) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    let der: Pkcs8V1Der<'_> = pair.as_der()?;
    Ok(Zeroizing::new(der.as_ref().to_vec()))
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(STANDARD.encode(&*self.0));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(&text);
        text.zeroize();
        // The error of the decoder quotes what it has read.
        let bytes = bytes.map_err(|_| serde::de::Error::custom("no base64"))?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

/// One set for all tests: making RSA keys takes long without optimisation.
#[cfg(test)]
pub(crate) fn fixture() -> &'static KeySet {
    static SET: std::sync::LazyLock<KeySet> =
        std::sync::LazyLock::new(|| KeySet::new(&Keys::generate(None, 0).unwrap()).unwrap());
    &SET
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kids(rotation: &Rotation) -> (Option<&str>, &str, &str) {
        (
            rotation.previous.as_ref().map(|key| key.kid.as_str()),
            &rotation.current.kid,
            &rotation.next.kid,
        )
    }

    #[test]
    fn keys_are_published_before_and_after_they_sign() {
        let first = StoredKey::generate(Algorithm::Es256).unwrap();
        let mut keys = Rotation::new(first, Algorithm::Es256, 1000).unwrap();
        let tend = |keys: &mut Rotation, now| keys.tend(Algorithm::Es256, now).unwrap();
        let (none, first, second) = {
            let (none, first, second) = kids(&keys);
            (none.is_none(), first.to_owned(), second.to_owned())
        };
        assert!(none && first != second);
        tend(&mut keys, 1000 + SIGNS - 1);
        assert_eq!(kids(&keys), (None, &*first, &*second));
        tend(&mut keys, 1000 + SIGNS);
        let (previous, current, third) = kids(&keys);
        assert_eq!((previous, current), (Some(&*first), &*second));
        assert!(third != first && third != second);
        tend(&mut keys, 1000 + SIGNS + LINGERS - 1);
        assert!(kids(&keys).0.is_some());
        tend(&mut keys, 1000 + SIGNS + LINGERS);
        assert!(kids(&keys).0.is_none());
    }

    #[test]
    fn what_is_written_is_read_and_nothing_shows() {
        let keys = Keys::generate(None, 1000).unwrap();
        let text = serde_json::to_string(&keys).unwrap();
        let again: Keys = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
        let shown = format!("{keys:?}");
        assert!(!shown.contains(&STANDARD.encode(&*keys.seal.0)), "{shown}");
        let broken = text.replace(&STANDARD.encode(&*keys.seal.0), "c2VjcmV0!");
        let error = serde_json::from_str::<Keys>(&broken).unwrap_err().to_string();
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
}
