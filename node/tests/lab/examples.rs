//! Each example does what it says, for a Go client.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, with_lab};

/// Where cargo has put it, beside this test.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name);
    assert!(path.exists(), "{} is built by `cargo test`", path.display());
    path
}

/// What alice's Go client gets, once the example answers.
pub async fn page(lab: &Lab, url: &str) -> Value {
    let mut page = Value::Null;
    eventually(url, async || {
        page = lab.fetch("alice", url).await;
        page["status"] == 200
    })
    .await;
    page
}

#[test]
fn hello_greets_its_visitor_by_name() {
    with_lab(async |lab| {
        lab.start_clients().await;
        lab.start_example(&example("hello"), "tskey-auth-tagged", &[]);
        page(lab, "http://hello/").await;
        let _silent = lab.tunnel("hello:80").await.unwrap();
        assert_eq!(
            page(lab, "http://hello/").await["body"],
            "Hello, Alice Example!\n"
        );
        let addresses = lab.device("hello").await["addresses"].clone();
        let v6 = addresses[1].as_str().unwrap().strip_suffix("/128").unwrap();
        let by_v6 = page(lab, &format!("http://[{v6}]/")).await;
        assert_eq!(by_v6["body"], "Hello, Alice Example!\n");
    });
}

#[test]
fn whois_tells_callers_who_they_are_and_what_they_may() {
    with_lab(async |lab| {
        lab.start_clients().await;
        lab.start_example(&example("whois"), "tskey-auth-tagged", &[]);
        lab.admin(
            "PUT",
            "/app-caps",
            Some(json!({"example.com/cap/x": [{"role": "admin"}]})),
        )
        .await;
        let mut told = String::new();
        eventually("the answer has the capability", async || {
            told = lab.fetch("alice", "http://whois/").await["body"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            told.contains("may: example.com/cap/x")
        })
        .await;
        assert!(
            told.contains("user: alice@example.com (Alice Example)\n"),
            "{told}"
        );
        assert!(
            told.contains("machine: alice-laptop.lab-tailnet.ts.net\n"),
            "{told}"
        );
        let tagged = lab.fetch("tagged", "http://whois/").await;
        assert!(
            tagged["body"].as_str().unwrap().contains("tags: tag:k8s\n"),
            "{tagged}"
        );
    });
}

#[test]
fn many_nodes_are_machines_of_their_own_and_leave_together() {
    with_lab(async |lab| {
        lab.start_clients().await;
        let pid = lab.start_example(
            &example("many-nodes"),
            "tskey-auth-tagged",
            &["red", "green", "blue"],
        );
        for name in ["red", "green", "blue"] {
            let page = page(lab, &format!("http://{name}/")).await;
            assert_eq!(page["body"], format!("This is {name}.lab-tailnet.ts.net.\n"));
        }
        lab.interrupt(pid);
        eventually("they are gone", async || {
            lab.device("red").await.is_null() && lab.device("blue").await.is_null()
        })
        .await;
    });
}

#[test]
fn dial_gets_a_page_and_leaves_no_trace() {
    with_lab(async |lab| {
        lab.start_example(&example("hello"), "tskey-auth-tagged", &[]);
        eventually("hello is there", async || {
            lab.device("hello").await["online"] == true
        })
        .await;
        let pid = lab.start_example(&example("dial"), "tskey-auth-bob", &["hello:80"]);
        let said = lab.ended(pid).await;
        assert!(said.contains("Hello, Bob Example!"), "{said}");
        assert!(lab.device("dial").await.is_null());
    });
}

#[test]
fn https_serves_a_page_with_a_certificate_of_the_authority() {
    with_lab(async |lab| {
        lab.start_authority().await;
        lab.start_clients().await;
        let state = lab.path("https-state");
        lab.start_example(&example("https"), "tskey-auth-tagged", &[state.to_str().unwrap()]);
        let page = page(lab, "https://https.lab-tailnet.ts.net/").await;
        assert_eq!(page["body"], "Nobody else reads this.\n");
        assert!(
            page["cert"]["issuer"].as_str().unwrap().contains("Pebble"),
            "{page}"
        );
    });
}
