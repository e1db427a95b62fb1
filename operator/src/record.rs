//! The record of a device: the Secret that holds its node's state, and what its labels and annotations say.
//!
//! It is made before the device and goes after it, so that no device can be forgotten, whatever happens to
//! the object that asked for it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use postern_proxy_config::names::AUTH_KEY;

use crate::labels::{GROUP, HOSTNAME, OWNER, OWNER_UID, TAILNET, annotation, label};

/// No object wants the name any more since this time.
pub const RELEASED: &str = "postern.dev/released";
/// How many auth keys were put in; also the Secret's revision for the proxy.
pub const KEY_REVISION: &str = "postern.dev/auth-key-revision";
/// When the last was put in.
pub const KEY_TIME: &str = "postern.dev/auth-key-time";
/// The API's identifier of the last key that we minted.
pub const KEY_ID: &str = "postern.dev/auth-key-id";
/// resourceVersion of the Secret that a reusable key was copied from.
pub const KEY_SOURCE: &str = "postern.dev/auth-key-source";
/// The API's identifier of the device.
pub const NODE_ID: &str = "postern.dev/node-id";
/// Tags that the device was asked for, by comma.
pub const TAGS: &str = "postern.dev/tags";
/// Why the last step failed, for the status of the object.
pub const PROBLEM: &str = "postern.dev/problem";

/// The key of a node's Secret with its state, written by the proxy.
pub const STATE: &str = "state";

/// What is recorded about a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The Secret's name.
    pub secret: String,
    /// The ProxyGroup.
    pub group: String,
    /// The Tailnet.
    pub tailnet: String,
    /// The device name.
    pub hostname: String,
    /// UID of the object that asked for it.
    pub owner_uid: String,
    /// That object, for people.
    pub owner: String,
    /// See [`RELEASED`].
    pub released: Option<Timestamp>,
    /// See [`KEY_REVISION`].
    pub key_revision: u32,
    /// See [`KEY_TIME`].
    pub key_time: Option<Timestamp>,
    /// See [`KEY_ID`].
    pub key_id: Option<String>,
    /// See [`KEY_SOURCE`].
    pub key_source: Option<String>,
    /// See [`NODE_ID`].
    pub node_id: Option<String>,
    /// See [`TAGS`].
    pub tags: Vec<String>,
    /// See [`PROBLEM`].
    pub problem: Option<String>,
    /// An auth key lies in it.
    pub has_key: bool,
    /// The proxy has written its state.
    pub has_state: bool,
}

impl Record {
    /// Reads a Secret; `None` when it isn't a record.
    pub fn of(secret: &Secret) -> Option<Self> {
        let text = |key| {
            annotation(secret, key)
                .filter(|v| !v.is_empty())
                .map(str::to_owned)
        };
        let time = |key| annotation(secret, key).and_then(|v| v.parse().ok());
        let filled = |key| {
            secret
                .data
                .as_ref()
                .and_then(|d| d.get(key))
                .is_some_and(|v| !v.0.is_empty())
        };
        Some(Self {
            secret: secret.metadata.name.clone()?,
            group: label(secret, GROUP)?.to_owned(),
            tailnet: label(secret, TAILNET).unwrap_or_default().to_owned(),
            hostname: label(secret, HOSTNAME)?.to_owned(),
            owner_uid: label(secret, OWNER_UID)?.to_owned(),
            owner: text(OWNER).unwrap_or_default(),
            released: time(RELEASED),
            key_revision: annotation(secret, KEY_REVISION)
                .and_then(|v| v.parse().ok())
                .unwrap_or_default(),
            key_time: time(KEY_TIME),
            key_id: text(KEY_ID),
            key_source: text(KEY_SOURCE),
            node_id: text(NODE_ID),
            tags: text(TAGS)
                .map(|t| t.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            problem: text(PROBLEM),
            has_key: filled(AUTH_KEY),
            has_state: filled(STATE),
        })
    }

    /// Whether a proxy can start a node with it.
    pub fn is_usable(&self) -> bool {
        self.released.is_none() && (self.has_key || self.has_state)
    }

    /// What the shard says as the Secret's revision.
    pub fn revision(&self) -> String {
        self.key_revision.to_string()
    }
}
