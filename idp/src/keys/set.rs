//! The keys of a document, ready for use: signing, verifying, JWKS, sealing.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    error::Unspecified,
    hkdf, hmac,
    rand::SystemRandom,
    rsa::KeyPair as RsaKeyPair,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Algorithm, Keys, Rotation, StoredKey};

/// See the module.
pub(crate) struct KeySet {
    /// Of each algorithm the current one first.
    signing: Vec<SigningKey>,
    seal: hkdf::Prk,
    mac: hmac::Key,
}

/// A key that signs or has signed.
pub(crate) struct SigningKey {
    kid: String,
    pair: Pair,
}

enum Pair {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

/// What something is sealed for: what was sealed for one purpose is nothing for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An authorization code.
    Code,
    /// What a user is asked to consent to.
    Consent,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Code => b"postern idp code 1",
            Self::Consent => b"postern idp consent 1",
        }
    }
}

impl KeySet {
    /// Parses the document's keys.
    pub(crate) fn new(keys: &Keys) -> Result<Self, Unspecified> {
        let mut signing = Vec::new();
        for (algorithm, rotation) in [(Algorithm::Es256, &keys.es256), (Algorithm::Rs256, &keys.rs256)] {
            let Rotation {
                previous,
                current,
                next,
                since: _,
            } = rotation;
            for key in [Some(current), Some(next), previous.as_ref()]
                .into_iter()
                .flatten()
            {
                signing.push(SigningKey::new(algorithm, key)?);
            }
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"postern idp");
        let seal = salt.extract(&keys.seal.0);
        let mut mac = Zeroizing::new([0; 32]);
        seal.expand(&[b"postern idp refresh 1"], hkdf::HKDF_SHA256)?
            .fill(&mut mac[..])?;
        Ok(Self {
            signing,
            seal,
            mac: hmac::Key::new(hmac::HMAC_SHA256, &mac[..]),
        })
    }

    /// The one that signs now.
    pub(crate) fn current(&self, algorithm: Algorithm) -> Result<&SigningKey, Unspecified> {
        let mut of_algorithm = self.signing.iter().filter(|key| key.algorithm() == algorithm);
        of_algorithm.next().ok_or(Unspecified)
    }

    /// The one with this name.
    pub(crate) fn named(&self, kid: &str) -> Option<&SigningKey> {
        self.signing.iter().find(|key| key.kid == kid)
    }

    /// The public keys (RFC 7517).
    pub(crate) fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.signing.iter().map(SigningKey::jwk).collect();
        json!({ "keys": keys })
    }

    /// Encrypts and authenticates: text that only [`KeySet::open`] for the same purpose reads.
    pub(crate) fn seal(&self, purpose: Purpose, content: &impl Serialize) -> Result<String, Unspecified> {
        let mut bytes = serde_json::to_vec(content).map_err(|_| Unspecified)?;
        let sealer = self.sealer(purpose)?;
        let nonce = sealer.seal_in_place_append_tag(Aad::empty(), &mut bytes)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut bytes);
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What was sealed; `None` for anything else.
    pub(crate) fn open<T: DeserializeOwned>(&self, purpose: Purpose, text: &str) -> Option<T> {
        let mut sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, content) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let sealer = self.sealer(purpose).ok()?;
        let content = sealer.open_in_place(nonce, Aad::empty(), content).ok()?;
        serde_json::from_slice(content).ok()
    }

    /// Proves that we have written this.
    pub(crate) fn mac(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.mac, text.as_bytes()))
    }

    /// Whether we have written this.
    pub(crate) fn is_mac(&self, text: &str, mac: &str) -> bool {
        let mac = URL_SAFE_NO_PAD.decode(mac);
        mac.is_ok_and(|mac| hmac::verify(&self.mac, text.as_bytes(), &mac).is_ok())
    }

    fn sealer(&self, purpose: Purpose) -> Result<RandomizedNonceKey, Unspecified> {
        let mut key = Zeroizing::new([0; 32]);
        self.seal
            .expand(&[purpose.label()], hkdf::HKDF_SHA256)?
            .fill(&mut key[..])?;
        RandomizedNonceKey::new(&AES_256_GCM, &key[..])
    }
}

impl SigningKey {
    fn new(algorithm: Algorithm, stored: &StoredKey) -> Result<Self, Unspecified> {
        let pkcs8 = &stored.pkcs8.0;
        let pair = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map(Pair::Es256)
            }
            Algorithm::Rs256 => RsaKeyPair::from_pkcs8(pkcs8).map(Pair::Rs256),
        };
        Ok(Self {
            kid: stored.kid.clone(),
            pair: pair.map_err(|_| Unspecified)?,
        })
    }

    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Es256(_) => Algorithm::Es256,
            Pair::Rs256(_) => Algorithm::Rs256,
        }
    }

    /// A signature as JWS has it (RFC 7518, sections 3.3 and 3.4).
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Es256(pair) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                Ok(signature)
            }
        }
    }

    /// Whether the signature is ours.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.pair {
            Pair::Es256(pair) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref())
                .verify(message, signature),
            Pair::Rs256(pair) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref())
                    .verify(message, signature)
            }
        };
        verified.is_ok()
    }

    /// RFC 7518, sections 6.2.1 and 6.3.1.
    fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Es256(pair) => {
                // An uncompressed point: 4, x, y.
                let point = pair.public_key().as_ref();
                let (x, y) = point.split_at_checked(33).unwrap_or((point, &[]));
                json!({
                    "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
                    "x": text(x.get(1..).unwrap_or_default()), "y": text(y),
                })
            }
            Pair::Rs256(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid,
                    "n": text(public.modulus().big_endian_without_leading_zero()),
                    "e": text(public.exponent().big_endian_without_leading_zero()),
                })
            }
        }
    }
}

/// No part of a key is shown.
impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kids: Vec<&str> = self.signing.iter().map(SigningKey::kid).collect();
        f.debug_struct("KeySet")
            .field("kids", &kids)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::fixture;

    #[test]
    fn what_is_sealed_opens_for_its_purpose_alone() {
        let set = fixture();
        let other = KeySet::new(&Keys::generate(None, 0).unwrap()).unwrap();
        let sealed = set.seal(Purpose::Code, &"content").unwrap();
        assert_eq!(
            set.open::<String>(Purpose::Code, &sealed).as_deref(),
            Some("content")
        );
        assert_eq!(set.open::<String>(Purpose::Consent, &sealed), None);
        assert_eq!(other.open::<String>(Purpose::Code, &sealed), None);
        assert_eq!(set.open::<String>(Purpose::Code, &sealed[..20]), None);
        assert_eq!(set.open::<String>(Purpose::Code, "?"), None);
        assert_ne!(set.seal(Purpose::Code, &"content").unwrap(), sealed);
        assert!(set.is_mac("a", &set.mac("a")) && !set.is_mac("b", &set.mac("a")));
        assert!(!other.is_mac("a", &set.mac("a")));
    }

    #[test]
    fn the_jwks_has_all_keys_and_no_private_one() {
        let set = fixture();
        let jwks = set.jwks();
        let keys = jwks["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 4);
        for key in keys {
            assert!(key["kid"].is_string() && key["use"] == "sig", "{key}");
            assert!(key.get("d").is_none(), "{key}");
            match key["kty"].as_str().unwrap() {
                "EC" => assert_eq!(key["x"].as_str().unwrap().len(), 43),
                "RSA" => assert_eq!(key["e"], "AQAB"),
                other => panic!("{other}"),
            }
        }
    }
}
