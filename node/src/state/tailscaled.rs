//! Taking over the identity of a Go node (`ipn/store.go`, `types/persist`).

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{HandOver, NodeState, StateError};
use crate::key::{MachinePrivate, NodePrivate};

/// The file in a state directory of `tailscaled` or `tsnet`: a JSON object of base64 values.
pub(super) const KEY: &str = "tailscaled.state";

/// `ipn.Prefs` as far as it is about identity.
#[derive(Default, Deserialize)]
struct Profile {
    #[serde(rename = "Hostname", default)]
    hostname: String,
    #[serde(rename = "Config")]
    persist: Option<Persist>,
}

#[derive(Deserialize)]
struct Persist {
    #[serde(rename = "PrivateNodeKey")]
    node_key: NodePrivate,
}

/// Machine key, and node key and name of the current profile. A machine that has not logged in yet gets a new node key.
pub(super) fn take_over(bytes: &[u8]) -> Result<NodeState, StateError> {
    let values: BTreeMap<String, String> =
        serde_json::from_slice(bytes).map_err(|_| invalid("it is no JSON object of texts"))?;
    let value = |key: &str| -> Result<Option<String>, StateError> {
        let Some(encoded) = values.get(key) else {
            return Ok(None);
        };
        let decoded = STANDARD.decode(encoded).ok();
        let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        text.map(Some)
            .ok_or_else(|| invalid(&format!("{key} is no base64 text")))
    };
    let machine_key = value("_machinekey")?
        .and_then(|text| text.parse::<MachinePrivate>().ok())
        .ok_or_else(|| invalid("_machinekey is not there or no key"))?;
    let profile = match value("_current-profile")? {
        Some(name) => value(&name)?,
        None => None,
    };
    let profile = match profile {
        Some(text) => serde_json::from_str::<Profile>(&text)
            .map_err(|_| invalid("the current profile makes no sense"))?,
        None => Profile::default(),
    };
    let login = profile.persist.map(|persist| persist.node_key);
    // A zero key stands for a login that has ended.
    let login = login.filter(|key| key.expose_bytes() != &[0; 32]);
    let fresh = NodeState::generate().map_err(|error| StateError::Io {
        action: "generate",
        what: "a new node key".to_owned(),
        source: error.into(),
    })?;
    tracing::info!(
        logged_in = login.is_some(),
        "Taking over the identity of a Go node"
    );
    Ok(NodeState {
        format: NodeState::FORMAT,
        machine_key,
        registered: login.is_some(),
        hostname: Some(profile.hostname)
            .filter(|name| !name.is_empty())
            .or_else(machine_name),
        node_key: login.unwrap_or(fresh.node_key),
        hand_over: HandOver::default(),
    })
}

/// What Go asks for where no name is set (`hostinfo.New`).
fn machine_name() -> Option<String> {
    let system = rustix::system::uname();
    let label = system.nodename().to_str().ok()?.split('.').next()?;
    (!label.is_empty()).then(|| label.to_owned())
}

fn invalid(reason: &str) -> StateError {
    StateError::Invalid {
        what: KEY.to_owned(),
        reason: format!("{reason}; remove it to start as a new node"),
    }
}
