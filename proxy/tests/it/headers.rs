//! What backends are told, and how routes and failures look.

use std::{cell::RefCell, sync::Once, time::Duration};

use serde_json::json;

use crate::{
    backend::{Recorder, address, everything_to},
    front::{FQDN, Front},
};

#[tokio::test]
async fn a_user_is_told_as_go_tells_it_and_a_tagged_node_is_not() {
    let backend = Recorder::start().await;
    let front = Front::serving(everything_to(&backend.backend())).await;
    front.nodes.user(
        "jürgen@example.com",
        "Jürgen Müller",
        "https://pics/1.png?a=b",
        &[],
    );
    front.get(80, "/x?y=1").await;
    let seen = backend.last();
    assert_eq!(seen.target, "/x?y=1");
    assert_eq!(
        seen.header("tailscale-user-login"),
        Some("=?utf-8?q?j=C3=BCrgen@example.com?=")
    );
    assert_eq!(
        seen.header("tailscale-user-name"),
        Some("=?utf-8?q?J=C3=BCrgen_M=C3=BCller?=")
    );
    assert_eq!(
        seen.header("tailscale-user-profile-pic"),
        Some("https://pics/1.png?a=b")
    );
    assert_eq!(
        seen.header("tailscale-headers-info"),
        Some("https://tailscale.com/s/serve-headers")
    );
    assert_eq!(
        seen.header("tailscale-app-capabilities"),
        Some(r#"{"example.com/cap/x":[{"n":1.0}]}"#)
    );
    assert_eq!(seen.header("x-forwarded-host"), Some(FQDN));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), None);
    assert_eq!(seen.header("host"), Some(FQDN));
    assert_eq!(seen.header("tailscale-funnel-request"), None);

    front
        .nodes
        .user("tagged-devices", "Tagged Devices", "", &["tag:ci"]);
    front.get(80, "/").await;
    let seen = backend.last();
    for name in ["login", "name", "profile-pic"] {
        assert_eq!(seen.header(&format!("tailscale-user-{name}")), None);
    }
    assert_eq!(seen.header("tailscale-headers-info"), None);
    assert!(seen.header("tailscale-app-capabilities").is_some());
}

#[tokio::test]
async fn a_change_of_the_netmap_counts_on_open_connections() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let backend = Recorder::start().await;
    let front = Front::serving(everything_to(&backend.backend())).await;
    let mut stream = front.connect(80).await;
    for login in ["alice@example.com", "bob@example.com"] {
        front.nodes.user(login, "", "", &[]);
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut buffer = [0; 4096];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        assert_eq!(backend.last().header("tailscale-user-login"), Some(login));
    }
}

