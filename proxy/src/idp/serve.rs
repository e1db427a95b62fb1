//! HTTP/1.1 in front of the provider: bodies are read whole, and each connection knows where it came in.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, header, request, uri::Authority};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use postern_idp::{Arrival, LARGEST_BODY, Provider};
use tokio::net::TcpListener;

use super::{requests, visitor::Visitor};
use crate::{
    drain::Drain,
    http::{
        Failure, RequestId, ResponseBody,
        access_log::{Opening, Record},
        gate::Entered,
        guard::Rejection,
    },
    limiter::{Limiter, Subject},
    listen::{Limits, http1},
    metrics::Metrics,
    tailnet::Io,
};

/// The provider with what serving it needs.
pub(super) struct Host {
    pub(super) provider: Provider,
    /// The name's key, for logs and metrics.
    pub(super) name: Arc<str>,
    pub(super) metrics: Metrics,
    /// Requests from the internet.
    pub(super) limiter: Arc<Limiter>,
    /// `-debug-all-requests`.
    pub(super) show_requests: bool,
}

const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// After an error of accepting, which is want of file descriptors: others need time to go.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Accepts on loopback until draining starts. Whoever comes this way is nobody.
pub(super) async fn local(host: Arc<Host>, limits: Arc<Limits>, drain: Drain, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.start.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => host.connection(stream, Visitor::inside(peer), &limits, &drain),
            Err(error) => {
                tracing::warn!(%error, "No connection on loopback");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Host {
    /// Serves a connection in a task of its own; too many from one address are dropped.
    pub(super) fn connection(
        self: &Arc<Self>,
        stream: impl Io + 'static,
        visitor: Visitor,
        limits: &Arc<Limits>,
        drain: &Drain,
    ) {
        let Some(permit) = limits.admit(visitor.source) else {
            return;
        };
        let (host, drain) = (self.clone(), drain.clone());
        drain.tasks.clone().spawn(async move {
            let abort = drain.abort.clone();
            abort
                .run_until_cancelled(host.http(stream, visitor, &drain))
                .await;
            drop(permit);
        });
    }

    /// Serves a connection until it ends, or draining has ended it.
    pub(super) async fn http(self: &Arc<Self>, stream: impl Io, visitor: Visitor, drain: &Drain) {
        let service = service_fn(|request| {
            let host = self.clone();
            async move { Ok::<_, Infallible>(host.answer(visitor, request).await) }
        });
        let mut serving = std::pin::pin!(http1::builder().serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            biased;
            () = drain.start.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
            result = serving.as_mut() => result,
        };
        if let Err(error) = result {
            tracing::debug!(error = &error as &dyn std::error::Error, "Connection ended");
        }
    }

    async fn answer(&self, visitor: Visitor, request: Request<Incoming>) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        let request_id = RequestId::new(SystemTime::now());
        let opening = Opening {
            name: self.name.clone(),
            peer: visitor.peer,
            funnel: visitor.arrival == Arrival::Funnel,
            sni: None,
            request_id: &request_id,
            head: &head,
        };
        let mut record = Record::open(&self.metrics, opening);
        let (answer, error) = match self.provided(visitor, head, body, &mut record).await {
            Ok(answer) => (answer.map(Full::new), None),
            Err(failure) => (failure.response(&request_id, false, true), Some(failure.label())),
        };
        record.answered(answer.status(), error);
        answer.map(|body| ResponseBody::own(body, Some(record)))
    }

    async fn provided(
        &self,
        visitor: Visitor,
        head: request::Parts,
        body: Incoming,
        record: &mut Record,
    ) -> Result<Response<Bytes>, Failure> {
        let authority = self.provider.config().issuer.authority();
        if !is_for(&head, visitor.arrival, authority) {
            // A page of another name must not get here by pointing its name at us (DNS rebinding).
            return Err(Rejection::Misdirected.into());
        }
        record.admitted(authority, head.uri.path());
        if let Some(quota) = visitor.quota {
            let address = Subject::Address(visitor.source);
            let permit = self.limiter.admit(address, quota, Instant::now())?;
            record.entered(Entered {
                permits: vec![permit],
                key: None,
            });
        }
        let body = Limited::new(body, LARGEST_BODY).collect();
        let body = tokio::time::timeout(BODY_TIMEOUT, body).await;
        let body = body.map_err(|_| Failure::BodyTimeout)?;
        let body = body.map_err(|_| Failure::BodyTooLarge)?.to_bytes();
        if self.show_requests {
            tracing::info!(arrival = ?visitor.arrival, request = requests::shown(&head, &body), "Request");
        }
        let request = Request::from_parts(head, body);
        Ok(self
            .provider
            .handle(visitor.arrival, request, Timestamp::now())
            .await)
    }
}

/// Whether the request names us. On the back channel any name of loopback does too.
fn is_for(head: &request::Parts, arrival: Arrival, authority: &str) -> bool {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let in_uri = head.uri.authority();
    if in_uri.is_some_and(|uri| uri != &host) {
        return false;
    }
    // The port of HTTPS may be named.
    let named = host.as_str().strip_suffix(":443").unwrap_or(host.as_str());
    let is_loopback = matches!(host.host(), "localhost" | "127.0.0.1" | "[::1]");
    named.eq_ignore_ascii_case(authority) || (arrival == Arrival::BackChannel && is_loopback)
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
            let (head, ()) = request.body(()).unwrap().into_parts();
            is_for(&head, arrival, "idp.example.ts.net")
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
