//! Node keys that end, and new ones, of a Go peer.

use std::time::Duration;

use jiff::Timestamp;
use postern_node::engine::PingKind;
use serde_json::json;

use crate::{
    lab::{Lab, becomes, eventually, with_lab},
    paths::serving,
};

const PAGE: &str = "0\n1\n2\n";

#[test]
fn a_peer_whose_key_ends_is_cut_off_while_control_is_away() {
    with_lab(async |lab| {
        lab.start_clients().await;
        let node = serving(lab.config("strict", Some("tskey-auth-bob"))).await;
        eventually("a page", async || {
            lab.fetch("alice", "http://strict/").await["body"] == PAGE
        })
        .await;
        let device = lab.device("alice-laptop").await;
        let (id, key) = (device["id"].as_i64().unwrap(), lab.node_key("alice-laptop").await);
        let end = Timestamp::now() + Duration::from_secs(8);
        let patch = json!({"NodeID": id, "KeyExpiry": end.to_string()});
        let ends = json!({"PeersChangedPatch": [patch]});
        let (status, said) = lab.admin("POST", "/nodes/strict/raw", Some(ends)).await;
        assert_eq!(status, 200, "{said}");
        let mut netmap = node.netmap();
        becomes("the end is known", &mut netmap, |netmap| {
            let known = netmap.peers[&id].key_expiry;
            known.is_some_and(|at| at < end + Duration::from_secs(1))
        })
        .await;
        lab.admin("PUT", "/control-broken", Some(json!(true))).await;
        let mut served = 0;
        while Timestamp::now() < end - Duration::from_secs(1) {
            assert_eq!(lab.fetch("alice", "http://strict/").await["body"], PAGE);
            served += 1;
        }
        assert!(served > 0 && node.traffic(&key).is_live);
        eventually("it is cut off", async || !node.traffic(&key).is_live).await;
        let late = Timestamp::now().duration_since(end);
        println!("cut off {late:?} after its end");
        assert!(late.as_secs() < 5, "{late:?}");
        let answer = lab.fetch_within(3, "alice", "http://strict/").await;
        assert_ne!(answer["error"], json!(null), "{answer}");
        assert!(!node.traffic(&key).is_live);
        node.close().await;
    });
}

#[test]
fn a_peer_that_logs_in_with_a_new_key_goes_on_talking() {
    with_lab(async |lab| {
        lab.start_clients().await;
        let node = serving(lab.config("steady", Some("tskey-auth-bob"))).await;
        let page = async |lab: &Lab| lab.fetch_within(2, "alice", "http://steady/").await["body"] == PAGE;
        eventually("a page", async || page(lab).await).await;
        let id = lab.device("alice-laptop").await["id"].as_i64().unwrap();
        let [address, _] = lab.addresses("alice-laptop").await;
        let old = lab.node_key("alice-laptop").await;
        assert!(node.traffic(&old).is_live);

        let (status, said) = lab.client("POST", "/nodes/alice/new-key").await;
        assert_eq!(status, 200, "{said}");
        let mut netmap = node.netmap();
        becomes("it is known by its new key", &mut netmap, |netmap| {
            netmap.peers.get(&id).is_some_and(|alice| alice.key != old)
        })
        .await;
        let new = lab.node_key("alice-laptop").await;
        eventually("a page for the new key", async || page(lab).await).await;
        assert!(node.traffic(&new).is_live && !node.traffic(&old).is_live);
        assert_eq!(node.netmap().borrow().as_ref().unwrap().peers[&id].key, new);
        node.ping(address, PingKind::Tsmp).await.unwrap();
        node.close().await;
    });
}
