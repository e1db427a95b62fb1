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

/// The result of a ping that control asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PingResponse {
    /// As in the question: `disco`, `TSMP`, `ICMP` or `peerapi`.
    pub r#type: &'static str,
    /// Who was pinged.
    #[serde(rename = "IP")]
    pub ip: String,
    /// The address of the node that answered.
    #[serde(rename = "NodeIP", skip_serializing_if = "String::is_empty")]
    pub node_ip: String,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub err: String,
    /// There and back, in seconds; 0: no answer.
    #[serde(skip_serializing_if = "is_zero")]
    pub latency_seconds: f64,
    /// The address to which a direct disco ping went.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// The relay region through which a disco ping went; 0: none.
    #[serde(rename = "DERPRegionID", skip_serializing_if = "is_default")]
    pub derp_region_id: u16,
    /// Its short code.
    #[serde(rename = "DERPRegionCode", skip_serializing_if = "String::is_empty")]
    pub derp_region_code: String,
    /// Where the peer's PeerAPI listens, as it says to TSMP; 0: nowhere.
    #[serde(rename = "PeerAPIPort", skip_serializing_if = "is_default")]
    pub peer_api_port: u16,
    /// It was our own address.
    #[serde(rename = "IsLocalIP", skip_serializing_if = "std::ops::Not::not")]
    pub is_local_ip: bool,
}

fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

fn is_default(number: &u16) -> bool {
    *number == 0
}
