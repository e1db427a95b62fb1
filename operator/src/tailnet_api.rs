//! The management API of a coordination server: auth keys and devices.
//!
//! Which API there is follows from the credentials: an OAuth client speaks Tailscale's API v2, a Headscale
//! API key Headscale's `/api/v1`; an auth key alone has none.

mod definition;
mod headscale;
mod https;
mod v2;

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use parking_lot::Mutex;
use postern_crds::Tailnet;
use zeroize::Zeroizing;

pub use definition::Definition;
pub use https::HttpsError;

/// Key of a credentials Secret with the OAuth client's ID.
pub const CLIENT_ID: &str = "client_id";
/// Key of a credentials Secret with the OAuth client's secret.
pub const CLIENT_SECRET: &str = "client_secret";
/// Key of a credentials Secret with a reusable auth key.
pub const AUTH_KEY: &str = "authkey";
/// Key of a credentials Secret with Headscale's API key.
pub const API_KEY: &str = "apikey";

/// A call to a management API that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be reached.
    #[error("{0}")]
    Unreachable(#[from] HttpsError),
    /// The credentials are wrong, or not allowed to do it.
    #[error("{what}: the API refused the credentials ({status}): {message}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// HTTP status.
        status: u16,
        /// The API's words.
        message: String,
    },
    /// Any other answer.
    #[error("{what}: the API answered {status}: {message}")]
    Failed {
        /// What was asked.
        what: &'static str,
        /// HTTP status.
        status: u16,
        /// The API's words.
        message: String,
    },
    /// An answer that can't be understood.
    #[error("{what}: the API's answer is not what it should be")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The device of the recorded identifier is not ours.
    #[error("device {id} is called {found}, not {expected}: it is left alone")]
    OtherDevice {
        /// The identifier.
        id: String,
        /// Its host name.
        found: String,
        /// The name that it should have.
        expected: String,
    },
}

/// A secret text. Its `Debug` prints nothing.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Reads a key of a Secret; `None` when it is empty or no text.
    pub fn of(secret: &Secret, key: &str) -> Option<Self> {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        let text = std::str::from_utf8(bytes).ok()?.trim();
        (!text.is_empty()).then(|| Self::new(text))
    }

    /// Wraps a text.
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A key that was minted.
#[derive(Debug)]
pub struct MintedKey {
    /// The API's identifier, to revoke it.
    pub id: String,
    /// The key.
    pub key: SecretText,
}

/// How a device is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRef {
    /// The API's identifier, when it was ever known.
    pub id: Option<String>,
    /// Its host name.
    pub hostname: String,
    /// Its tags.
    pub tags: Vec<String>,
}

/// A Tailnet's management API.
#[derive(Clone)]
pub enum Api {
    /// Tailscale's API v2.
    V2(Arc<v2::V2>),
    /// Headscale's API v1.
    Headscale(Arc<headscale::Headscale>),
    /// None.
    None,
}

impl Api {
    /// Tries the credentials.
    ///
    /// # Errors
    /// When they are refused or the API can't be reached.
    pub async fn probe(&self) -> Result<(), Error> {
        match self {
            Self::V2(api) => api.probe().await,
            Self::Headscale(api) => api.probe().await,
            Self::None => Ok(()),
        }
    }

    /// Mints a single-use, preauthorized key; `None` where keys aren't made by an API.
    ///
    /// # Errors
    /// When the API doesn't.
    pub async fn mint(&self, tags: &[String], description: &str) -> Result<Option<MintedKey>, Error> {
        match self {
            Self::V2(api) => api.mint(tags, description).await.map(Some),
            Self::Headscale(_) | Self::None => Ok(None),
        }
    }

    /// Deletes a device; one that is gone already is a success. Returns whether anybody could do it.
    ///
    /// # Errors
    /// When the API doesn't.
    pub async fn delete(&self, device: &DeviceRef) -> Result<bool, Error> {
        match self {
            Self::V2(api) => api.delete(device).await.map(|()| true),
            Self::Headscale(api) => api.delete(device).await.map(|()| true),
            Self::None => Ok(false),
        }
    }

