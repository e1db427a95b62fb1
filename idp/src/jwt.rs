//! JSON Web Tokens (RFC 7519): we sign, and verify what we have signed ourselves; nothing else is ever read.
//! So there is no choice of algorithm by whoever sends a token: the key's own is the only one.

use aws_lc_rs::error::Unspecified;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::keys::{Algorithm, KeySet, SigningKey};

/// What kind of token; one is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// An ID token.
    #[serde(rename = "JWT")]
    Id,
    /// An access token (RFC 9068, section 2.1).
    #[serde(rename = "at+jwt")]
    Access,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    alg: Algorithm,
    typ: Kind,
    kid: &'a str,
}

/// Longer ones are not ours.
const LONGEST: usize = 16 * 1024;

/// A signed token in compact form.
pub(crate) fn sign(key: &SigningKey, typ: Kind, claims: &impl Serialize) -> Result<String, Unspecified> {
    let header = Header {
        alg: key.algorithm(),
        typ,
        kid: key.kid(),
    };
    let part = |bytes: Result<Vec<u8>, serde_json::Error>| {
        bytes
            .map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
            .map_err(|_| Unspecified)
    };
    let header = part(serde_json::to_vec(&header))?;
    let claims = part(serde_json::to_vec(claims))?;
    let message = format!("{header}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes())?);
    Ok(format!("{message}.{signature}"))
}

/// The claims of a token of ours, whatever its times say. `None` for anything else.
pub(crate) fn verify<T: DeserializeOwned>(keys: &KeySet, typ: Kind, token: &str) -> Option<T> {
    if token.len() > LONGEST {
        return None;
    }
    let (message, signature) = token.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let header = URL_SAFE_NO_PAD.decode(header).ok()?;
    let header: Header<'_> = serde_json::from_slice(&header).ok()?;
    let key = keys.named(header.kid)?;
    if header.typ != typ || header.alg != key.algorithm() {
        return None;
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if !key.has_signed(message.as_bytes(), &signature) {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice(&claims).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::keys::{Keys, fixture};

    #[test]
    fn only_what_we_signed_is_verified() {
        let keys = fixture();
        let claims = json!({"sub": "userid:1"});
        for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
            let key = keys.current(algorithm).unwrap();
            let token = sign(key, Kind::Access, &claims).unwrap();
            assert_eq!(verify::<Value>(keys, Kind::Access, &token), Some(claims.clone()));
            assert_eq!(verify::<Value>(keys, Kind::Id, &token), None);

            let parts: Vec<&str> = token.split('.').collect();
            let header = |alg: &str| {
                let header = json!({"alg": alg, "typ": "at+jwt", "kid": key.kid()});
                URL_SAFE_NO_PAD.encode(header.to_string())
            };
            let other = URL_SAFE_NO_PAD.encode(json!({"sub": "userid:2"}).to_string());
            for forged in [
                format!("{}.{other}.{}", parts[0], parts[2]),
                format!("{}.{}.", header("none"), parts[1]),
                format!("{}.{}.{}", header("HS256"), parts[1], parts[2]),
                format!("{}.{}", parts[0], parts[1]),
                format!("{token}."),
                String::new(),
                "a".repeat(LONGEST + 1),
            ] {
                assert_eq!(verify::<Value>(keys, Kind::Access, &forged), None, "{forged}");
            }
        }
        let stranger = KeySet::new(&Keys::generate(None, 0).unwrap()).unwrap();
        let token = sign(stranger.current(Algorithm::Es256).unwrap(), Kind::Access, &claims).unwrap();
        assert_eq!(verify::<Value>(keys, Kind::Access, &token), None);
    }
}
