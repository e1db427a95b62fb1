//! Machines that several netmaps of this process describe alike are kept once: many nodes of one tailnet know the same
//! peers.

use std::sync::{Arc, LazyLock, Weak};

use ahash::AHashMap;
use parking_lot::Mutex;

use super::{CapMap, Node, NodeId};
use crate::key::NodePublic;

/// Before there are so many entries nobody looks for those that are of no use any more.
const FEW: usize = 1024;

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Known {
    /// What netmaps say of a machine; they seldom differ.
    nodes: AHashMap<(NodeId, NodePublic), Vec<Weak<Node>>>,
    clean_at: usize,
}

/// The machine, shared with everybody who describes it alike.
pub(super) fn share(node: Node) -> Arc<Node> {
    let mut known = KNOWN.lock();
    if known.nodes.len() >= known.clean_at {
        known
            .nodes
            .retain(|_, alike| alike.iter().any(|node| node.strong_count() > 0));
        known.clean_at = FEW.max(2 * known.nodes.len());
    }
    let alike = known.nodes.entry((node.id, node.key)).or_default();
    alike.retain(|node| node.strong_count() > 0);
    if let Some(same) = alike
        .iter()
        .filter_map(Weak::upgrade)
        .find(|other| **other == node)
    {
        return same;
    }
    let node = Arc::new(node);
    alike.push(Arc::downgrade(&node));
    node
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        // All of them: a field that is forgotten here would be another machine's.
        let Self {
            id,
            stable_id,
            name,
            user,
            key,
            key_expiry,
            expired,
            machine,
            disco,
            addresses,
            allowed_ips,
            endpoints,
            home_derp,
            machine_authorized,
            tags,
            cap,
            cap_map,
            online,
            unsigned_peer_api_only,
            is_jailed,
            peer_api,
            hostname,
            os,
            details,
        } = self;
        *id == other.id
            && *stable_id == other.stable_id
            && *name == other.name
            && *user == other.user
            && *key == other.key
            && *key_expiry == other.key_expiry
            && *expired == other.expired
            && *machine == other.machine
            && *disco == other.disco
            && *addresses == other.addresses
            && *allowed_ips == other.allowed_ips
            && *endpoints == other.endpoints
            && *home_derp == other.home_derp
            && *machine_authorized == other.machine_authorized
            && *tags == other.tags
            && *cap == other.cap
            && same_caps(cap_map, &other.cap_map)
            && *online == other.online
            && *unsigned_peer_api_only == other.unsigned_peer_api_only
            && *is_jailed == other.is_jailed
            && *peer_api == other.peer_api
            && *hostname == other.hostname
            && *os == other.os
            && *details == other.details
    }
}

fn same_caps(a: &CapMap, b: &CapMap) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((a, values), (b, others))| {
            let texts = values.iter().map(|value| value.get());
            a == b && texts.eq(others.iter().map(|value| value.get()))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tailcfg;

    fn node(endpoint: &str) -> Node {
        let key = format!("nodekey:{:064x}", 0xabcdef_u32);
        let caps = json!({"x": [{"a": 1}]});
        let node = json!({"ID": 987_654, "Key": key, "Endpoints": [endpoint], "CapMap": caps});
        let node: tailcfg::Node = serde_json::from_str(&node.to_string()).unwrap();
        node.into()
    }

    #[test]
    fn what_is_equal_is_one_and_what_is_not_needed_goes() {
        let one = share(node("192.0.2.1:1"));
        let same = share(node("192.0.2.1:1"));
        let other = share(node("192.0.2.1:2"));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        let mut caps = node("192.0.2.1:1");
        caps.cap_map.clear();
        assert!(!Arc::ptr_eq(&one, &share(caps)));
        let place = (one.id, one.key);
        drop((one, same, other));
        let again = share(node("192.0.2.1:3"));
        assert_eq!(KNOWN.lock().nodes[&place].len(), 1);
        drop(again);
    }
}
