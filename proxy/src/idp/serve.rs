//! HTTP/1.1 in front of the provider: bodies are read whole, and each connection knows where it came in.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header, uri::Authority};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use postern_idp::{Arrival, LARGEST_BODY, Provider};
use tokio::net::TcpListener;

use super::requests;
use crate::{
    drain::Drain,
    listen::{Limits, http1},
    tailnet::Io,
};

/// The provider with what serving it needs.
pub(super) struct Host {
    pub(super) provider: Provider,
    pub(super) limits: Arc<Limits>,
    pub(super) drain: Drain,
    /// `-debug-all-requests`.
    pub(super) show_requests: bool,
}

const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// After an error of accepting, which is want of file descriptors: others need time to go.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Accepts on loopback until draining starts. Whoever comes this way is nobody.
pub(super) async fn local(host: Arc<Host>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = host.drain.start.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => host.connection(stream, Arrival::BackChannel, peer.ip()),
            Err(error) => {
                tracing::warn!(%error, "No connection on loopback");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Host {
    /// Serves a connection in a task of its own; too many from one address are dropped.
    pub(super) fn connection(self: &Arc<Self>, stream: impl Io + 'static, arrival: Arrival, from: IpAddr) {
        let Some(permit) = self.limits.admit(from) else {
            return;
        };
        let host = self.clone();
        self.drain.tasks.spawn(async move {
            let abort = host.drain.abort.clone();
            tokio::select! {
                biased;
                () = abort.cancelled() => {}
                () = host.http(stream, arrival) => {}
            }
            drop(permit);
        });
    }

    /// Serves a connection until it ends, or draining has ended it.
    pub(super) async fn http(self: &Arc<Self>, stream: impl Io, arrival: Arrival) {
        let service = service_fn(|request| {
            let host = self.clone();
            async move { Ok::<_, Infallible>(host.answer(arrival, request).await) }
        });
        let mut serving = std::pin::pin!(http1::builder().serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            biased;
            () = self.drain.start.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
            result = serving.as_mut() => result,
        };
        if let Err(error) = result {
            tracing::debug!(error = &error as &dyn std::error::Error, "Connection ended");
        }
    }

    async fn answer(&self, arrival: Arrival, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if !is_for(&request, arrival, self.provider.config().issuer.authority()) {
            // A page of another name must not get here by pointing its name at us (DNS rebinding).
            return plain(StatusCode::MISDIRECTED_REQUEST, "this host is not served here\n");
        }
        let (head, body) = request.into_parts();
        let body = Limited::new(body, LARGEST_BODY).collect();
        let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => {
                return plain(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the body is too large or broke off\n",
                );
            }
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n"),
        };
        if self.show_requests {
            tracing::info!(?arrival, request = requests::shown(&head, &body), "Request");
        }
        let request = Request::from_parts(head, body);
        let answer = self.provider.handle(arrival, request, Timestamp::now()).await;
        answer.map(Full::new)
    }
}

/// Whether the request names us. On the back channel any name of loopback does too.
fn is_for<B>(request: &Request<B>, arrival: Arrival, authority: &str) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let in_uri = request.uri().authority();
    if in_uri.is_some_and(|uri| uri != &host) {
        return false;
    }
    // The port of HTTPS may be named.
    let named = host.as_str().strip_suffix(":443").unwrap_or(host.as_str());
    let is_loopback = matches!(host.host(), "localhost" | "127.0.0.1" | "[::1]");
    named.eq_ignore_ascii_case(authority) || (arrival == Arrival::BackChannel && is_loopback)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_for_other_names_are_not_answered() {
        let tailnet = Arrival::Tailnet {
            peer: [100, 64, 0, 1].into(),
            local: [100, 64, 0, 2].into(),
        };
        let is_for = |arrival, uri: &str, hosts: &[&str]| {
            let request = hosts
                .iter()
                .fold(Request::get(uri), |r, host| r.header(header::HOST, *host));
            is_for(&request.body(()).unwrap(), arrival, "idp.example.ts.net")
        };
        assert!(is_for(tailnet, "/", &["idp.example.ts.net"]));
        assert!(is_for(tailnet, "/", &["IDP.example.ts.net:443"]));
        assert!(is_for(
            Arrival::Funnel,
            "https://idp.example.ts.net/",
            &["idp.example.ts.net"]
        ));
        for hosts in [
            &[][..],
            &["evil.example"],
            &["idp"],
            &["100.64.0.2"],
            &["idp.example.ts.net:8443"],
            &["idp.example.ts.net", "evil.example"],
        ] {
            assert!(!is_for(tailnet, "/", hosts), "{hosts:?}");
        }
        assert!(!is_for(tailnet, "https://evil.example/", &["idp.example.ts.net"]));
        assert!(is_for(Arrival::BackChannel, "/", &["idp.example.ts.net"]));
        assert!(!is_for(tailnet, "/", &["localhost"]));
        assert!(is_for(Arrival::BackChannel, "/", &["localhost:9090"]));
        assert!(is_for(Arrival::BackChannel, "/", &["[::1]:9090"]));
        assert!(!is_for(Arrival::BackChannel, "/", &["rebound.example:9090"]));
    }
}
