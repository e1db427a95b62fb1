//! *Who is this peer*: what the host knows about connections, as the provider wants to hear it.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::value::RawValue;

/// Number of a machine on its control server (Go: `tailcfg.NodeID`).
pub type NodeId = i64;
/// Number of a user on its control server (Go: `tailcfg.UserID`); what `sub` is made of.
pub type UserId = i64;
/// Capabilities with their values as the JSON that control sent.
pub type Capabilities = BTreeMap<String, Vec<Box<RawValue>>>;

/// Answers who somebody is, from what the tailnet says now. Answers come from memory: neither method blocks.
pub trait Identify: Send + Sync {
    /// Who is behind `peer`, the address of a connection that arrived at our address `local`. `None`: nobody
    /// that the tailnet knows.
    fn whois(&self, peer: IpAddr, local: IpAddr) -> Option<Peer>;

    /// The machine that was told by [`Identify::whois`] before, as it is now. `None` once it has left the
    /// tailnet, its key has expired, or it must not reach us any more. Refreshed tokens are made from this.
    fn again(&self, node: NodeId) -> Option<Peer>;
}

/// A peer of the tailnet.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The machine.
    pub machine: Machine,
    /// Whom it acts for; `None` for tagged machines, which act for themselves.
    pub user: Option<User>,
    /// What the tailnet's policy grants this peer towards us.
    pub capabilities: Capabilities,
}

/// A machine on the tailnet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its number.
    pub id: NodeId,
    /// The full name without trailing dot, e.g. `laptop.example.ts.net`.
    pub name: String,
    /// The WireGuard key as Go writes it: `nodekey:` and 64 hexadecimal digits.
    pub key: String,
    /// Own addresses as prefixes, e.g. `100.64.0.7/32`.
    pub addresses: Vec<String>,
    /// `tag:…`.
    pub tags: Vec<String>,
}

/// A user of the tailnet (Go: `tailcfg.UserProfile`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The number; it never changes, the login may.
    pub id: UserId,
    /// For example `alice@example.com`, `alice@github`.
    pub login: String,
    /// For example `Alice Smith`.
    pub name: String,
    /// URL of a picture; may be empty.
    pub picture: String,
    /// Groups that control chose to reveal.
    pub groups: Vec<String>,
}
