use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use super::{Hostinfo, lax};
use crate::{control::AuthKey, key::NodePublic, netmap::UserId};

/// Logs in, out, or says that the node key is still in use.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegisterRequest {
    /// Capability version.
    pub version: u16,
    /// The key to be registered.
    pub node_key: NodePublic,
    /// The key that it replaces; all zeros: none.
    pub old_node_key: NodePublic,
    /// The tailnet-lock key, `nlpub:` and 64 hex digits. Go always names one.
    #[serde(rename = "NLKey")]
    pub nl_key: String,
    /// How we prove who we are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<RegisterAuth>,
    /// `None`: as the server decides. A time long past logs out.
    #[serde(serialize_with = "go_time")]
    pub expiry: Option<Timestamp>,
    /// The URL of an earlier answer: wait until somebody has logged in there. Else empty.
    pub followup: String,
    /// What we say about ourselves.
    pub hostinfo: Hostinfo,
    /// Remove the node when it goes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

/// A proof of who we are.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegisterAuth {
    /// The pre-authentication key.
    #[serde(serialize_with = "auth_key")]
    pub auth_key: AuthKey,
}

fn auth_key<S: Serializer>(key: &AuthKey, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(key.expose())
}

fn go_time<S: Serializer>(time: &Option<Timestamp>, s: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => s.collect_str(time),
        None => s.serialize_str("0001-01-01T00:00:00Z"),
    }
}

/// The answer. It is read in the order of its fields here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegisterResponse {
    /// Refused; why.
    #[serde(deserialize_with = "lax::or_default")]
    pub error: String,
    /// Tailnet lock: base64 of the signature of the old key.
    #[serde(deserialize_with = "lax::base64")]
    pub node_key_signature: Vec<u8>,
    /// Another node key is needed.
    #[serde(deserialize_with = "lax::or_default")]
    pub node_key_expired: bool,
    /// Somebody must log in at this URL.
    #[serde(rename = "AuthURL", deserialize_with = "lax::or_default")]
    pub auth_url: String,
    /// Device approval has been given.
    #[serde(deserialize_with = "lax::or_default")]
    pub machine_authorized: bool,
    /// Who owns the node.
    #[serde(deserialize_with = "lax::or_default")]
    pub user: User,
    /// How the owner logged in.
    #[serde(deserialize_with = "lax::or_default")]
    pub login: Login,
}

/// The owner of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct User {
    /// The number.
    #[serde(rename = "ID", deserialize_with = "lax::or_default")]
    pub id: UserId,
    /// For people.
    #[serde(deserialize_with = "lax::or_default")]
    pub display_name: String,
}

/// An account of the owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Login {
    /// For example `alice@example.com`.
    #[serde(deserialize_with = "lax::or_default")]
    pub login_name: String,
}
