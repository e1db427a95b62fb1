//! What control asks a node.

use postern_node::node::Config;
use serde_json::{Value, json};

use crate::lab::{Lab, eventually, up, with_lab};

#[test]
fn questions_of_control_are_answered_as_go_answers_them() {
    with_lab(async |lab| {
        lab.start_clients().await;
        lab.fetch("alice", "http://100.100.100.100/").await;
        let (node, _) = up(lab.config("asked", Some("tskey-auth-bob"))).await;
        eventually("both are online", async || {
            lab.device("asked").await["online"] == true && lab.device("alice-laptop").await["online"] == true
        })
        .await;
        for (method, path) in [
            ("POST", "echo"),
            ("PUT", "echo"),
            ("GET", "vip-services"),
            ("POST", "vip-services"),
            ("GET", "tls-cert-status?domain=nobodys.lab-tailnet.ts.net"),
            ("GET", "tls-cert-status"),
            ("GET", "logtail/flush"),
            ("GET", "sockstats"),
            ("POST", "update"),
            ("GET", "nothing/such"),
            ("GET", "remoteapi/localapi/v0/status"),
        ] {
            let ask = async |host: &str| {
                lab.admin(method, &format!("/nodes/{host}/c2n/{path}"), Some(json!("hi")))
                    .await
            };
            assert_eq!(ask("asked").await, ask("alice-laptop").await, "{method} {path}");
        }
        node.close().await;
    });
}

#[test]
fn a_stored_certificate_is_told_of_as_go_tells_of_its_own() {
    with_lab(async |lab| {
        const NAME: &str = "served.lab-tailnet.ts.net";
        lab.start_authority().await;
        lab.start_clients().await;
        lab.start_go_server("served").await;
        eventually("Go's node has a certificate", async || {
            let answer = lab.fetch("bob", &format!("https://{NAME}/")).await;
            answer["cert"]["names"][0] == NAME
        })
        .await;
        let config = Config {
            // Nobody is there who could issue another one.
            acme_directory: "https://127.0.0.1:1/dir".to_owned(),
            ..lab.config("asked", Some("tskey-auth-bob"))
        };
        let files = ["crt", "key"].map(|kind| {
            let file = format!("{NAME}.{kind}");
            let bytes = std::fs::read(lab.path("served").join("certs").join(&file)).unwrap();
            (file, bytes)
        });
        config.store.write(files.into()).await.unwrap();
        let (node, _) = up(config).await;
        eventually("it is online", async || {
            lab.device("asked").await["online"] == true
        })
        .await;
        for domain in [NAME, "%73erved.lab-tailnet.ts.net", "%2A.lab-tailnet.ts.net"] {
            let ask = async |host: &str| {
                let path = format!("/nodes/{host}/c2n/tls-cert-status?domain={domain}");
                lab.admin("GET", &path, None).await
            };
            let (ours, gos) = (ask("asked").await, ask("served").await);
            assert_eq!(ours, gos, "{domain}");
            assert_eq!(
                gos.1.contains(r#""Valid":true"#),
                domain.contains("erved"),
                "{gos:?}"
            );
        }
        node.close().await;
    });
}

#[test]
fn pings_that_control_asks_for_are_answered_as_go_answers_them() {
    with_lab(async |lab| {
        lab.start_clients().await;
        lab.fetch("alice", "http://100.100.100.100/").await;
        let (node, _) = up(lab.config("pinger", Some("tskey-auth-bob"))).await;
        eventually("both are online", async || {
            lab.device("pinger").await["online"] == true && lab.device("alice-laptop").await["online"] == true
        })
        .await;
        let kinds = ["disco", "TSMP", "ICMP", "peerapi"];
        for (kind, family) in kinds.iter().flat_map(|kind| [(*kind, 0), (*kind, 1)]) {
            let ours = ping(lab, "pinger", "alice-laptop", kind, family).await;
            if kind != "peerapi" {
                // The other way round Go asks and we answer: what control hears has the same form.
                let theirs = ping(lab, "alice-laptop", "pinger", kind, family).await;
                assert_eq!(theirs["NodeName"], "pinger", "{theirs}");
                assert!(theirs["Err"].is_null(), "{theirs}");
            }
            assert_eq!(ours["Type"], kind);
            assert_eq!(ours["NodeName"], "alice-laptop", "{ours}");
            assert_eq!(ours["IP"], ours["NodeIP"]);
            assert!(
                ours["LatencySeconds"].as_f64().unwrap() > 0.0 && ours["Err"].is_null(),
                "{ours}"
            );
            let way = ours["Endpoint"].is_string() || ours["DERPRegionCode"] == "lab";
            assert_eq!(way, kind == "disco", "{ours}");
            assert_eq!(ours["PeerAPIPort"].is_u64(), kind == "TSMP", "{ours}");
        }
        let own = ping(lab, "pinger", "pinger", "disco", 0).await;
        assert_eq!(own["IsLocalIP"], true, "{own}");
        node.close().await;
    });
}

/// What `from` tells control about its ping of `to`, at its first or second address: IPv4 or IPv6.
async fn ping(lab: &Lab, from: &str, to: &str, kind: &str, family: usize) -> Value {
    let ip = lab.addresses(to).await[family];
    let asked = json!({"Types": kind, "IP": ip});
    let (status, body) = lab
        .admin("POST", &format!("/nodes/{from}/ping"), Some(asked))
        .await;
    assert_eq!(status, 200, "{kind} from {from} to {to}: {body}");
    let mut answers: Vec<Value> = serde_json::from_str(&body).unwrap();
    answers.remove(0)
}
