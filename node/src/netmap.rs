//! What the control server has told us: ourselves, our peers, their users, the rules between us.
//!
//! A [`Netmap`] is a value. The control session is its one writer and publishes a new one for every
//! change, and when a peer's key ends; everybody else reads a snapshot. Merging, the indices and whois are in the submodules.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    derp_map::{DerpMap, RegionId},
    filter::Filter,
    key::{DiscoPublic, MachinePublic, NodePublic},
};

/// Number of a node on its control server (Go: `tailcfg.NodeID`).
pub type NodeId = i64;
/// Number of a user on its control server (Go: `tailcfg.UserID`).
pub type UserId = i64;
/// Capabilities with their values as the JSON that control sent; a value list may be empty.
pub type CapMap = BTreeMap<String, Vec<Box<RawValue>>>;

mod convert;
mod expiry;
mod index;
mod merge;
mod names;
mod services;
mod shared;
mod whois;

pub(crate) use expiry::cut_off_peers;
pub use merge::{MergeError, Merger};
pub(crate) use whois::INGRESS;

/// A snapshot of the tailnet as one node sees it.
#[derive(Debug, Clone)]
pub struct Netmap {
    /// Grows with every change that control makes.
    pub generation: u64,
    /// The node itself.
    pub self_node: Arc<Node>,
    /// Peers by number.
    pub peers: BTreeMap<NodeId, Arc<Node>>,
    /// Profiles of all users that were ever named.
    pub users: BTreeMap<UserId, Arc<UserProfile>>,
    /// Relays.
    pub derp: Arc<DerpMap>,
    /// Who may reach what, and the capabilities that go with it.
    pub filter: Arc<Filter>,
    /// Names for which control accepts `set-dns`, without trailing dot.
    pub cert_domains: Vec<String>,
    /// The MagicDNS suffix without dots at its ends, e.g. `example.ts.net`. Empty when unknown.
    pub magic_dns_suffix: String,
    /// DNS names beside those of nodes: the addresses of Services above all.
    pub extra_records: Arc<[crate::tailcfg::DnsRecord]>,
    /// The tailnet's display name.
    pub domain: String,
    /// Whether control wants MagicDNS to be answered by the nodes themselves.
    pub magic_dns: bool,
    /// Problems that control reports about this node.
    pub health: Vec<String>,
    /// Control's clock minus ours; ends of keys are times of control's.
    pub(crate) clock_delta: SignedDuration,
    /// Addresses of nodes and keys, for look-ups.
    pub(crate) index: index::Index,
}

/// A machine on the tailnet (Go: `tailcfg.Node`).
#[derive(Debug, Clone)]
pub struct Node {
    /// The number deltas use.
    pub id: NodeId,
    /// The identifier of the API.
    pub stable_id: String,
    /// The FQDN without trailing dot.
    pub name: String,
    /// The owner; of no meaning when `tags` is not empty.
    pub user: UserId,
    /// The WireGuard key.
    pub key: NodePublic,
    /// When the key ends; `None`: never.
    pub key_expiry: Option<Timestamp>,
    /// The key has ended, as control says or by `key_expiry`. Such a peer has no endpoints and no home, is
    /// not found by its key, and must not be spoken with.
    pub expired: bool,
    /// The machine key.
    pub machine: Option<MachinePublic>,
    /// The disco key; without one the node is reached by its endpoints alone.
    pub disco: Option<DiscoPublic>,
    /// Own addresses.
    pub addresses: Vec<IpNet>,
    /// Source addresses that WireGuard accepts from the node.
    pub allowed_ips: Vec<IpNet>,
    /// Where the node says its UDP socket is.
    pub endpoints: Vec<SocketAddr>,
    /// The region where the node listens; `None`: it can't be reached over DERP.
    pub home_derp: Option<RegionId>,
    /// Device approval has been given.
    pub machine_authorized: bool,
    /// `tag:…`; a tagged node has no user.
    pub tags: Vec<String>,
    /// Capability version of the client.
    pub cap: u32,
    /// Node capabilities.
    pub cap_map: CapMap,
    /// Whether control sees the node; `None`: unknown.
    pub online: Option<bool>,
    /// A Funnel ingress node: may use our PeerAPI, nothing else.
    pub unsigned_peer_api_only: bool,
    /// Must not start connections to us.
    pub is_jailed: bool,
    /// PeerAPI ports as announced in `Hostinfo.Services`.
    pub peer_api: PeerApi,
    /// The host name that the machine gave itself.
    pub hostname: String,
    /// The operating system that the machine names.
    pub os: String,
    /// For people and programs that ask about the machine; absent where nobody does.
    pub details: Option<Arc<Details>>,
}

/// What the data plane has no use for. Kept where [`crate::node::Config::keep_details`] says so: a big
/// tailnet's hostinfos are many bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// What the machine says about itself, as the JSON object that control sent.
    pub hostinfo: Option<Box<str>>,
    /// When it joined the tailnet.
    pub created: Option<Timestamp>,
    /// When control saw it last; of no meaning while it is online.
    pub last_seen: Option<Timestamp>,
    /// Who shared it into this tailnet; 0: nobody.
    pub sharer: UserId,
    /// Routes that it is the router for now.
    pub primary_routes: Vec<IpNet>,
    /// A WireGuard peer that is no tailnet client.
    pub is_wire_guard_only: bool,
}

impl Node {
    /// Tagged nodes act for themselves, not for a user.
    pub fn is_tagged(&self) -> bool {
        !self.tags.is_empty()
    }

    /// The node's single addresses, in control's order.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses
            .iter()
            .filter(|n| n.prefix_len() == n.max_prefix_len())
            .map(IpNet::addr)
    }
}

/// Ports of a node's PeerAPI.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerApi {
    /// On the node's IPv4 addresses.
    pub v4: Option<u16>,
    /// On the node's IPv6 addresses.
    pub v6: Option<u16>,
}

/// A user (Go: `tailcfg.UserProfile`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserProfile {
    /// The number that nodes refer to.
    pub id: UserId,
    /// For example `alice@example.com`.
    pub login_name: String,
    /// For example `Alice Smith`.
    pub display_name: String,
    /// May be empty.
    pub profile_pic_url: String,
    /// The groups that control chose to reveal.
    pub groups: Vec<String>,
}

/// Who is behind an address.
#[derive(Debug, Clone)]
pub struct WhoIs {
    /// The machine.
    pub node: Arc<Node>,
    /// Its user; for tagged nodes control's pseudo-user.
    pub user: Arc<UserProfile>,
    /// What the filter's grants give this source towards the address it reached.
    pub caps: CapMap,
}
