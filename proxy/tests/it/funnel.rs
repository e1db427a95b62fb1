//! What comes from the internet, beside what comes from the tailnet.

use std::time::Duration;

use postern_node::funnel::FunnelError;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    backend::{Recorder, everything_to},
    front::{FQDN, FUNNEL, Front, WAIT, self_signed},
};

/// The backend on both ports of the tailnet, one of them on Funnel.
async fn on_funnel(front: &Front, backend: &Recorder) {
    let fields = json!({"listeners": everything_to(&backend.backend()), "funnel": [443]});
    front.set_app(fields, 1);
    front.generation(1).await;
    until(|| front.nodes.ports.lock().contains_key(&(443 + FUNNEL))).await;
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
async fn get(front: &Front, port: u16, sni: &str, host: &str, more: &str) -> String {
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
        "listeners": everything_to(&backend.backend()), "funnel": [443],
        "certificates": [{"secret": {"name": "shop", "revision": "1"}}],
    });
    front.set_app(fields, 1);
    front.generation(1).await;
    until(|| front.nodes.ports.lock().contains_key(&(443 + FUNNEL))).await;
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
async fn who_is_let_in_by_name_is_not_let_in_from_the_internet() {
    let backend = Recorder::start().await;
    let front = Front::start();
    front.nodes.user("alice@example.com", "Alice", "", &[]);
    let mut listeners = everything_to(&backend.backend());
    listeners[1]["protocol"]["routes"][0]["access"] = json!({"allow": [{"user": "alice@example.com"}]});
    front.set_app(json!({ "listeners": listeners, "funnel": [443] }), 1);
    front.generation(1).await;
    until(|| front.nodes.ports.lock().contains_key(&(443 + FUNNEL))).await;
    assert!(get(&front, 443, FQDN, FQDN, "").await.contains(" 200 "));
    assert!(get(&front, 443 + FUNNEL, FQDN, FQDN, "").await.contains(" 403 "));
}

#[tokio::test]
async fn funnel_follows_the_configuration_and_the_policy() {
    let backend = Recorder::start().await;
    let front = Front::start();
    *front.nodes.no_funnel.lock() = Some(FunnelError::NoAttribute);
    let listeners = everything_to(&backend.backend());
    let set = |funnel: Value, generation| {
        front.set_app(json!({ "listeners": listeners, "funnel": funnel }), generation);
    };
    set(json!([443]), 1);
    // The tailnet is served, and the report says what the internet lacks.
    let report = front.report(|r| r.reason.contains("\"funnel\"")).await;
    assert_eq!(report.applied_generation, 1);
    assert!(get(&front, 443, FQDN, FQDN, "").await.contains(" 200 "));
    *front.nodes.no_funnel.lock() = None;
    front.report(|r| r.reason.is_empty()).await;
    assert!(get(&front, 443 + FUNNEL, FQDN, FQDN, "").await.contains(" 200 "));

    let mut open = front.tls(443, FQDN, &["http/1.1"]).await.unwrap();
    set(json!([]), 2);
    front.generation(2).await;
    until(|| !front.nodes.ports.lock().contains_key(&(443 + FUNNEL))).await;
    // The tailnet's connections outlive it.
    let request = format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\nConnection: close\r\n\r\n");
    open.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 200 "), "{answer}");

    set(json!([80]), 3);
    let report = front.report(|r| r.reason.contains("port 80")).await;
    assert_eq!(report.applied_generation, 2, "{}", report.reason);
}
