//! Taking over from tsidp: its signing key and its clients, so that applications notice nothing.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use rustls_pki_types::{PrivatePkcs1KeyDer, pem::PemObject as _};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    client::{Client, ClientSecret, Kind, Origin},
    keys::{Algorithm, StoredKey},
    secret::{Hash, Secret},
};

/// What tsidp leaves in its directory.
#[derive(Debug, Default)]
pub struct Tsidp {
    pub(crate) key: Option<StoredKey>,
    pub(crate) clients: BTreeMap<String, Client>,
}

/// A file of tsidp's makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{file} of tsidp makes no sense: {reason}; correct it, or remove it to start without")]
pub struct ImportError {
    file: &'static str,
    reason: &'static str,
}

impl Tsidp {
    /// Where its signing key is.
    pub const KEY_FILE: &str = "oidc-key.json";
    /// Where its clients are: the usual file, and the one of releases that refused unregistered clients.
    pub const CLIENT_FILES: [&str; 2] = ["oidc-funnel-clients.json", "oauth-clients.json"];

    /// Adds the content of [`Tsidp::KEY_FILE`].
    ///
    /// # Errors
    /// When it isn't what tsidp writes. It goes on with a new key then; we don't, since all clients would have to
    /// learn that.
    pub fn add_key(&mut self, json: &[u8]) -> Result<(), ImportError> {
        /// Releases since 2025 write PEM, and before that base64 of PEM.
        #[derive(Deserialize)]
        struct File {
            #[serde(alias = "Key")]
            key: Secret,
            #[serde(alias = "ID")]
            kid: u64,
        }
        let wrong = |reason| ImportError {
            file: Self::KEY_FILE,
            reason,
        };
        let File { key, kid } = serde_json::from_slice(json).map_err(|_| wrong("it has no key and kid"))?;
        let pem = match URL_SAFE.decode(key.expose()) {
            Ok(pem) => Zeroizing::new(pem),
            Err(_) => Zeroizing::new(key.expose().as_bytes().to_vec()),
        };
        let der = PrivatePkcs1KeyDer::from_pem_slice(&pem)
            .map_err(|_| wrong("the key is no RSA PRIVATE KEY in PEM"))?;
        let key = StoredKey::from_pkcs1(kid.to_string(), der.secret_pkcs1_der());
        self.key = Some(key.ok_or_else(|| wrong("the key can't be used"))?);
        Ok(())
    }

