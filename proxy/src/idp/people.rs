//! Who is who, from the node's netmap as it is at the moment.

use std::{net::IpAddr, sync::Arc};

use postern_idp::{Identify, Machine, Peer, User, identify::NodeId};
use postern_node::netmap::{Netmap, WhoIs};

/// See the module.
pub(super) struct People {
    newest: Box<dyn Fn() -> Option<Arc<Netmap>> + Send + Sync>,
}

impl People {
    /// `newest` is the netmap of a node.
    pub(super) fn new(newest: impl Fn() -> Option<Arc<Netmap>> + Send + Sync + 'static) -> Self {
        Self {
            newest: Box::new(newest),
        }
    }

    fn netmap<T>(&self, read: impl FnOnce(&Netmap) -> Option<T>) -> Option<T> {
        (self.newest)().as_deref().and_then(read)
    }
}

impl Identify for People {
    fn whois(&self, peer: IpAddr, local: IpAddr) -> Option<Peer> {
        self.netmap(|netmap| netmap.whois(peer, local).and_then(peer_of))
    }

    fn again(&self, node: NodeId) -> Option<Peer> {
        self.netmap(|netmap| {
            let peer = netmap.peers.get(&node)?;
            let address = peer.ips().next()?;
            // Grants are between two addresses: ours of the same family.
            let mut own = netmap.self_node.ips();
            let local = own.find(|own| own.is_ipv4() == address.is_ipv4())?;
            let whois = netmap.whois(address, local)?;
            (whois.node.id == node).then_some(whois).and_then(peer_of)
        })
    }
}

/// A peer whose key has expired is nobody.
fn peer_of(whois: WhoIs) -> Option<Peer> {
    let WhoIs { node, user, caps } = whois;
    if node.expired {
        return None;
    }
    let user = (!node.is_tagged()).then(|| User {
        id: user.id,
        login: user.login_name.clone(),
        name: user.display_name.clone(),
        picture: user.profile_pic_url.clone(),
        groups: user.groups.clone(),
    });
    let machine = Machine {
        id: node.id,
        name: node.name.clone(),
        key: node.key.to_string(),
        addresses: node.addresses.iter().map(ToString::to_string).collect(),
        tags: node.tags.clone(),
    };
    Some(Peer {
        machine,
        user,
        capabilities: caps,
    })
}
