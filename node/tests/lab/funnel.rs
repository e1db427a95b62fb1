//! Funnel, with a Go node as its edge; and datagrams.

use std::process::Command;

use serde_json::json;

use crate::{
    examples::{example, page},
    lab::{CONTROL, EDGE, Lab, eventually, with_lab},
};

const NAME: &str = "funnel.lab-tailnet.ts.net";

/// What somebody on the internet gets; empty where there is no answer.
fn from_internet(lab: &Lab) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "5", "--cacert"])
        .arg(lab.path("trust.pem"))
        .args([
            "--connect-to",
            &format!("{NAME}:443:{EDGE}"),
            &format!("https://{NAME}/"),
        ]);
    String::from_utf8(curl.output().unwrap().stdout).unwrap()
}

#[test]
fn the_internet_reaches_a_funnel_by_its_edge_alone() {
    with_lab(async |lab| {
        lab.start_authority().await;
        lab.start_clients().await;
        let server = lab.start_example(&example("funnel"), "tskey-auth-tagged", &[]);
        lab.says(server, "Open to the internet").await;
        let url = format!("https://{NAME}/");
        assert_eq!(page(lab, &url).await["body"], "Hello, Alice Example!\n");
        let info = lab.device("funnel").await["hostinfo"].clone();
        assert_eq!(info["IngressEnabled"], true);
        let services = info["Services"].to_string();
        assert!(
            services.contains("peerapi4") && services.contains("peerapi6"),
            "{services}"
        );

        let edge = lab.start_edge().await;
        eventually("an answer through the edge", async || {
            let body = from_internet(lab);
            body.starts_with("Hello, 127.0.0.1:") && body.ends_with(" of the internet!\n")
        })
        .await;
        lab.admin("PUT", "/nodes/edge/ingress-cap", Some(json!(false)))
            .await;
        eventually("the edge is refused", async || from_internet(lab).is_empty()).await;
        let log = lab.log(edge);
        assert!(log.contains("HTTP/1.1 403 Forbidden"), "{log}");
        assert_eq!(page(lab, &url).await["body"], "Hello, Alice Example!\n");
        lab.admin("PUT", "/nodes/edge/ingress-cap", Some(json!(true)))
            .await;
        eventually("the edge is let in again", async || {
            !from_internet(lab).is_empty()
        })
        .await;
    });
}

#[test]
fn datagrams_are_answered_to_go_and_to_ourselves() {
    with_lab(async |lab| {
        let echo = lab.start_example(&example("udp-echo"), "tskey-auth-tagged", &[]);
        lab.says(echo, "Echoes").await;
        let ours = lab.start_example(&example("udp-echo"), "tskey-auth-bob", &[CONTROL, "udp-echo:7"]);
        let said = lab.ended(ours).await;
        assert!(said.contains("said=hello"), "{said}");
        let go = lab.start_udp_client("udp-echo:7");
        let said = lab.ended(go).await;
        assert!(said.contains(r#""said":"hello""#), "{said}");
    });
}