    /// Whether this kind of API has Services.
    pub fn has_services(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Whether Services can be defined with these credentials, on this server.
    ///
    /// # Errors
    /// When the API can't be asked, or refuses it.
    pub async fn probe_services(&self) -> Result<bool, Error> {
        match self {
            Self::V2(api) => api.probe_services().await,
            Self::Headscale(_) | Self::None => Ok(false),
        }
    }

    /// The definition of a Service, such as `svc:db`, if there is one.
    ///
    /// # Errors
    /// When the API can't be asked.
    pub async fn definition(&self, service: &str) -> Result<Option<Definition>, Error> {
        match self {
            Self::V2(api) => api.definition(service).await,
            Self::Headscale(_) | Self::None => Ok(None),
        }
    }

    /// Makes a definition or replaces it, and returns it with its addresses; `None` where nobody can.
    ///
    /// # Errors
    /// When the API doesn't.
    pub async fn define(&self, definition: &Definition) -> Result<Option<Definition>, Error> {
        match self {
            Self::V2(api) => api.define(definition).await.map(Some),
            Self::Headscale(_) | Self::None => Ok(None),
        }
    }

    /// Deletes a definition; one that is gone already is a success.
    ///
    /// # Errors
    /// When the API doesn't.
    pub async fn undefine(&self, service: &str) -> Result<(), Error> {
        match self {
            Self::V2(api) => api.undefine(service).await,
            Self::Headscale(_) | Self::None => Ok(()),
        }
    }

    /// Revokes a key; one that is gone already is a success.
    ///
    /// # Errors
    /// When the API doesn't.
    pub async fn revoke(&self, key_id: &str) -> Result<(), Error> {
        match self {
            Self::V2(api) => api.revoke(key_id).await,
            Self::Headscale(_) | Self::None => Ok(()),
        }
    }
}

/// The APIs in use, kept for their access tokens.
#[derive(Default)]
pub struct Connections(Mutex<HashMap<String, (String, Api)>>);

impl Connections {
    /// The API of a Tailnet by the operator's copy of its credentials. A change of either makes it anew, so
    /// a rotation takes effect without a restart.
    pub fn api(&self, name: &str, tailnet: &Tailnet, credentials: &Secret) -> Api {
        let version = format!(
            "{}/{}",
            tailnet.metadata.generation.unwrap_or_default(),
            credentials
                .metadata
                .resource_version
                .as_deref()
                .unwrap_or_default()
        );
        let mut all = self.0.lock();
        match all.get(name) {
            Some((known, api)) if *known == version => api.clone(),
            _ => {
                let api = connect(tailnet, credentials);
                all.insert(name.to_owned(), (version, api.clone()));
                api
            }
        }
    }
}

fn connect(tailnet: &Tailnet, credentials: &Secret) -> Api {
    let spec = &tailnet.spec;
    let base = spec
        .api_url
        .clone()
        .unwrap_or_else(|| default_base(&spec.login_server));
    let https = https::Https::new(base.trim_end_matches('/'), spec.ca_bundle.as_deref());
    let text = |key| SecretText::of(credentials, key);
    if let (Some(id), Some(secret)) = (text(CLIENT_ID), text(CLIENT_SECRET)) {
        Api::V2(Arc::new(v2::V2::new(https, id, secret, Timestamp::now)))
    } else if let Some(key) = text(API_KEY) {
        Api::Headscale(Arc::new(headscale::Headscale::new(https, key)))
    } else {
        Api::None
    }
}

/// Tailscale's own API isn't where its coordination server is; others' are.
fn default_base(login_server: &str) -> String {
    let server = login_server.trim_end_matches('/');
    if server == "https://controlplane.tailscale.com" {
        "https://api.tailscale.com".into()
    } else {
        server.to_owned()
    }
}

#[cfg(test)]
mod tests;
