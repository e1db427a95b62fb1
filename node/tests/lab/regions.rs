//! Several relay regions, and nothing but relays between us and Go's nodes.

use std::{net::IpAddr, time::Instant};

use postern_node::{
    engine::PingKind,
    key::NodePublic,
    magicsock::Path,
    node::{Config, Node},
};
use serde_json::{Value, json};

use crate::{
    lab::{Lab, becomes, eventually, with_lab},
    paths::serving,
};

/// Our node's, by which its STUN requests are known.
const PORT: u16 = 41_999;

/// STUN alone passes: each side hears from one region's server, and so has its home there.
const NETWORK: [&str; 3] = [
    "INPUT --protocol udp --match multiport ! --ports 9978,9979 --jump DROP",
    "OUTPUT --protocol udp --sport 41999 --dport 9978 --jump DROP",
    "OUTPUT --protocol udp ! --sport 41999 --dport 9979 --jump DROP",
];

async fn is_home(lab: &Lab, host: &str, region: u16) {
    let what = format!("{host} is at home in region {region}");
    eventually(&what, async || lab.device(host).await["homeDERP"] == region).await;
}

/// Key and address of a Go node, which has been started for it.
async fn go_node(lab: &Lab, user: &str) -> (NodePublic, IpAddr) {
    let host = format!("{user}-laptop");
    lab.fetch_within(1, user, "http://100.100.100.100/").await;
    is_home(lab, &host, 1).await;
    let [address, _] = lab.addresses(&host).await;
    (lab.node_key(&host).await, address)
}

/// Waits until a user's Go client has a page of ours, by way of this region.
async fn page_by(lab: &Lab, user: &str, node: &Node, peer: &NodePublic, region: u16) {
    eventually(&format!("a page by region {region}"), async || {
        let answer = lab.fetch_within(2, user, "http://relayed/").await;
        answer["body"] == "0\n1\n2\n" && node.traffic(peer).path == Path::Derp(region)
    })
    .await;
}

async fn relay(lab: &Lab, method: &str, path: &str, body: Value) {
    let (status, said) = lab.admin(method, &format!("/relays{path}"), Some(body)).await;
    assert_eq!(status, 200, "{said}");
}

#[test]
fn a_region_that_takes_anothers_place_is_moved_to_while_traffic_goes_on() {
    with_lab(async |lab| {
        lab.network(&format!("iptables --append {}", NETWORK[0]));
        lab.start_clients().await;
        let ours = serving(lab.config("relayed", Some("tskey-auth-carol")));
        let (node, (alice, address)) = tokio::join!(ours, go_node(lab, "alice"));
        is_home(lab, "relayed", 1).await;
        page_by(lab, "alice", &node, &alice, 1).await;

        relay(lab, "POST", "", Value::Null).await;
        let mut netmap = node.netmap();
        becomes("the new region is known", &mut netmap, |netmap| {
            netmap.derp.regions.contains_key(&2)
        })
        .await;
        page_by(lab, "alice", &node, &alice, 1).await;
        relay(lab, "DELETE", "/1", Value::Null).await;
        is_home(lab, "relayed", 2).await;
        is_home(lab, "alice-laptop", 2).await;
        page_by(lab, "alice", &node, &alice, 2).await;
        node.ping(address, PingKind::Tsmp).await.unwrap();
        assert_eq!(node.traffic(&alice).path, Path::Derp(2));
        node.close().await;
    });
}

#[test]
fn each_sides_home_region_is_used_and_one_that_dies_is_left_for_the_other() {
    with_lab(async |lab| {
        relay(lab, "POST", "", Value::Null).await;
        for rule in NETWORK {
            lab.network(&format!("iptables --append {rule}"));
        }
        lab.start_clients().await;
        let config = Config {
            udp_port: PORT,
            ..lab.config("relayed", Some("tskey-auth-carol"))
        };
        let ours = async {
            let node = serving(config).await;
            is_home(lab, "relayed", 2).await;
            node
        };
        let (node, (alice, _), (bob, bobs_address)) =
            tokio::join!(ours, go_node(lab, "alice"), go_node(lab, "bob"));

        // Alice comes to our home and is answered there; to Bob we go.
        page_by(lab, "alice", &node, &alice, 2).await;
        eventually("an answer of Bob's node", async || {
            node.ping(bobs_address, PingKind::Tsmp).await.is_ok()
        })
        .await;
        assert_eq!(node.traffic(&bob).path, Path::Derp(1));

        lab.network(&format!("iptables --delete {}", NETWORK[1]));
        lab.network("iptables --insert INPUT --protocol udp --dport 9979 --jump DROP");
        relay(lab, "PUT", "/2/broken", json!(true)).await;
        let died = Instant::now();
        page_by(lab, "alice", &node, &alice, 1).await;
        println!(
            "the first page by the other region came after {:?}",
            died.elapsed()
        );
        is_home(lab, "relayed", 1).await;
        node.close().await;
    });
}
