//! Who is behind an address (Go: `LocalBackend.WhoIs`).

use std::net::IpAddr;

use super::{Netmap, WhoIs};

/// To bring us connections from the internet. It is all that a peer whose key is not signed may be granted
/// (Go: `capsAllowedForUnsignedPeer`).
pub(crate) const INGRESS: &str = "https://tailscale.com/cap/ingress";

impl Netmap {
    /// The machine that has `src` as one of its own addresses, its user, and its capabilities towards `dst`.
    ///
    /// `None` for addresses behind a subnet router, and for a machine whose user control has not described:
    /// it is never shown as nobody. IPv4 addresses in IPv6 form are looked up as IPv4.
    pub fn whois(&self, src: IpAddr, dst: IpAddr) -> Option<WhoIs> {
        let (src, dst) = (src.to_canonical(), dst.to_canonical());
        let node = self.node_by_ip(src)?;
        let user = self.users.get(&node.user)?;
        let mut caps = self.filter.caps(src, dst);
        if node.unsigned_peer_api_only {
            caps.retain(|cap, _| cap == INGRESS);
        }
        Some(WhoIs {
            node: node.clone(),
            user: user.clone(),
            caps,
        })
    }
}
