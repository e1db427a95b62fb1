//! What comes from the internet, beside what comes from the tailnet.

use std::time::Duration;

use postern_node::funnel::FunnelError;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    backend::{Recorder, everything_to},
    front::{FQDN, FUNNEL, Front, WAIT, self_signed},
};

/// The backend on both ports of the tailnet, one of them on Funnel, for everybody.
async fn on_funnel(front: &Front, backend: &Recorder) {
    front.set_app(json!({"listeners": public(backend), "funnel": open_to_all()}), 1);
    opened(front, 1).await;
}

/// Everything to the backend, from the internet too.
pub fn public(backend: &Recorder) -> Value {
    let mut listeners = everything_to(&backend.backend());
    listeners[1]["protocol"]["routes"][0]["funnel"] = json!(true);
    listeners
}

pub fn open_to_all() -> Value {
    json!({"ports": [443], "unauthenticated": true})
}

/// The generation is served, and its port is open to the internet.
pub async fn opened(front: &Front, generation: i64) {
    front
        .report(|r| r.applied_generation == generation && r.funnel == [443].into())
        .await;
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, waiting)
        .await
        .expect("the condition comes true");
}

/// A request over TLS with this SNI to this host; empty where there is no answer.
pub async fn get(front: &Front, port: u16, sni: &str, host: &str, more: &str) -> String {
    let Ok(mut stream) = front.tls(port, sni, &["http/1.1"]).await else {
        return String::new();
    };
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = stream.read_to_string(&mut answer).await;
    }
    answer
}

#[tokio::test]
async fn nobody_on_the_internet_has_an_identity() {
    let backend = Recorder::start().await;
    let front = Front::start();
    // Whoever had the client's address on the tailnet.
    front
        .nodes
        .user("alice@example.com", "Alice", "https://pics/1.png", &[]);
    on_funnel(&front, &backend).await;
    let forged = "Tailscale-User-Login: alice@example.com\r\nX-Forwarded-For: 100.64.0.1\r\nTailscale-Funnel-Request: ?0\r\n";
    let answer = get(&front, 443 + FUNNEL, FQDN, FQDN, forged).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = backend.last();
    assert_eq!(seen.header("tailscale-funnel-request"), Some("?1"));
    assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.7"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some(FQDN));
    for name in [
        "user-login",
        "user-name",
        "user-profile-pic",
        "app-capabilities",
        "headers-info",
    ] {
        assert_eq!(seen.header(&format!("tailscale-{name}")), None, "{name}");
    }
    // The tailnet's own requests are as before.
    get(&front, 443, FQDN, FQDN, "").await;
    let seen = backend.last();
    assert_eq!(seen.header("tailscale-user-login"), Some("alice@example.com"));
    assert_eq!(seen.header("tailscale-funnel-request"), None);
    assert!(!front.nodes.ports.lock().contains_key(&(80 + FUNNEL)));
}

#[tokio::test]
async fn the_internet_reaches_the_nodes_own_name_alone() {
    let backend = Recorder::start().await;
    let front = Front::start();
    let (cert, key) = self_signed(&["shop.example.com", FQDN]);
    front.nodes.issued.lock().push(cert.der().clone());
    let pair = postern_proxy::serve::PemPair {
        chain: cert.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
    };
    front.nodes.secrets.lock().insert("shop".into(), pair);
    let fields = json!({
        "listeners": public(&backend), "funnel": open_to_all(),
        "certificates": [{"secret": {"name": "shop", "revision": "1"}}],
    });
    front.set_app(fields, 1);
    opened(&front, 1).await;
    assert!(
        get(&front, 443, "shop.example.com", "shop.example.com", "")
            .await
            .contains(" 200 ")
    );
    assert!(
        get(&front, 443, FQDN, "shop.example.com", "")
            .await
            .contains(" 200 ")
    );
    let internet = 443 + FUNNEL;
    assert_eq!(
        get(&front, internet, "shop.example.com", "shop.example.com", "").await,
        ""
    );
    // Not by the certificate that is for both names either.
    assert!(
        get(&front, internet, FQDN, "shop.example.com", "")
            .await
            .contains(" 421 ")
    );
    assert!(get(&front, internet, FQDN, FQDN, "").await.contains(" 200 "));
}