    /// Adds the content of one of [`Tsidp::CLIENT_FILES`]. Secrets are taken as hashes.
    ///
    /// # Errors
    /// When it isn't what tsidp writes.
    pub fn add_clients(&mut self, json: &[u8]) -> Result<(), ImportError> {
        #[derive(Deserialize)]
        struct Entry {
            client_id: Option<String>,
            client_secret: Option<Secret>,
            #[serde(alias = "name")]
            client_name: Option<String>,
            redirect_uris: Option<Vec<String>>,
            redirect_uri: Option<String>,
            token_endpoint_auth_method: Option<String>,
            #[serde(default)]
            dynamically_registered: bool,
        }
        let wrong = |reason| ImportError {
            file: Self::CLIENT_FILES[0],
            reason,
        };
        let entries: Option<BTreeMap<String, Entry>> =
            serde_json::from_slice(json).map_err(|_| wrong("it is no object of clients"))?;
        for (key, entry) in entries.unwrap_or_default() {
            let id = entry.client_id.unwrap_or(key);
            if id.is_empty()
                || !id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
            {
                return Err(wrong("a client_id has characters that can't be in a URL"));
            }
            let mut redirect_uris = entry.redirect_uris.unwrap_or_default();
            if redirect_uris.is_empty() {
                redirect_uris.extend(entry.redirect_uri.filter(|uri| !uri.is_empty()));
            }
            let secret = entry.client_secret.filter(|secret| !secret.expose().is_empty());
            let kind = match (entry.token_endpoint_auth_method.as_deref(), &secret) {
                (Some("none"), _) => Kind::Public,
                _ => Kind::Confidential,
            };
            let client = Client {
                name: entry.client_name.unwrap_or_default(),
                redirect_uris,
                kind,
                secrets: secret
                    .iter()
                    .map(|secret| ClientSecret {
                        hash: Hash::of(secret.expose()),
                        expires: None,
                    })
                    .collect(),
                // What they have seen until now.
                signing: Algorithm::Rs256,
                origin: match entry.dynamically_registered {
                    true => Origin::Dynamic,
                    false => Origin::Imported,
                },
                ..Client::default()
            };
            self.clients.insert(id, client);
        }
        Ok(())
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_taken_over_with_hashed_secrets() {
        let mut tsidp = Tsidp::default();
        let json = r#"{
            "aa": {"client_id":"aa","client_secret":"s1","client_name":"Grafana","redirect_uris":["https://g/cb","https://h/cb"],
                   "created_at":"2025-01-02T03:04:05Z","redirect_uri":"https://g/cb"},
            "bb": {"client_id":"bb","client_secret":"s2","name":"Old","redirect_uri":"http://old.lan/cb"},
            "cc": {"client_id":"cc","client_secret":"s3","token_endpoint_auth_method":"none","redirect_uris":["http://localhost/cb"],
                   "dynamically_registered":true}
        }"#;
        tsidp.add_clients(json.as_bytes()).unwrap();
        assert_eq!(tsidp.clients(), 3);
        let (a, b, c) = (&tsidp.clients["aa"], &tsidp.clients["bb"], &tsidp.clients["cc"]);
        assert!(a.has_secret("s1", 0) && !a.has_secret("s2", 0));
        assert_eq!(
            (a.name.as_str(), a.redirect_uris.len(), a.signing),
            ("Grafana", 2, Algorithm::Rs256)
        );
        assert_eq!(
            (b.name.as_str(), &b.redirect_uris[..]),
            ("Old", &["http://old.lan/cb".to_owned()][..])
        );
        assert!(b.redirects_to("http://old.lan/cb"));
        assert_eq!((c.kind, c.origin), (Kind::Public, Origin::Dynamic));
        let shown = serde_json::to_string(&a).unwrap();
        assert!(!shown.contains("s1"), "{shown}");
        tsidp.add_clients(b"null").unwrap();
        for bad in ["[]", "", r#"{"a/b":{}}"#] {
            assert!(tsidp.add_clients(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_key_is_taken_over_with_its_name() {
        use aws_lc_rs::{encoding::AsDer as _, rsa};
        use base64::engine::general_purpose::STANDARD;

        // Go writes PKCS#1; inside of PKCS#8 it stands as the last value of three.
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pkcs1 = &pkcs8.as_ref()[26..];
        let body = STANDARD.encode(pkcs1);
        let lines: Vec<&str> = body
            .as_bytes()
            .chunks(64)
            .map(|l| std::str::from_utf8(l).unwrap())
            .collect();
        let pem = format!(
            "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n",
            lines.join("\n")
        );
        for json in [
            serde_json::json!({"kid": 12_345_678_901_234_567_890_u64, "key": pem}),
            serde_json::json!({"ID": 12_345_678_901_234_567_890_u64, "Key": URL_SAFE.encode(&pem)}),
        ] {
            let mut tsidp = Tsidp::default();
            tsidp.add_key(json.to_string().as_bytes()).unwrap();
            let keys = crate::keys::Keys::generate(tsidp.key, 0).unwrap();
            let set = crate::keys::KeySet::new(&keys).unwrap();
            assert_eq!(
                set.current(Algorithm::Rs256).unwrap().kid(),
                "12345678901234567890"
            );
        }
        for bad in ["{}", r#"{"kid":1,"key":"x"}"#, ""] {
            let error = Tsidp::default().add_key(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("oidc-key.json"), "{error}");
        }
    }
}
