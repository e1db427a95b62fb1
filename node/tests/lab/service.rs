//! A Tailscale Service, reached by Go clients.

use postern_node::service::{ServiceListener, ServiceMode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    examples::example,
    lab::{Lab, eventually, up, with_lab},
};

const SERVICE: &str = "svc:clock";

/// Waits until bob reaches the service on this host.
async fn reaches(lab: &Lab, url: &str, host: &str) {
    let end = format!(" on {host}.lab-tailnet.ts.net\n");
    eventually(&format!("{url}{end}"), async || {
        let answer = lab.fetch("bob", url).await;
        let body = answer["body"].as_str().unwrap_or_default();
        body.starts_with("bob@example.com reached ") && body.ends_with(&end)
    })
    .await;
}

#[test]
fn a_service_is_reached_on_another_host_when_one_ends() {
    with_lab(async |lab| {
        lab.start_authority().await;
        lab.start_clients().await;
        let definition = json!({"name": SERVICE, "ports": ["tcp:80", "tcp:443"]});
        let (_, defined) = lab
            .admin("PUT", &format!("/services/{SERVICE}"), Some(definition))
            .await;
        let defined: Value = serde_json::from_str(&defined).unwrap();
        let by_v6 = format!("http://[{}]/", defined["addrs"][1].as_str().unwrap());
        let (plain, secure) = (
            "http://clock.lab-tailnet.ts.net/",
            "https://clock.lab-tailnet.ts.net/",
        );

        let one = lab.start_example(&example("service"), "tskey-auth-tagged", &[]);
        lab.says(one, "approved=true").await;
        reaches(lab, plain, "clock-host").await;
        reaches(lab, secure, "clock-host").await;
        reaches(lab, &by_v6, "clock-host").await;
        let (_, listed) = lab.admin("GET", "/nodes/clock-host/c2n/vip-services", None).await;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let wanted = json!([{"Name": SERVICE, "Ports": ["tcp:80", "tcp:443"], "Active": true}]);
        assert_eq!(listed["VIPServices"], wanted);

        let approved = format!("/services/{SERVICE}/hosts/clock-host");
        lab.admin("PUT", &approved, Some(json!({"approved": false})))
            .await;
        lab.says(one, "approved=false").await;
        lab.admin("PUT", &approved, Some(json!({"approved": true}))).await;
        reaches(lab, plain, "clock-host").await;

        let two = lab.start_example(&example("service"), "tskey-auth-tagged", &[]);
        lab.says(two, "approved=true").await;
        lab.kill(one);
        reaches(lab, plain, "clock-host-1").await;
        reaches(lab, secure, "clock-host-1").await;
    });
}

/// Answers each connection with the host's name, as [`reaches`] wants it.
async fn serve(mut listener: ServiceListener) {
    while let Some(mut stream) = listener.accept().await {
        let _request = stream.read(&mut [0; 4096]).await;
        let body = "bob@example.com reached it on host.lab-tailnet.ts.net\n";
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
        let _gone = stream.write_all(answer.as_bytes()).await;
        let _gone = stream.shutdown().await;
    }
}

/// Waits until bob gets no answer any more.
async fn misses(lab: &Lab, url: &str) {
    eventually(&format!("{url} is not reached"), async || {
        lab.fetch_within(2, "bob", url).await["status"] != 200
    })
    .await;
}

/// The services that the node lists when control asks, and whether control should send clients there.
async fn listed(lab: &Lab) -> Vec<(String, bool)> {
    let (_, answer) = lab.admin("GET", "/nodes/host/c2n/vip-services", None).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let services = answer["VIPServices"].as_array().cloned().unwrap_or_default();
    let name = |service: &Value| service["Name"].as_str().unwrap().to_owned();
    services
        .iter()
        .map(|service| (name(service), service["Active"] == true))
        .collect()
}

#[test]
fn a_node_hosts_two_services_and_withdraws_each_while_it_runs() {
    with_lab(async |lab| {
        lab.start_clients().await;
        for name in ["svc:red", "svc:blue"] {
            let definition = json!({"name": name, "ports": ["tcp:80"]});
            lab.admin("PUT", &format!("/services/{name}"), Some(definition))
                .await;
        }
        let (node, _) = up(lab.config("host", Some("tskey-auth-tagged"))).await;
        let host = async |name| {
            let listener = node.listen_service(name, ServiceMode::Tcp { port: 80 }).await;
            listener.unwrap()
        };
        let both = |red| [("svc:blue".to_owned(), true), ("svc:red".to_owned(), red)];
        let (red, blue) = (
            "http://red.lab-tailnet.ts.net/",
            "http://blue.lab-tailnet.ts.net/",
        );
        tokio::spawn(serve(host("svc:red").await));
        let serving_blue = tokio::spawn(serve(host("svc:blue").await));
        reaches(lab, red, "host").await;
        reaches(lab, blue, "host").await;
        assert_eq!(listed(lab).await, both(true));

        // Advertised no more, and again.
        let name = "svc:red".parse().unwrap();
        assert!(node.advertise_service(&name, false));
        misses(lab, red).await;
        assert_eq!(listed(lab).await, both(false));
        reaches(lab, blue, "host").await;
        assert!(node.advertise_service(&name, true));
        reaches(lab, red, "host").await;

        // One listener of two is dropped, and made anew.
        serving_blue.abort();
        let _dropped = serving_blue.await;
        misses(lab, blue).await;
        assert_eq!(listed(lab).await, [("svc:red".to_owned(), true)]);
        reaches(lab, red, "host").await;
        tokio::spawn(serve(host("svc:blue").await));
        reaches(lab, blue, "host").await;
        assert_eq!(listed(lab).await, both(true));
        node.close().await;
    });
}

#[test]
fn a_users_node_hosts_nothing_and_hears_what_to_do() {
    with_lab(async |lab| {
        let (node, _) = up(lab.config("host", Some("tskey-auth-alice"))).await;
        let refused = node.listen_service(SERVICE, ServiceMode::Tcp { port: 80 }).await;
        assert_eq!(
            refused.unwrap_err().to_string(),
            "hosts of Services must be tagged nodes: log this node in with an auth key that has tags"
        );
        node.close().await;
    });
}
