//! Changes of the configuration concern those that they change.

use std::sync::atomic::Ordering::SeqCst;

use postern_node::node::Status;
use postern_proxy_config::report::Phase;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::front::{FQDN, Front, Nodes, WAIT};

fn text(port: u16, text: &str) -> serde_json::Value {
    json!({"port": port, "protocol": {"type": "http", "routes": [
        {"path": {"type": "prefix", "value": "/"}, "backend": {"type": "text", "text": text}}]}})
}

async fn ask(stream: &mut tokio::net::TcpStream) -> String {
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut buffer = [0; 4096];
    let read = tokio::time::timeout(WAIT, stream.read(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test]
async fn connections_outlive_a_change_of_their_routes() {
    let front = Front::serving(json!([text(80, "one")])).await;
    let mut stream = front.connect(80).await;
    assert!(ask(&mut stream).await.ends_with("one"));
    front.set(json!([text(80, "two"), text(81, "more")]), 2);
    front.generation(2).await;
    assert!(ask(&mut stream).await.ends_with("two"));
    assert!(front.get(81, "/").await.ends_with("more"));
    assert_eq!(front.nodes.started.load(SeqCst), 1);
    // A port that goes takes its connections with it, and no others.
    let mut other = front.connect(81).await;
    assert!(ask(&mut other).await.ends_with("more"));
    front.set(json!([text(80, "three")]), 3);
    front.generation(3).await;
    let mut rest = Vec::new();
    tokio::time::timeout(WAIT, other.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(ask(&mut stream).await.ends_with("three"));
}

#[tokio::test]
async fn what_cannot_be_used_leaves_the_last_good_one() {
    let front = Front::serving(json!([text(80, "good")])).await;
    front.set(
        json!([{"port": 80, "protocol": {"type": "http", "routes": [
        {"path": {"type": "prefix", "value": "no-slash"}, "backend": {"type": "text", "text": "bad"}}]}}]),
        2,
    );
    let report = front.report(|r| !r.reason.is_empty()).await;
    assert_eq!(
        report.reason,
        "listeners[0].routes[0].path: the path doesn't start with a slash"
    );
    assert_eq!((report.applied_generation, report.phase), (1, Phase::Serving));
    assert!(front.get(80, "/").await.ends_with("good"));
    front.set(json!([text(80, "better")]), 3);
    assert_eq!(front.generation(3).await.reason, "");
    assert!(front.get(80, "/").await.ends_with("better"));
}

#[tokio::test]
async fn a_renamed_node_is_not_served() {
    let front = Front::with_nodes(Nodes::named("app-1.example.ts.net"));
    front.set(json!([text(80, "x")]), 1);
    let report = front.phase(Phase::NameTaken).await;
    assert!(
        report.reason.contains("app-1.example.ts.net"),
        "{}",
        report.reason
    );
    assert!(front.nodes.ports.lock().is_empty());
    assert_eq!(report.applied_generation, 0);
}

#[tokio::test]
async fn an_outage_of_control_changes_nothing_and_a_login_is_asked_for() {
    let front = Front::serving(json!([text(80, "x")])).await;
    front.nodes.status.send_replace(Status::KeyExpired);
    front.phase(Phase::NeedsLogin).await;
    assert!(front.get(80, "/").await.ends_with('x'));
}

#[tokio::test]
async fn a_name_that_goes_is_gone_from_the_report() {
    let front = Front::serving(json!([text(80, "x")])).await;
    let mut report = front.reports.subscribe();
    front.set_names(
        Default::default(),
        &serde_json::from_value(json!({"controlUrl": "http://unused"})).unwrap(),
    );
    tokio::time::timeout(WAIT, report.wait_for(|r| r.names.is_empty()))
        .await
        .unwrap()
        .unwrap();
    assert!(front.nodes.ports.lock().is_empty());
}
