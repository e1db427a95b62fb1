//! Which live replica owns which device name, and the link between replicas (design: high availability).
//!
//! The group's leader writes the assignment; every replica reads it. A replica gives a name up only when
//! it reads that another owns it.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// The key of the ConfigMap under which the JSON stands.
pub const ASSIGNMENT_KEY: &str = "assignment.json";

/// The TCP and UDP port of the replica link.
pub const REPLICA_LINK_PORT: u16 = 9444;

/// The key of the group's Secret with the 32 bytes that authenticate the replica link.
pub const REPLICA_LINK_SECRET_KEY: &str = "replica-link.key";

/// Names and their owners.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// By the key of [`crate::group::Shard::names`].
    #[serde(default)]
    pub names: BTreeMap<String, Owned>,
    /// Where each live replica's link listens.
    #[serde(default)]
    pub replicas: BTreeMap<String, SocketAddr>,
}

/// A name's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owned {
    /// The pod.
    pub replica: String,
    /// Grows with every change of owner.
    pub epoch: u64,
    /// Revisions of Secrets that were renewed without the operator: certificates by name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate_revision: String,
}
