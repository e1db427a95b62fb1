//! Raw bytes in; what matters is what the backend got to see.

use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};

use crate::{
    backend::{Recorder, Wire, address, everything_to},
    front::{FQDN, Front},
};

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// Sends a head with these lines; the backend must not see anything.
async fn refused(front: &Front, wire: &Wire, line: &str, headers: &str, want: u16) {
    let before = wire.text().len();
    let answer = front
        .raw(80, format!("{line}\r\n{headers}Connection: close\r\n\r\n"))
        .await;
    assert_eq!(status(&answer), want, "{line} {headers:?}: {answer}");
    assert_eq!(
        wire.text().len(),
        before,
        "{line} {headers:?} reached the backend"
    );
}

#[tokio::test]
async fn ambiguous_requests_never_reach_the_backend() {
    let wire = Wire::start().await;
    let front = Front::serving(everything_to(&address(wire.addr))).await;
    let host = format!("Host: {FQDN}\r\n");
    for (line, headers, want) in [
        ("GET / HTTP/1.1", String::new(), 400),
        ("GET / HTTP/1.1", "Host:\r\n".into(), 400),
        ("GET / HTTP/1.1", format!("{host}{host}"), 400),
        ("GET / HTTP/1.1", format!("Host: x@{FQDN}\r\n"), 400),
        ("GET / HTTP/1.1", format!("Host: {FQDN}/x\r\n"), 400),
        ("GET http://other/ HTTP/1.1", host.clone(), 400),
        ("GET / HTTP/1.1", "Host: other.example\r\n".into(), 421),
        ("GET http://other/ HTTP/1.1", "Host: other\r\n".into(), 421),
        ("CONNECT app.example.ts.net:443 HTTP/1.1", host.clone(), 405),
        ("TRACE / HTTP/1.1", host.clone(), 405),
        (
            "POST / HTTP/1.1",
            format!("{host}Transfer-Encoding: gzip, chunked\r\n"),
            501,
        ),
        (
            "POST / HTTP/1.1",
            format!("{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            501,
        ),
        (
            "POST / HTTP/1.1",
            format!("{host}Transfer-Encoding: chunked, chunked\r\n"),
            501,
        ),
        (
            "POST / HTTP/1.1",
            format!("{host}Transfer-Encoding: chunked, gzip\r\n"),
            400,
        ),
        (
            "POST / HTTP/1.0",
            format!("{host}Transfer-Encoding: chunked\r\n"),
            400,
        ),
        ("POST / HTTP/1.1", format!("{host}Content-Length: +5\r\n"), 400),
        ("POST / HTTP/1.1", format!("{host}Content-Length: 5, 5\r\n"), 400),
        (
            "POST / HTTP/1.1",
            format!("{host}Content-Length: 5\r\nContent-Length: 6\r\n"),
            400,
        ),
        ("GET / HTTP/1.1", format!("{host}X : y\r\n"), 400),
        ("GET / HTTP/1.1", format!("{host}X: a\r\n b\r\n"), 400),
        ("GET / HTTP/1.1", format!("{host}X: a\0b\r\n"), 400),
        ("GET / HTTP/1.1", format!("{host}X: a\rb\r\n"), 400),
        ("GET /a/../b HTTP/1.1", host.clone(), 400),
        ("GET /a/%2e%2e/b HTTP/1.1", host.clone(), 400),
        ("GET /a/..;/b HTTP/1.1", host.clone(), 400),
        ("GET /a%2fb HTTP/1.1", host.clone(), 400),
        ("GET /a%5cb HTTP/1.1", host.clone(), 400),
        ("GET /a%00 HTTP/1.1", host.clone(), 400),
        ("GET /a\\b HTTP/1.1", host.clone(), 400),
        ("GET //evil.example/ HTTP/1.1", host.clone(), 400),
        ("GET /a//b HTTP/1.1", host.clone(), 400),
        ("GET / HTTP/1.1", format!("{host}Postern-Hops: 8\r\n"), 508),
        ("GET / HTTP/1.1", format!("{host}{}", "X: y\r\n".repeat(101)), 431),
        (
            "GET / HTTP/1.1",
            format!("{host}X: {}\r\n", "y".repeat(33_000)),
            431,
        ),
    ] {
        refused(&front, &wire, line, &headers, want).await;
    }
    // And it still serves.
    assert_eq!(status(&front.get(80, "/").await), 200);
    assert!(
        front
            .metrics
            .encode()
            .contains(r#"proxy_guard_rejections_total{reason="host_mismatch"} 1"#)
    );
}

#[tokio::test]
async fn what_is_framed_twice_is_one_message_for_the_backend() {
    let wire = Wire::start().await;
    let front = Front::serving(everything_to(&address(wire.addr))).await;
    // Content-Length and chunked: hyper takes chunked and closes; nothing is left over for a second request.
    let answer = front
        .raw(
            80,
            format!(
                "POST /one HTTP/1.1\r\nHost: {FQDN}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {FQDN}\r\nConnection: close\r\n\r\n"
            ),
        )
        .await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(!wire.text().contains("smuggled"));
    assert!(!wire.text().to_lowercase().contains("content-length: 4"));
    // Bare line feeds are accepted by hyper; what we write has none.
    let answer = front
        .raw(
            80,
            format!("GET /lf HTTP/1.1\nHost: {FQDN}\nConnection: close\n\n"),
        )
        .await;
    assert_eq!(status(&answer), 200);
    let text = wire.text();
    assert!(text.contains("GET /lf HTTP/1.1\r\n"));
    assert_eq!(text.replace("\r\n", "").matches('\n').count(), 0);
    // A body that ends early is no request.
    let mut cut = front.connect(80).await;
    tokio::io::AsyncWriteExt::write_all(
        &mut cut,
        format!("POST /cut HTTP/1.1\r\nHost: {FQDN}\r\nContent-Length: 10\r\n\r\nabc").as_bytes(),
    )
    .await
    .unwrap();
    drop(cut);
    assert_eq!(status(&front.get(80, "/after").await), 200);
}

const SPOOFS: [&str; 14] = [
    "Tailscale-User-Login: evil",
    "TAILSCALE-USER-LOGIN: evil",
    "tailscale_user_login: evil",
    "Tailscale.User.Login: evil",
    "Tailscale-User_Name: evil",
    "Tailscale-User-Profile-Pic: evil",
    "Tailscale-Headers-Info: evil",
    "Tailscale-Funnel-Request: evil",
    "Tailscale-App-Capabilities: evil",
    "X-Forwarded-For: evil",
    "X_Forwarded_For: evil",
    "X-Forwarded-Proto: evil",
    "Forwarded: for=evil",
    "X-Real-IP: evil",
];

#[tokio::test]
async fn no_spelling_of_an_identity_header_gets_through() {
    let backend = Recorder::start().await;
    let front = Front::serving(everything_to(&backend.backend())).await;
    for known in [false, true] {
        if known {
            front.nodes.user("alice@example.com", "Alice", "", &[]);
        }
        for spoof in SPOOFS {
            let name = spoof.split(':').next().unwrap();
            // Twice, and named in `Connection`, which would take ours away if it were obeyed too late.
            let answer = front
                .raw(
                    80,
                    format!(
                        "GET /{} HTTP/1.1\r\nHost: {FQDN}\r\n{spoof}\r\n{spoof}\r\nConnection: {name}, \
                         tailscale-user-login\r\nConnection: x-forwarded-for, close\r\n\r\n",
                        name.len()
                    ),
                )
                .await;
            assert_eq!(status(&answer), 200, "{spoof}: {answer}");
            let seen = backend.last();
            assert!(
                !format!("{:?}", seen.headers).contains("evil"),
                "{spoof}: {:?}",
                seen.headers
            );
            assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{spoof}");
            let login = known.then_some("alice@example.com");
            assert_eq!(seen.header("tailscale-user-login"), login, "{spoof}");
            assert!(seen.header("connection").is_none());
        }
    }
}

#[tokio::test]
async fn no_spelling_gets_through_over_http2_or_in_trailers() {
    let backend = Recorder::start().await;
    let front = Front::serving(everything_to(&backend.backend())).await;
    front.nodes.user("alice@example.com", "Alice", "", &[]);
    let mut request = Request::get(format!("https://{FQDN}/h2"));
    for spoof in SPOOFS {
        let (name, value) = spoof.split_once(": ").unwrap();
        request = request.header(name, value).header(name, value);
    }
    request = request.header("cookie", "a=1").header("cookie", "b=2");
    let response = front.h2_get(443, request.body(()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let seen = backend.last();
    assert!(
        !format!("{:?}", seen.headers).contains("evil"),
        "{:?}",
        seen.headers
    );
    assert_eq!(seen.header("tailscale-user-login"), Some("alice@example.com"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("host"), Some(FQDN));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));

    // Trailers, as gRPC over HTTP/2 and as chunks of HTTP/1.
    let mut trailers = HeaderMap::new();
    trailers.insert("tailscale-user-login", HeaderValue::from_static("evil"));
    trailers.insert("tailscale_user_name", HeaderValue::from_static("evil"));
    trailers.insert("grpc-fine", HeaderValue::from_static("yes"));
    let frames = [
        Ok::<_, std::io::Error>(http_body::Frame::data(bytes::Bytes::from_static(b"x"))),
        Ok(http_body::Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(futures::stream::iter(frames)).boxed();
    let mut sender = front.h2(443, FQDN).await;
    let request = Request::post(format!("https://{FQDN}/grpc"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    sender.send_request(request).await.unwrap();
    let seen = backend.last();
    assert_eq!(seen.version, http::Version::HTTP_2);
    let trailers = seen.trailers.unwrap();
    assert_eq!(trailers["grpc-fine"], "yes");
    assert_eq!(trailers.len(), 1, "{trailers:?}");

    let answer = front
        .raw(
            80,
            format!(
                "POST /trailers HTTP/1.1\r\nHost: {FQDN}\r\nTransfer-Encoding: chunked\r\nTrailer: \
                 tailscale-user-login\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\nTailscale-User-Login: evil\r\n\r\n"
            ),
        )
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = backend.last();
    assert_eq!(&seen.body[..], b"x");
    assert!(!format!("{:?}{:?}", seen.headers, seen.trailers).contains("evil"));
}

#[tokio::test]
async fn other_upgrades_are_not_passed_on() {
    let wire =
        Wire::answering(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n")
            .await;
    let front = Front::serving(everything_to(&address(wire.addr))).await;
    let answer = front
        .raw(
            80,
            format!(
                "GET / HTTP/1.1\r\nHost: {FQDN}\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: \
                 h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
            ),
        )
        .await;
    // The backend switches anyway: its answer isn't believed.
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(!wire.text().to_lowercase().contains("h2c"), "{}", wire.text());
    assert!(!wire.text().to_lowercase().contains("http2-settings"));
}
