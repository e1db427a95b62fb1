//! What a replica tells the operator: one object per replica (ConfigMap key `report.json`), written on change only.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The key of the ConfigMap under which the JSON stands.
pub const REPORT_KEY: &str = "report.json";

/// One replica's view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// The pod.
    pub replica: String,
    /// The proxy's version.
    pub version: String,
    /// By the key of [`crate::group::Shard::names`]; the replica's own host node by its hostname too.
    #[serde(default)]
    pub names: BTreeMap<String, NameReport>,
    /// By the key of [`crate::group::Shard::services`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, ServiceReport>,
    /// Fields of the configuration that this version doesn't know, as JSON paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_fields: Vec<String>,
    /// Why the newest configuration was refused as a whole; the one before it still serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// One name on one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NameReport {
    /// UID of the owner that the applied configuration came from.
    pub owner_uid: String,
    /// The generation that is served.
    pub applied_generation: i64,
    /// The step that is reached.
    pub phase: Phase,
    /// Why it isn't serving, with the next step, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The API's identifier of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// The FQDN that control assigned, without trailing dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_name: Option<String>,
    /// Its tailnet addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// End of the served certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<Timestamp>,
    /// Why there is no (new) certificate.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate_error: String,
    /// Control offers certificates for the name.
    #[serde(default)]
    pub https_available: bool,
    /// Whether it could be on Funnel.
    #[serde(default, skip_serializing_if = "FunnelAccess::is_unknown")]
    pub funnel_access: FunnelAccess,
    /// Ports that are open to the internet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub funnel: BTreeSet<u16>,
    /// The declared clients that the identity provider knows, by ID, each with its [`crate::clients::revision`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clients: BTreeMap<String, String>,
}

/// Whether the tailnet's policy lets a name be on Funnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FunnelAccess {
    /// The node hasn't been on the tailnet, or its proxy is too old to say.
    #[default]
    Unknown,
    /// It does.
    Allowed,
    /// What it lacks, for people.
    Refused(String),
}

impl FunnelAccess {
    fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

/// One service on one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReport {
    /// UID of the owner that the applied configuration came from.
    pub owner_uid: String,
    /// The generation that is served.
    pub applied_generation: i64,
    /// The step that is reached.
    pub stage: Stage,
    /// Why it isn't serving, with the next step, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The full name, without trailing dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_name: Option<String>,
    /// Its addresses, as control told this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// End of the served certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<Timestamp>,
    /// Why there is no (new) certificate.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate_error: String,
}

/// The steps of a service on one host, in their order: each needs those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// The host's node isn't on the tailnet.
    #[default]
    Connecting,
    /// Control knows that this host would serve it.
    Offered,
    /// Control has told the host the addresses: somebody, or the policy, has approved it.
    Approved,
    /// Every port that needs a certificate has one.
    CertificateReady,
    /// Withdrawn, so that connections go elsewhere; those that are there are finished.
    Draining,
    /// Control may send connections here.
    Advertised,
    /// Answers.
    Serving,
}

/// The steps of a name, in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// The node is starting or control can't be reached.
    #[default]
    Connecting,
    /// Somebody has to log in, or the auth key was refused.
    NeedsLogin,
    /// An administrator has to approve the machine.
    NeedsApproval,
    /// Control gave the name to another machine and assigned us `-1`: not served.
    NameTaken,
    /// The certificate is being issued.
    Certificate,
    /// Answers.
    Serving,
    /// Leaves; the last report before the name is gone.
    Draining,
}
