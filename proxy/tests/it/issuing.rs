//! An identity provider behind a name, from the tailnet and from the internet.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    front::{FQDN, FUNNEL, Front},
    funnel::opened,
};

const INTERNET: u16 = 443 + FUNNEL;
const DISCOVERY: &str = "/.well-known/openid-configuration";

fn set(front: &Front, funnel: &Value, generation: i64) {
    let provider = json!({
        "type": "identityProvider", "documents": "app-idp", "registrationSeconds": 60,
        "tokenSeconds": 300, "refreshSeconds": 300,
    });
    let listeners = json!([{ "port": 443, "protocol": provider }]);
    front.set_app(json!({ "listeners": listeners, "funnel": funnel }), generation);
}

/// Head and body of the answer; empty where there is none.
async fn get(front: &Front, port: u16, path: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = front.tls(port, FQDN, &[]).await {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {FQDN}\r\nConnection: close\r\n\r\n");
        if stream.write_all(request.as_bytes()).await.is_ok() {
            let _ = stream.read_to_string(&mut answer).await;
        }
    }
    answer
}

#[tokio::test]
async fn the_internet_has_what_clients_ask_and_nobody_there_is_known() {
    let front = Front::start();
    set(&front, &json!({ "ports": [443], "unauthenticated": true }), 1);
    opened(&front, 1).await;
    let inside = get(&front, 443, DISCOVERY).await;
    assert!(
        inside.starts_with("HTTP/1.1 200 ") && inside.contains("registration_endpoint"),
        "{inside}"
    );
    let outside = get(&front, INTERNET, DISCOVERY).await;
    assert!(
        outside.starts_with("HTTP/1.1 200 ") && !outside.contains("registration_endpoint"),
        "{outside}"
    );
    let keys = get(&front, INTERNET, "/.well-known/jwks.json").await;
    assert!(keys.contains("\"keys\""), "{keys}");
    for path in ["/", "/new", "/authorize?client_id=a&redirect_uri=https://a/"] {
        let answer = get(&front, INTERNET, path).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
    }
    // The tailnet's connections outlive it.
    let mut open = front.tls(443, FQDN, &[]).await.unwrap();
    set(&front, &Value::Null, 2);
    front
        .report(|report| report.applied_generation == 2 && report.funnel.is_empty())
        .await;
    let request = format!("GET {DISCOVERY} HTTP/1.1\r\nHost: {FQDN}\r\nConnection: close\r\n\r\n");
    open.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn clients_on_the_internet_are_bounded() {
    let front = Front::start();
    let limits = json!({ "perAddress": { "requestsPerMinute": 2 } });
    let funnel = json!({ "ports": [443], "sources": ["203.0.113.0/24"], "limits": limits });
    set(&front, &funnel, 1);
    opened(&front, 1).await;
    for status in [200, 200, 429] {
        let answer = get(&front, INTERNET, DISCOVERY).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(answer.contains("\r\nretry-after: "), status == 429, "{answer}");
    }
    assert!(get(&front, 443, DISCOVERY).await.contains(" 200 "));
    set(&front, &json!({ "ports": [443], "sources": ["192.0.2.0/24"] }), 2);
    opened(&front, 2).await;
    assert_eq!(get(&front, INTERNET, DISCOVERY).await, "");
    assert!(get(&front, 443, DISCOVERY).await.contains(" 200 "));
}

#[tokio::test]
async fn a_lock_that_a_provider_cannot_ask_for_is_refused() {
    let front = Front::start();
    set(&front, &Value::Null, 1);
    front.generation(1).await;
    for (funnel, why) in [
        (json!({ "ports": [443], "keys": { "name": "k" } }), "funnel.keys"),
        (json!({ "ports": [443] }), "unauthenticated"),
    ] {
        set(&front, &funnel, 2);
        let report = front.report(|report| report.reason.contains(why)).await;
        assert_eq!(report.applied_generation, 1, "{}", report.reason);
    }
}