#[tokio::test]
async fn routes_rules_and_failures() {
    let backend = Recorder::start().await;
    let nowhere = {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        closed.local_addr().unwrap()
    };
    let route = |path: &str, backend: serde_json::Value, more: serde_json::Value| {
        let mut route = json!({"path": {"type": "prefix", "value": path}, "backend": backend});
        route
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        route
    };
    let http = json!({"type": "http", "routes": [
        route("/app", backend.backend(), json!({"replacePrefix": "/inner"})),
        route("/team", backend.backend(), json!({"access": {"allow": [{"group": "group:eng"}]}})),
        route("/down", address(nowhere), json!({})),
        route("/gone", json!({"type": "service", "key": "a/b:80"}), json!({})),
        route("/bad", json!({"type": "unavailable", "reason": "no such service"}), json!({})),
        route("/text", json!({"type": "text", "text": "hello"}), json!({})),
        route("/small", backend.backend(), json!({"limits": {"bodyBytes": 4}})),
        route("/old", json!({"type": "redirect", "status": 302, "location": "https://${HOST}/new${REQUEST_URI}"}), json!({})),
    ]});
    let front = Front::serving(json!([
        {"port": 80, "protocol": http},
        {"port": 8080, "protocol": {"type": "redirectToHttps", "port": 443}},
    ]))
    .await;
    let get = async |path: &str| front.get(80, path).await;
    assert!(get("/app/x").await.ends_with("/inner/x"));
    assert!(get("/app").await.ends_with("/inner"));
    for (path, code) in [
        ("/", 404),
        ("/apple", 404),
        ("/team", 403),
        ("/down", 502),
        ("/gone", 503),
        ("/bad", 503),
    ] {
        let answer = get(path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code} ")),
            "{path}: {answer}"
        );
        assert!(answer.contains("\r\nx-request-id: "), "{path}: {answer}");
    }
    assert!(!backend.seen().iter().any(|s| s.target.starts_with("/team")));
    front.nodes.user("a@b", "", "", &[]);
    assert!(get("/team").await.starts_with("HTTP/1.1 200 "));
    assert!(get("/text").await.ends_with("hello"));
    let answer = get("/old?a=b").await;
    assert!(
        answer.contains(&format!("location: https://{FQDN}/new/old?a=b")),
        "{answer}"
    );
    let answer = front.get(8080, "/x?y").await;
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    assert!(
        answer.contains(&format!("location: https://{FQDN}/x?y\r\n")),
        "{answer}"
    );

    let short = "GET /x HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
    let answer = front.raw(8080, short).await;
    assert!(
        answer.contains(&format!("location: https://{FQDN}/x\r\n")),
        "{answer}"
    );

    // Too large, announced or not.
    let announced = format!(
        "POST /small HTTP/1.1\r\nHost: {FQDN}\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345"
    );
    assert!(front.raw(80, announced).await.starts_with("HTTP/1.1 413 "));
    let chunked = format!(
        "POST /small HTTP/1.1\r\nHost: {FQDN}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\n12345\r\n0\r\n\r\n"
    );
    let answer = front.raw(80, chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(!backend.seen().iter().any(|s| s.target == "/small"));

    let metrics = front.metrics.encode();
    for line in [
        r#"proxy_requests_total{name="app",route="*/app",method="GET",code_class="2xx"} 2"#,
        r#"proxy_upstream_errors_total{kind="bad_gateway"} 1"#,
        r#"proxy_upstream_errors_total{kind="unavailable"} 2"#,
        r#"proxy_request_duration_seconds_count{name="app"}"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn the_access_log_tells_the_request_and_no_secret() {
    Lines::collect();
    let backend = Recorder::start().await;
    let front = Front::serving(everything_to(&backend.backend())).await;
    front.nodes.user("alice@example.com", "Alice", "", &[]);
    front
        .raw(
            80,
            format!(
                "POST /path?token=secret1 HTTP/1.1\r\nHost: {FQDN}\r\nCookie: secret2\r\nAuthorization: secret3\r\n\
                 User-Agent: curl/8\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
            ),
        )
        .await;
    front.get(80, "/../x").await;
    let events = Lines::access(2).await;
    let text = Lines::text();
    assert!(!text.contains("secret"), "{text}");
    for (field, want) in [
        ("name", json!("app")),
        ("client.addr", json!("127.0.0.1")),
        ("client.id", json!("alice@example.com")),
        ("host", json!(FQDN)),
        ("method", json!("POST")),
        ("path", json!("/path")),
        ("version", json!("HTTP/1.1")),
        ("status", json!(200)),
        ("req_bytes", json!(3)),
        ("resp_bytes", json!("/path?token=secret1".len())),
        ("route", json!("*/")),
        ("upstream", json!(backend.addr.to_string())),
        ("retries", json!(0)),
        ("error.kind", json!("")),
        ("user_agent", json!("curl/8")),
    ] {
        assert_eq!(events[0][field], want, "{field}");
    }
    assert!(events[0]["ttfb_ms"].as_f64() <= events[0]["total_ms"].as_f64());
    assert_eq!(
        (&events[1]["status"], &events[1]["error.kind"]),
        (&json!(400), &json!("path"))
    );
}

thread_local! {
    /// What was logged on this thread; a test and what it talks to share one.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The log of the calling test. One subscriber for the process: with one per thread, a callsite that another thread
/// meets first would stay off for all of them.
struct Lines;

impl Lines {
    fn collect() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing_subscriber::fmt()
                .json()
                .flatten_event(true)
                .with_writer(|| Self)
                .init();
        });
    }

    fn text() -> String {
        LOGGED.with_borrow(|logged| String::from_utf8(logged.clone()).unwrap())
    }

    /// The access log once it has `count` lines: a line is written when the body has ended, which the client may
    /// see first.
    async fn access(count: usize) -> Vec<serde_json::Value> {
        let enough = async {
            loop {
                let events: Vec<serde_json::Value> = Self::text()
                    .lines()
                    .map(|line| serde_json::from_str(line).unwrap())
                    .filter(|event: &serde_json::Value| event["target"] == "access")
                    .collect();
                if events.len() >= count {
                    return events;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), enough)
            .await
            .unwrap_or_else(|_| panic!("fewer than {count} lines: {}", Self::text()))
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