#[tokio::test]
async fn nothing_is_on_the_internet_that_was_not_said_to_be() {
    let backend = Recorder::start().await;
    let front = Front::start();
    let mut listeners = public(&backend);
    let route = |path: &str, funnel: bool| json!({"path": {"type": "prefix", "value": path}, "backend": backend.backend(), "funnel": funnel});
    listeners[1]["protocol"]["routes"] = json!([
        route("/", false),
        route("/models", true),
        route("/models/admin", false),
    ]);
    front.set_app(json!({ "listeners": listeners, "funnel": open_to_all() }), 1);
    opened(&front, 1).await;
    for (path, tailnet, internet) in [
        ("/", 200, 404),
        ("/x", 200, 404),
        ("/models", 200, 200),
        ("/models/x", 200, 200),
        // The more precise route is not public, and the one above it doesn't stand in for it.
        ("/models/admin", 200, 404),
        ("/models/admin/x", 200, 404),
    ] {
        let status = async |port| get_path(&front, port, path).await;
        assert_eq!(status(443).await, tailnet, "{path}");
        assert_eq!(status(443 + FUNNEL).await, internet, "{path}");
    }
}

async fn get_path(front: &Front, port: u16, path: &str) -> u16 {
    let mut stream = front.tls(port, FQDN, &["http/1.1"]).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {FQDN}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_lock_that_nobody_spoke_of_is_asked_for() {
    let backend = Recorder::start().await;
    let front = Front::start();
    front.set_app(json!({"listeners": public(&backend)}), 1);
    front.generation(1).await;
    for (funnel, why) in [
        (json!({"ports": [443]}), "unauthenticated"),
        (json!({"ports": [8443], "unauthenticated": true}), "port 8443"),
    ] {
        front.set_app(json!({"listeners": public(&backend), "funnel": funnel}), 2);
        let report = front.report(|r| r.reason.contains(why)).await;
        assert_eq!(report.applied_generation, 1, "{}", report.reason);
        assert!(report.funnel.is_empty());
    }
}

#[tokio::test]
async fn a_port_can_be_on_funnel_alone() {
    let backend = Recorder::start().await;
    let front = Front::start();
    let set = |only: bool, generation| {
        let funnel = json!({"ports": [443], "unauthenticated": true, "only": only});
        front.set_app(
            json!({ "listeners": public(&backend), "funnel": funnel }),
            generation,
        );
    };
    set(true, 1);
    opened(&front, 1).await;
    assert!(!front.nodes.ports.lock().contains_key(&443));
    assert!(get(&front, 443 + FUNNEL, FQDN, FQDN, "").await.contains(" 200 "));
    set(false, 2);
    opened(&front, 2).await;
    assert!(get(&front, 443, FQDN, FQDN, "").await.contains(" 200 "));
    set(true, 3);
    opened(&front, 3).await;
    until(|| !front.nodes.ports.lock().contains_key(&443)).await;
    assert!(get(&front, 443 + FUNNEL, FQDN, FQDN, "").await.contains(" 200 "));
}

#[tokio::test]
async fn funnel_follows_the_configuration_and_the_policy() {
    let backend = Recorder::start().await;
    let front = Front::start();
    *front.nodes.no_funnel.lock() = Some(FunnelError::NoAttribute);
    let listeners = public(&backend);
    let set = |funnel: Value, generation| {
        front.set_app(json!({ "listeners": listeners, "funnel": funnel }), generation);
    };
    set(open_to_all(), 1);
    // The tailnet is served, and the report says what the internet lacks.
    let report = front.report(|r| r.reason.contains("\"funnel\"")).await;
    assert_eq!(report.applied_generation, 1);
    assert!(report.funnel.is_empty());
    assert!(get(&front, 443, FQDN, FQDN, "").await.contains(" 200 "));
    *front.nodes.no_funnel.lock() = None;
    let report = front.report(|r| r.funnel == [443].into()).await;
    assert_eq!(report.reason, "");
    assert!(get(&front, 443 + FUNNEL, FQDN, FQDN, "").await.contains(" 200 "));

    let mut open = front.tls(443, FQDN, &["http/1.1"]).await.unwrap();
    set(Value::Null, 2);
    front.generation(2).await;
    until(|| !front.nodes.ports.lock().contains_key(&(443 + FUNNEL))).await;
    // The tailnet's connections outlive it.
    let request = format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\nConnection: close\r\n\r\n");
    open.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 200 "), "{answer}");

    set(json!({"ports": [80], "unauthenticated": true}), 3);
    let report = front.report(|r| r.reason.contains("port 80")).await;
    assert_eq!(report.applied_generation, 2, "{}", report.reason);
}
