use serde::{Deserialize, Serialize};

use crate::key::{MachinePublic, NodePublic};

/// The answer of `GET /key`. The server's legacy key is of no use to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ServerKeys {
    /// The key of ts2021.
    #[serde(rename = "publicKey")]
    pub public_key: MachinePublic,
}

/// Publishes a DNS record, for an ACME challenge.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SetDnsRequest {
    /// Capability version.
    pub version: u16,
    /// Who asks.
    pub node_key: NodePublic,
    /// `_acme-challenge.NAME`, without trailing dot.
    pub name: String,
    /// `TXT`.
    pub r#type: &'static str,
    /// The record's value.
    pub value: String,
}
