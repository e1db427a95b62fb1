//! Requests from control to the node (Go: `feature/c2n`): HTTP/1 inside a ping.
//!
//! hyper's server reads the request and writes the answer, so that framing and odd requests are its
//! business.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;

use super::{C2n, error::SessionError};

/// The answer to a raw HTTP/1 request, as raw HTTP/1.1.
pub(super) async fn answer(request: &[u8], node: &dyn C2n) -> Result<Vec<u8>, SessionError> {
    let mut answer = Vec::new();
    let io = TokioIo::new(tokio::io::join(request, &mut answer));
    let service = service_fn(|request| async { Ok::<_, Infallible>(respond(request, node).await) });
    http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .serve_connection(io, service)
        .await?;
    Ok(answer)
}

/// With the status codes of Go (`ipn/ipnlocal/c2n.go`), for what a node without logs and debug interface has.
async fn respond(request: Request<Incoming>, node: &dyn C2n) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        // Control probes with it whether this node is a live host of a service.
        (_, "/echo") => match body.collect().await {
            Ok(body) => reply(StatusCode::OK, "application/octet-stream", body.to_bytes()),
            Err(_) => text(StatusCode::BAD_REQUEST, "the body is incomplete\n"),
        },
        (&Method::GET, "/vip-services") => json(node.vip_services()),
        (&Method::GET, "/tls-cert-status") => match domain(head.uri.query()) {
            Some(domain) => json(node.tls_cert_status(&domain).await),
            None => text(StatusCode::BAD_REQUEST, "no 'domain'\n"),
        },
        // We have told control that we send no logs (`Hostinfo.NoLogsNoSupport`).
        (&Method::POST, "/logtail/flush") => {
            text(StatusCode::INTERNAL_SERVER_ERROR, "no log flusher wired up\n")
        }
        (&Method::POST, "/sockstats") => text(StatusCode::INTERNAL_SERVER_ERROR, "no sockstatLogger\n"),
        (_, path) if path.starts_with("/debug/") && DEBUG.contains(&path) => text(
            StatusCode::NOT_IMPLEMENTED,
            "feature not included in this build\n",
        ),
        // Go says so of these alone (its list of paths is made before all have been added).
        (_, "/logtail/flush" | "/sockstats") => text(StatusCode::METHOD_NOT_ALLOWED, "bad method\n"),
        _ => text(StatusCode::BAD_REQUEST, "unknown c2n path\n"),
    }
}

/// What Go's node shows of its inside.
const DEBUG: &[&str] = &[
    "/debug/component-logging",
    "/debug/goroutines",
    "/debug/health",
    "/debug/logheap",
    "/debug/metrics",
    "/debug/netmap",
    "/debug/pprof/allocs",
    "/debug/pprof/heap",
    "/debug/prefs",
];

/// The parameter `domain`. Go's control escapes the asterisk of a wildcard.
fn domain(query: Option<&str>) -> Option<String> {
    let value = query?.split('&').find_map(|pair| pair.strip_prefix("domain="))?;
    let domain = percent_decode_str(value).decode_utf8().ok()?;
    (!domain.is_empty()).then(|| domain.into_owned())
}

/// A line, as Go's encoder makes it.
fn json(mut body: String) -> Response<Full<Bytes>> {
    body.push('\n');
    reply(StatusCode::OK, "application/json", body.into())
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    reply(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(body.as_bytes()),
    )
}

fn reply(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::Answer;

    struct Node;
    impl C2n for Node {
        fn tls_cert_status(&self, domain: &str) -> Answer<String> {
            let status = format!(r#"{{"Valid":true,"Error":"{domain}"}}"#);
            Box::pin(std::future::ready(status))
        }
    }

    async fn ask(request: &str) -> String {
        String::from_utf8(answer(request.as_bytes(), &Node).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_control_asks_is_answered() {
        let echo = ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").await;
        assert!(
            echo.starts_with("HTTP/1.1 200 OK\r\n") && echo.ends_with("\r\n\r\nhello"),
            "{echo}"
        );
        let chunked =
            "PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        assert!(ask(chunked).await.ends_with("\r\n\r\nhi"));
        let services = ask("GET /vip-services HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(services.contains("content-type: application/json\r\n"));
        assert!(services.ends_with("{\"ServicesHash\":\"\"}\n"));
        for (escaped, name) in [("a.b.c", "a.b.c"), ("%2A.b%2ec", "*.b.c")] {
            let cert = ask(&format!("GET /tls-cert-status?domain={escaped} HTTP/1.1\r\n\r\n")).await;
            let told = format!("{{\"Valid\":true,\"Error\":\"{name}\"}}\n");
            assert!(cert.ends_with(&told), "{cert}");
        }
    }

    #[tokio::test]
    async fn the_rest_is_refused_with_the_status_that_go_gives() {
        for (request, status) in [
            ("GET /debug/pprof", 400),
            ("POST /vip-services", 400),
            ("GET /tls-cert-status", 400),
            ("GET /tls-cert-status?domain=%ff", 400),
            ("POST /update?force=true", 400),
            ("GET /logtail/flush", 405),
            ("POST /logtail/flush", 500),
            ("GET /debug/netmap", 501),
            ("GET /remoteapi/localapi/v0/status", 400),
        ] {
            let answer = ask(&format!("{request} HTTP/1.1\r\nContent-Length: 0\r\n\r\n")).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {answer}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_request_makes_it_panic_or_hang(request in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(answer(&request, &Node));
        }
    }
}
