//! What a node keeps over a restart, and where.
//!
//! [`NodeState`] is the identity (machine and node key) and what lets a restarted or moved node serve
//! again without waiting for its peers' patience: UDP port, disco key, the newest WireGuard timestamp
//! that it sent, and whom it served last.

use std::{collections::BTreeMap, future::Future, net::IpAddr, pin::Pin};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::key::{DiscoPrivate, MachinePrivate, NodePrivate, NodePublic};

mod dir;
mod load;
mod memory;
mod tailscaled;

pub use dir::DirStore;
pub use memory::MemoryStore;

/// The key of the [`NodeState`] in a [`StateStore`].
pub const STATE_KEY: &str = "state";

/// Everything that is kept. Serialised as JSON; it holds secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Layout of this value; readers refuse what is newer than they know.
    pub format: u32,
    /// Who the machine is to control.
    pub machine_key: MachinePrivate,
    /// Who the node is to its peers.
    pub node_key: NodePrivate,
    /// A login with this node key has succeeded.
    pub registered: bool,
    /// The name that the Go node whose identity this is asked for, if it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// How to go on where the last run ended.
    #[serde(default)]
    pub hand_over: HandOver,
}

impl NodeState {
    /// The layout that this version writes.
    pub const FORMAT: u32 = 1;

    /// A new identity.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        Ok(Self {
            format: Self::FORMAT,
            machine_key: MachinePrivate::generate()?,
            node_key: NodePrivate::generate()?,
            registered: false,
            hostname: None,
            hand_over: HandOver::default(),
        })
    }
}

/// What a successor (after a restart, or on another replica) continues with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HandOver {
    /// Go peers take it for a new way to the node when it changes: see [`HandOver::disco_key_at`].
    pub disco_key: Option<DiscoPrivate>,
    /// The UDP port that peers know.
    pub udp_port: Option<u16>,
    /// Addresses of the machine's interfaces.
    pub addresses: Vec<IpAddr>,
    /// Newest TAI64N timestamp sent in a handshake initiation, as its 12 bytes in hex: a peer ignores
    /// initiations that aren't newer.
    pub newest_tai64n: Option<String>,
    /// Peers served last, newest first; the successor starts handshakes with them.
    pub recent_peers: Vec<RecentPeer>,
}

impl HandOver {
    /// The disco key, while peers can find the node where they left it. Elsewhere it takes a new one: Go peers
    /// would go on sending to the old address for as long as they trust it (6.5 s; `magicsock/endpoint.go`,
    /// `updateFromNode` resets the path when the key changes).
    pub fn disco_key_at(&self, udp_port: u16, addresses: &[IpAddr]) -> Option<&DiscoPrivate> {
        let same_port = self.udp_port.is_none_or(|port| port == udp_port);
        let mut known = self.addresses.iter().filter(|old| !old.is_loopback()).peekable();
        let same_machine = known.peek().is_none() || known.any(|old| addresses.contains(old));
        self.disco_key.as_ref().filter(|_| same_port && same_machine)
    }
}

/// A peer that was active when the state was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentPeer {
    /// The peer's WireGuard key.
    pub key: NodePublic,
    /// Where it was reached last, if directly.
    pub addr: Option<std::net::SocketAddr>,
    /// When.
    pub seen: Timestamp,
}

/// Why a state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store itself failed.
    #[error("{action} {what}: {source}")]
    Io {
        /// What was tried: "read", "write", "lock".
        action: &'static str,
        /// The file, Secret or key concerned.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The content makes no sense to us.
    #[error("understand {what}: {reason}")]
    Invalid {
        /// The file, Secret or key concerned.
        what: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Somebody else uses this state: two nodes with one identity would steal each other's packets.
    #[error("{what} is in use by another process")]
    InUse {
        /// The file or Secret concerned.
        what: String,
    },
}

/// A boxed future, so that stores can be trait objects.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StateError>> + Send + 'a>>;

/// A place for state. Values are small; a write is atomic: after a crash the old or the new value is there.
///
/// Keys are `state` (a [`NodeState`]), `acme-account.key.pem`, and per certificate `NAME.crt` and `NAME.key`.
pub trait StateStore: Send + Sync + std::fmt::Debug {
    /// The value of `key`, or `None` when it was never written.
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>>;
    /// Replaces values, all or none of them where the store can do so.
    fn write(&self, values: BTreeMap<String, Vec<u8>>) -> StoreFuture<'_, ()>;
    /// Removes everything.
    fn clear(&self) -> StoreFuture<'_, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disco_key_stays_where_peers_find_it() {
        let addresses =
            |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let hand_over = |udp_port, old: &[&str]| HandOver {
            disco_key: Some(DiscoPrivate::generate().unwrap()),
            udp_port,
            addresses: addresses(old),
            ..HandOver::default()
        };
        for (old_port, old, port, new, kept) in [
            (Some(1), &["10.0.0.1"][..], 1, &["10.0.0.1"][..], true),
            (Some(1), &["10.0.0.1", "fd00::1"], 1, &["fd00::1"], true),
            (Some(1), &["10.0.0.1"], 2, &["10.0.0.1"], false),
            (
                Some(1),
                &["127.0.0.1", "10.0.0.1"],
                1,
                &["127.0.0.1", "10.0.0.2"],
                false,
            ),
            (Some(1), &["127.0.0.1"], 1, &["127.0.0.1"], true),
            // As older versions wrote it, and before there was one.
            (Some(1), &[], 1, &["10.0.0.1"], true),
            (None, &[], 1, &["10.0.0.1"], true),
        ] {
            let key = hand_over(old_port, old);
            let key = key.disco_key_at(port, &addresses(new));
            assert_eq!(key.is_some(), kept, "{old_port:?} {old:?}, then {port} {new:?}");
        }
        assert!(HandOver::default().disco_key_at(1, &[]).is_none());
    }
}
