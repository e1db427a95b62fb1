//! Changes of the map, as Go's encoder writes them: testcontrol itself sends whole maps only.

use jiff::Timestamp;
use postern_node::{
    netmap::{Netmap, Node},
    node::Config,
};
use serde_json::{Value, json};

use crate::lab::{Lab, becomes, eventually, up, with_lab};

/// Goes through Go's types on its way.
async fn send(lab: &Lab, message: Value) {
    let (status, said) = lab.admin("POST", "/nodes/delta/raw", Some(message.clone())).await;
    assert_eq!(status, 200, "{message}: {said}");
}

fn last_seen(node: &Node) -> Option<Timestamp> {
    node.details.as_ref()?.last_seen
}

#[test]
fn each_kind_of_change_is_merged_as_go_writes_it() {
    with_lab(async |lab| {
        lab.start_clients().await;
        lab.fetch("alice", "http://100.100.100.100/").await;
        let config = Config {
            keep_details: true,
            ..lab.config("delta", Some("tskey-auth-bob"))
        };
        let (node, me) = up(config).await;
        eventually("alice is online", async || {
            lab.device("alice-laptop").await["online"] == true
        })
        .await;
        let alice = lab.device("alice-laptop").await["id"].as_i64().unwrap();
        let mut netmap = node.netmap();
        becomes("alice is there", &mut netmap, |netmap| {
            netmap.peers.contains_key(&alice)
        })
        .await;

        let key = format!("nodekey:{:064x}", 0xfeed_u32);
        let patch = json!({
            "NodeID": alice, "DERPRegion": 7, "Cap": 99, "Endpoints": ["192.0.2.1:5"], "Online": false,
            "Key": key, "DiscoKey": format!("discokey:{:064x}", 0xd15c_u32), "CapMap": {"example.com/x": [1]},
            "KeyExpiry": "2090-01-02T03:04:05Z", "LastSeen": "2020-01-02T03:04:05Z",
        });
        send(lab, json!({"PeersChangedPatch": [patch]})).await;
        becomes("a patch", &mut netmap, |netmap| {
            let peer = &netmap.peers[&alice];
            (peer.home_derp, peer.cap, peer.online) == (Some(7), 99, Some(false))
                && peer.endpoints == ["192.0.2.1:5".parse().unwrap()]
                && peer.key.to_string() == key
                && peer.cap_map.contains_key("example.com/x")
                && peer
                    .key_expiry
                    .is_some_and(|end| end.to_string() == "2090-01-02T03:04:05Z")
                && last_seen(peer).is_some_and(|at| at.to_string() == "2020-01-02T03:04:05Z")
        })
        .await;
        let before = Timestamp::now();
        send(lab, json!({"PeerSeenChange": {alice.to_string(): true}})).await;
        becomes("seen now", &mut netmap, |netmap| {
            last_seen(&netmap.peers[&alice]).is_some_and(|at| at >= before)
        })
        .await;
        send(lab, json!({"PeerSeenChange": {alice.to_string(): false}})).await;
        becomes("nobody knows when it was seen", &mut netmap, |netmap| {
            last_seen(&netmap.peers[&alice]).is_none()
        })
        .await;
        send(lab, json!({"OnlineChange": {alice.to_string(): true}})).await;
        becomes("online", &mut netmap, |netmap| {
            netmap.peers[&alice].online == Some(true)
        })
        .await;

        let other = json!({
            "ID": 999, "StableID": "n999", "Name": "other.lab-tailnet.ts.net.", "User": 77,
            "Key": format!("nodekey:{:064x}", 999), "Addresses": ["100.64.9.9/32"], "AllowedIPs": ["100.64.9.9/32"],
            "Hostinfo": {"OS": "plan9"}, "MachineAuthorized": true,
        });
        let user = json!({"ID": 77, "LoginName": "r&d@example.com", "DisplayName": "R&D <x> \"y\""});
        send(lab, json!({"PeersChanged": [other], "UserProfiles": [user]})).await;
        becomes("a new peer", &mut netmap, |netmap| {
            netmap.peers.contains_key(&999)
        })
        .await;
        let who = node
            .whois("100.64.9.9".parse().unwrap(), "100.64.0.1".parse().unwrap())
            .unwrap();
        assert_eq!(who.user.display_name, "R&D <x> \"y\"");
        send(lab, json!({"PeersRemoved": [999]})).await;
        becomes("it goes", &mut netmap, |netmap| !netmap.peers.contains_key(&999)).await;

        send(lab, json!({"Domain": "new.example.com", "Health": ["something"]})).await;
        becomes("domain and health", &mut netmap, |netmap| {
            netmap.domain == "new.example.com" && netmap.health == ["something"]
        })
        .await;
        let message = json!({"Title": "T", "Text": "x", "Severity": "high"});
        send(lab, json!({"DisplayMessages": {"a": message}})).await;
        becomes("a message", &mut netmap, |netmap| netmap.health == ["T: x"]).await;
        send(lab, json!({"DisplayMessages": {"a": null}})).await;
        becomes("the message goes", &mut netmap, |netmap| {
            netmap.health == ["something"]
        })
        .await;

        let grant = |cap: &str| json!([{"SrcIPs": ["*"], "CapGrant": [{"Dsts": ["0.0.0.0/0"], "CapMap": {format!("example.com/{cap}"): null}}]}]);
        let granted = |netmap: &Netmap, caps: &[&str]| {
            let alice = netmap.peers[&alice].ips().next().unwrap();
            let granted = netmap.filter.caps(alice, me.addrs[0]);
            granted
                .keys()
                .filter_map(|cap| cap.strip_prefix("example.com/"))
                .eq(caps.iter().copied())
        };
        for (filter, caps) in [
            (json!({"PacketFilter": grant("a")}), &["a"][..]),
            (
                json!({"PacketFilters": {"b": grant("b"), "c": grant("c")}}),
                &["a", "b", "c"],
            ),
            (
                json!({"PacketFilters": {"b": grant("d"), "c": null}}),
                &["a", "d"],
            ),
            (json!({"PacketFilters": {"base": null}}), &["d"]),
            (json!({"PacketFilters": {"*": null, "base": grant("e")}}), &["e"]),
        ] {
            send(lab, filter.clone()).await;
            becomes(&filter.to_string(), &mut netmap, |netmap| granted(netmap, caps)).await;
        }
        let dns = json!({"Proxied": true, "CertDomains": ["x.lab-tailnet.ts.net"], "Routes": {"a.": null}});
        send(lab, json!({"DNSConfig": dns})).await;
        becomes("DNS", &mut netmap, |netmap| {
            netmap.cert_domains == ["x.lab-tailnet.ts.net"]
        })
        .await;
        let relays = json!({"Regions": {"7": {"RegionID": 7, "RegionCode": "new", "Nodes": []}}});
        send(lab, json!({"DERPMap": relays})).await;
        becomes("relays", &mut netmap, |netmap| {
            netmap.derp.regions.keys().eq([&7])
        })
        .await;

        let score = json!({"HomeParams": {"RegionScore": {"7": 0.5}}});
        send(lab, json!({"DERPMap": score})).await;
        becomes("a score, and the relays stay", &mut netmap, |netmap| {
            netmap.derp.region_score.get(&7) == Some(&0.5) && netmap.derp.regions.keys().eq([&7])
        })
        .await;

        // Whole maps again: nothing of all that stays.
        lab.admin("POST", "/nodes/delta/auto", None).await;
        becomes("the whole map", &mut netmap, |netmap| {
            netmap.derp.regions.contains_key(&1) && netmap.peers[&alice].key.to_string() != key
        })
        .await;
        node.close().await;
    });
}
