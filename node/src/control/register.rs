//! Logging in: which request comes next, and what an answer means (Go: `controlclient.Direct.doLogin`).
//!
//! Pure: the session sends the requests.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use jiff::Timestamp;

use super::{AuthKey, CAPABILITY_VERSION, ControlConfig};
use crate::{
    key::{NodePrivate, NodePublic},
    state::NodeState,
    tailcfg::{Hostinfo, RegisterAuth, RegisterRequest, RegisterResponse},
};

/// A login under way. It outlives connections: a repeated attempt goes on with the same key and URL.
#[derive(Debug, Clone, Default)]
pub(super) struct Login {
    /// The key that replaces the state's; `None`: the state's own is registered (again).
    pub(super) new_key: Option<NodePrivate>,
    /// Name an auth key.
    pub(super) with_auth_key: bool,
    /// That key, once it is there.
    pub(super) auth_key: Option<AuthKey>,
    /// The URL where somebody must log in.
    pub(super) followup: Option<String>,
    /// The state's key has ended.
    pub(super) renewal: bool,
}

/// What an answer asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Logged in.
    Done {
        /// Device approval has been given.
        approved: bool,
    },
    /// Try again with a new node key.
    NewKey,
    /// Try again with the auth key.
    UseAuthKey,
    /// Show the URL, then ask again until somebody has logged in there.
    Visit(String),
    /// Nothing that we can do.
    Refused(String),
}

impl Login {
    /// The first one of a process. With a stored login control is only told that the key is still in use.
    pub(super) fn first(state: &NodeState, config: &ControlConfig) -> Result<Self, getrandom::Error> {
        Ok(Self {
            new_key: match state.registered && config.force_login {
                true => Some(NodePrivate::generate()?),
                false => None,
            },
            with_auth_key: config.force_login || !state.registered,
            ..Self::default()
        })
    }

    /// One that replaces a key that has ended.
    pub(super) fn renewal() -> Result<Self, getrandom::Error> {
        Ok(Self {
            new_key: Some(NodePrivate::generate()?),
            with_auth_key: true,
            renewal: true,
            ..Self::default()
        })
    }

    /// The key to be registered.
    pub(super) fn key<'a>(&'a self, state: &'a NodeState) -> &'a NodePrivate {
        self.new_key.as_ref().unwrap_or(&state.node_key)
    }

    /// The request.
    pub(super) fn request(
        &self,
        state: &NodeState,
        config: &ControlConfig,
        nl_key: &str,
        hostinfo: Hostinfo,
    ) -> RegisterRequest {
        let replaces = self.new_key.is_some() && state.registered;
        let auth_key = self.auth_key.as_ref().filter(|_| self.with_auth_key);
        RegisterRequest {
            version: CAPABILITY_VERSION,
            node_key: self.key(state).public(),
            old_node_key: if replaces {
                state.node_key.public()
            } else {
                NodePublic::from_bytes([0; 32])
            },
            nl_key: nl_key.to_owned(),
            auth: auth_key.map(|key| RegisterAuth { auth_key: plain(key) }),
            expiry: None,
            followup: self.followup.clone().unwrap_or_default(),
            hostinfo,
            ephemeral: config.ephemeral,
        }
    }

    /// The meaning of an answer with status 200.
    pub(super) fn next(&self, answer: RegisterResponse, has_credential: bool) -> Next {
        if !answer.error.is_empty() {
            Next::Refused(answer.error)
        } else if !answer.node_key_signature.is_empty() {
            let reason =
                "the tailnet is locked, which is not supported: sign the node or disable tailnet lock";
            Next::Refused(reason.to_owned())
        } else if answer.node_key_expired && self.new_key.is_some() {
            Next::Refused("control says that a new node key has ended".to_owned())
        } else if answer.node_key_expired {
            Next::NewKey
        } else if answer.auth_url.is_empty() {
            Next::Done {
                approved: answer.machine_authorized,
            }
        } else if has_credential && !self.with_auth_key {
            // Control has forgotten the login that the state holds.
            Next::UseAuthKey
        } else {
            Next::Visit(answer.auth_url)
        }
    }
}

/// The key without what only concerns tailnet lock.
fn plain(key: &AuthKey) -> AuthKey {
    match key.expose().split_once("--TL") {
        Some((plain, _)) => AuthKey::new(plain),
        None => key.clone(),
    }
}

/// Ends the node key.
pub(super) fn logout(state: &NodeState, nl_key: &str, hostinfo: Hostinfo) -> RegisterRequest {
    RegisterRequest {
        version: CAPABILITY_VERSION,
        node_key: state.node_key.public(),
        old_node_key: NodePublic::from_bytes([0; 32]),
        nl_key: nl_key.to_owned(),
        auth: None,
        // Go's choice of a time long past.
        expiry: Timestamp::from_second(123).ok(),
        followup: String::new(),
        hostinfo,
        ephemeral: false,
    }
}

/// Whether only somebody's action changes the answer. headscale refuses auth keys by 401 and a text.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT
}

/// How long a 429 asks us to wait; without a sensible time, 5 to 10 s.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime, random: f64) -> Duration {
    headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| seconds(text).or_else(|| until(text, now)))
        .filter(|wait| (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(wait))
        .unwrap_or_else(|| Duration::from_secs_f64(5.0 + 5.0 * random.clamp(0.0, 1.0)))
}

fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

fn until(text: &str, now: SystemTime) -> Option<Duration> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()?;
    SystemTime::from(date).duration_since(now).ok()
}

#[cfg(test)]
mod tests;
