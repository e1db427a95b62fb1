//! Tailscale's API v2: access tokens, auth keys, devices, Services.

mod services;

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use super::{
    DeviceRef, Error, MintedKey, SecretText,
    https::{Body, Https},
};

/// A token is renewed when it has less than this to live.
const TOKEN_MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// An auth key that no proxy has used within a day is minted anew.
const KEY_SECONDS: u32 = 86_400;

pub struct V2 {
    https: Https,
    client_id: SecretText,
    client_secret: SecretText,
    token: Mutex<Option<(SecretText, Timestamp)>>,
    /// Services could be listed then.
    services: Mutex<Option<Timestamp>>,
    clock: fn() -> Timestamp,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    #[serde(default)]
    expires_in: i64,
}

#[derive(Deserialize)]
struct Key {
    id: String,
    key: String,
}

#[derive(Deserialize)]
struct Devices {
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    node_id: String,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl V2 {
    pub(super) fn new(
        https: Https,
        client_id: SecretText,
        client_secret: SecretText,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self {
            https,
            client_id,
            client_secret,
            token: Mutex::default(),
            services: Mutex::default(),
            clock,
        }
    }

    pub(super) async fn probe(&self) -> Result<(), Error> {
        self.token().await.map(drop)
    }

    pub(super) async fn mint(&self, tags: &[String], description: &str) -> Result<MintedKey, Error> {
        let body = json!({
            "capabilities": {"devices": {"create": {
                // Not ephemeral: control forgets such a node during an outage, and its name with it.
                "reusable": false, "ephemeral": false, "preauthorized": true, "tags": tags,
            }}},
            "expirySeconds": KEY_SECONDS,
            "description": description,
        });
        let token = self.token().await?;
        let path = "/api/v2/tailnet/-/keys";
        let answer = self
            .https
            .ask(
                "make an auth key",
                Method::POST,
                path,
                Some(&token),
                Body::Json(&body),
            )
            .await?;
        let Key { id, key } = answer.json()?;
        Ok(MintedKey {
            id,
            key: SecretText::new(&key),
        })
    }

    pub(super) async fn revoke(&self, key_id: &str) -> Result<(), Error> {
        let path = format!("/api/v2/tailnet/-/keys/{}", escape(key_id));
        self.delete_path("revoke an auth key", &path).await
    }

    pub(super) async fn delete(&self, device: &DeviceRef) -> Result<(), Error> {
        let ids = match &device.id {
            Some(id) => match self.get(id).await? {
                // The identifier comes from a proxy; it must not be able to name somebody else's machine.
                Some(found) if found.hostname != device.hostname => {
                    let (id, found, expected) = (id.clone(), found.hostname, device.hostname.clone());
                    return Err(Error::OtherDevice { id, found, expected });
                }
                Some(_) => vec![id.clone()],
                None => Vec::new(),
            },
            None => self.find(device).await?,
        };
        for id in ids {
            self.delete_path("delete a device", &format!("/api/v2/device/{}", escape(&id)))
                .await?;
        }
        Ok(())
    }

    async fn get(&self, id: &str) -> Result<Option<Device>, Error> {
        let token = self.token().await?;
        let path = format!("/api/v2/device/{}", escape(id));
        match self
            .https
            .ask("get a device", Method::GET, &path, Some(&token), Body::None)
            .await
        {
            Ok(answer) => answer.json().map(Some),
            Err(Error::Failed { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Devices of the name with all of the tags. Without tags a name alone would not tell ours from others.
    async fn find(&self, device: &DeviceRef) -> Result<Vec<String>, Error> {
        if device.tags.is_empty() {
            return Ok(Vec::new());
        }
        let token = self.token().await?;
        let path = "/api/v2/tailnet/-/devices";
        let answer = self
            .https
            .ask("list devices", Method::GET, path, Some(&token), Body::None)
            .await?;
        let Devices { devices } = answer.json()?;
        Ok(devices
            .into_iter()
            .filter(|found| found.hostname == device.hostname)
            .filter(|found| {
                device
                    .tags
                    .iter()
                    .all(|tag| found.tags.iter().flatten().any(|t| t == tag))
            })
            .map(|found| found.node_id)
            .collect())
    }

    async fn delete_path(&self, what: &'static str, path: &str) -> Result<(), Error> {
        let token = self.token().await?;
        match self
            .https
            .ask(what, Method::DELETE, path, Some(&token), Body::None)
            .await
        {
            Ok(_) | Err(Error::Failed { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn token(&self) -> Result<SecretText, Error> {
        let mut token = self.token.lock().await;
        let now = (self.clock)();
        if let Some((text, until)) = &*token
            && now < *until
        {
            return Ok(text.clone());
        }
        let form = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            escape(self.client_id.expose()),
            escape(self.client_secret.expose())
        );
        let path = "/api/v2/oauth/token";
        let answer = self
            .https
            .ask("get an access token", Method::POST, path, None, Body::Form(form))
            .await?;
        let Token {
            access_token,
            expires_in,
        } = answer.json()?;
        let text = SecretText::new(&access_token);
        let lives = SignedDuration::from_secs(expires_in.clamp(0, 86_400)) - TOKEN_MARGIN;
        *token = Some((text.clone(), now + lives));
        Ok(text)
    }
}

/// Percent-encodes everything but unreserved characters (RFC 3986, section 2.3).
fn escape(text: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut escaped, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                escaped.push(char::from(byte));
            } else {
                escaped.push_str(&format!("%{byte:02X}"));
            }
            escaped
        })
}
