use std::net::SocketAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Hostinfo, lax};
use crate::{
    key::{DiscoPublic, MachinePublic, NodePublic},
    netmap::{CapMap, NodeId, UserId},
};

/// A machine of the tailnet. Number and key must be there; tags, expiry and the restrictions must make
/// sense, since a node that wrongly lacks them may do more.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// The number that deltas use.
    #[serde(rename = "ID")]
    pub id: NodeId,
    /// The identifier of the API.
    #[serde(rename = "StableID", default, deserialize_with = "lax::or_default")]
    pub stable_id: String,
    /// The FQDN with trailing dot.
    #[serde(default, deserialize_with = "lax::or_default")]
    pub name: String,
    /// The owner, or control's pseudo-user of tagged nodes.
    #[serde(default, deserialize_with = "lax::or_default")]
    pub user: UserId,
    /// The WireGuard key.
    pub key: NodePublic,
    /// `None`: never.
    #[serde(default, deserialize_with = "lax::strict_time")]
    pub key_expiry: Option<Timestamp>,
    /// The machine key.
    #[serde(default, deserialize_with = "lax::machine_key")]
    pub machine: Option<MachinePublic>,
    /// The disco key.
    #[serde(default, deserialize_with = "lax::disco_key")]
    pub disco_key: Option<DiscoPublic>,
    /// Own addresses.
    #[serde(default, deserialize_with = "lax::list")]
    pub addresses: Vec<IpNet>,
    /// `None` means the addresses (capability version 112).
    #[serde(rename = "AllowedIPs", default, deserialize_with = "lax::optional_list")]
    pub allowed_ips: Option<Vec<IpNet>>,
    /// Where its UDP socket is.
    #[serde(default, deserialize_with = "lax::list")]
    pub endpoints: Vec<SocketAddr>,
    /// The old form of the home region, `127.3.3.40:N`; read when `home_derp` is 0.
    #[serde(rename = "DERP", default, deserialize_with = "lax::or_default")]
    pub legacy_derp: String,
    /// The home region; 0: none.
    #[serde(rename = "HomeDERP", default, deserialize_with = "lax::or_default")]
    pub home_derp: u16,
    /// What the machine says about itself.
    #[serde(default, deserialize_with = "lax::hostinfo")]
    pub hostinfo: Hostinfo,
    /// When the machine joined the tailnet.
    #[serde(default, deserialize_with = "lax::time")]
    pub created: Option<Timestamp>,
    /// Who shared the machine into this tailnet; 0: nobody.
    #[serde(default, deserialize_with = "lax::or_default")]
    pub sharer: UserId,
    /// Routes that the machine is the router for now.
    #[serde(default, deserialize_with = "lax::list")]
    pub primary_routes: Vec<IpNet>,
    /// Capability version.
    #[serde(default, deserialize_with = "lax::or_default")]
    pub cap: u32,
    /// A node with tags has no user.
    #[serde(default, deserialize_with = "lax::null_default")]
    pub tags: Vec<String>,
    /// When control saw it last.
    #[serde(default, deserialize_with = "lax::time")]
    pub last_seen: Option<Timestamp>,
    /// Whether control sees it; `None`: unknown.
    #[serde(default, deserialize_with = "lax::optional")]
    pub online: Option<bool>,
    /// Device approval has been given.
    #[serde(default, deserialize_with = "lax::or_default")]
    pub machine_authorized: bool,
    /// Capabilities without values, the old form; belongs into `cap_map`.
    #[serde(default, deserialize_with = "lax::list")]
    pub capabilities: Vec<String>,
    /// Capabilities.
    #[serde(default, deserialize_with = "lax::cap_map")]
    pub cap_map: CapMap,
    /// May use our PeerAPI, nothing else.
    #[serde(
        rename = "UnsignedPeerAPIOnly",
        default,
        deserialize_with = "lax::null_default"
    )]
    pub unsigned_peer_api_only: bool,
    /// The key has ended.
    #[serde(default, deserialize_with = "lax::null_default")]
    pub expired: bool,
    /// Speaks WireGuard only: no disco, no DERP.
    #[serde(default, deserialize_with = "lax::or_default")]
    pub is_wire_guard_only: bool,
    /// Must not start connections to us.
    #[serde(default, deserialize_with = "lax::null_default")]
    pub is_jailed: bool,
}

/// A change of a peer; what is `None` (or 0) is unchanged.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PeerChange {
    /// Whose.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Home region.
    #[serde(rename = "DERPRegion", default, deserialize_with = "lax::or_default")]
    pub derp_region: u16,
    /// Capability version.
    #[serde(default, deserialize_with = "lax::or_default")]
    pub cap: u32,
    /// Replaces all capabilities.
    #[serde(default, deserialize_with = "lax::optional_cap_map")]
    pub cap_map: Option<CapMap>,
    /// Replaces all endpoints.
    #[serde(default, deserialize_with = "lax::optional_list")]
    pub endpoints: Option<Vec<SocketAddr>>,
    /// WireGuard key.
    #[serde(default)]
    pub key: Option<NodePublic>,
    /// Disco key.
    #[serde(default, deserialize_with = "lax::disco_key")]
    pub disco_key: Option<DiscoPublic>,
    /// Whether control sees it.
    #[serde(default, deserialize_with = "lax::optional")]
    pub online: Option<bool>,
    /// When control saw it last.
    #[serde(default, deserialize_with = "lax::time")]
    pub last_seen: Option<Timestamp>,
    /// `Some(None)`: ends never, from now on.
    #[serde(default, deserialize_with = "lax::time_change")]
    pub key_expiry: Option<Option<Timestamp>>,
}

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserProfile {
    /// The number that nodes refer to.
    #[serde(rename = "ID")]
    pub id: UserId,
    /// For example `alice@example.com`.
    #[serde(default, deserialize_with = "lax::or_default")]
    pub login_name: String,
    /// For example `Alice Smith`.
    #[serde(default, deserialize_with = "lax::or_default")]
    pub display_name: String,
    /// May be empty.
    #[serde(rename = "ProfilePicURL", default, deserialize_with = "lax::or_default")]
    pub profile_pic_url: String,
    /// The groups that control chose to reveal.
    #[serde(default, deserialize_with = "lax::list")]
    pub groups: Vec<String>,
}
