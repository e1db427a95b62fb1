//! Funnel, with a Go node as its edge; and datagrams.

use std::process::Command;

use postern_node::{
    funnel::{FunnelMode, FunnelStream},
    tls_listener::TlsListener,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    examples::{example, page},
    lab::{CONTROL, Lab, eventually, up, with_lab},
};

const NAME: &str = "funnel.lab-tailnet.ts.net";

/// What somebody on the internet gets; empty where there is no answer.
async fn from_internet(lab: &Lab, port: u16) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "5", "--cacert"])
        .arg(lab.path("trust.pem"))
        .args([
            "--connect-to",
            &format!("{NAME}:{port}:127.0.0.1:{port}"),
            &format!("https://{NAME}:{port}/"),
        ]);
    // Our own node may be the one that answers, on this very thread.
    let output = tokio::task::spawn_blocking(move || curl.output()).await;
    String::from_utf8(output.unwrap().unwrap().stdout).unwrap()
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

        let edge = lab.start_edge(443).await;
        eventually("an answer through the edge", async || {
            let body = from_internet(lab, 443).await;
            body.starts_with("Hello, 127.0.0.1:") && body.ends_with(" of the internet!\n")
        })
        .await;
        lab.admin("PUT", "/nodes/edge-443/ingress-cap", Some(json!(false)))
            .await;
        eventually("the edge is refused", async || {
            from_internet(lab, 443).await.is_empty()
        })
        .await;
        let log = lab.log(edge);
        assert!(log.contains("HTTP/1.1 403 Forbidden"), "{log}");
        assert_eq!(page(lab, &url).await["body"], "Hello, Alice Example!\n");
        lab.admin("PUT", "/nodes/edge-443/ingress-cap", Some(json!(true)))
            .await;
        eventually("the edge is let in again", async || {
            !from_internet(lab, 443).await.is_empty()
        })
        .await;
    });
}

/// Says to each visitor whether he came from the internet.
async fn tell(mut listener: TlsListener<FunnelStream>) {
    while let Some(mut stream) = listener.accept().await {
        let body = stream.get_ref().0.is_funnel().to_string();
        let length = body.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        if stream.read(&mut [0; 1024]).await.is_ok() && stream.write_all(answer.as_bytes()).await.is_ok() {
            let _ = stream.shutdown().await;
        }
    }
}

#[test]
fn the_other_ports_of_funnel_and_a_funnel_that_leaves_the_tailnet_out() {
    with_lab(async |lab| {
        lab.start_authority().await;
        lab.start_clients().await;
        let (node, _) = up(lab.secure_config("funnel", "tskey-auth-tagged")).await;
        let error = node.listen_funnel(80, FunnelMode::Both).await.unwrap_err();
        let allowed = "port 80 is not allowed for Funnel: the tailnet's policy allows 443,8443,10000";
        assert!(error.to_string().contains(allowed), "{error}");
        let only = node.listen_funnel(8443, FunnelMode::FunnelOnly).await.unwrap();
        let both = node.listen_funnel(10000, FunnelMode::Both).await.unwrap();
        let listeners = [tokio::spawn(tell(only)), tokio::spawn(tell(both))];

        let of_tailnet = page(lab, &format!("https://{NAME}:10000/")).await;
        assert_eq!(of_tailnet["body"], "false");
        let refused = lab.fetch("alice", &format!("https://{NAME}:8443/")).await;
        assert!(
            refused["error"].as_str().unwrap().contains("refused"),
            "{refused}"
        );
        for port in [8443, 10000] {
            lab.start_edge(port).await;
            eventually("an answer through the edge", async || {
                from_internet(lab, port).await == "true"
            })
            .await;
        }
        node.close().await;
        for listener in listeners {
            listener.await.unwrap();
        }
    });
}

#[test]
fn datagrams_are_answered_to_go_by_either_family_and_to_ourselves() {
    with_lab(async |lab| {
        let echo = lab.start_example(&example("udp-echo"), "tskey-auth-tagged", &[]);
        lab.says(echo, "Echoes").await;
        let ours = lab.start_example(&example("udp-echo"), "tskey-auth-bob", &[CONTROL, "udp-echo:7"]);
        let said = lab.ended(ours).await;
        assert!(said.contains("said=hello"), "{said}");
        let addresses = lab.device("udp-echo").await["addresses"].clone();
        let v6 = addresses[1].as_str().unwrap().strip_suffix("/128").unwrap();
        for to in ["udp-echo:7", &format!("[{v6}]:7")] {
            let go = lab.start_udp_client(to);
            let said = lab.ended(go).await;
            assert!(said.contains(r#""said":"hello""#), "{to}: {said}");
        }
    });
}
