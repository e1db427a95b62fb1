//! One request, in this fixed order:
//!
//! 1. accept, TLS by SNI ([`crate::listen`]); hyper parses
//! 2. **guard**: what two programs could read differently is refused ([`guard`])
//! 3. the host has to be one that this connection is for
//! 4. strip hop-by-hop fields ([`hop_by_hop`])
//! 5. strip every field that we own ([`owned`])
//! 6. route on normalised host and path ([`crate::route`])
//! 7. authorise ([`gate`]): access rules or Funnel's lock, rates; the identity is looked up once per connection
//!    and again when the netmap changes
//! 8. set identity and forwarded fields ([`identity`], [`forwarded`])
//! 9. limits on the body ([`body`])
//! 10. upstream ([`crate::upstream`]); WebSocket switches after the backend's 101 ([`upgrade`])
//! 11. strip the response's hop-by-hop fields
//! 12. access log and metrics when the response's **body** ends ([`access_log`])
//!
//! Stripping comes before setting: else a client could take our fields away by naming them in `Connection`.

pub mod access_log;
pub mod body;
pub mod connection;
pub mod files;
pub mod forwarded;
pub mod gate;
pub mod guard;
pub mod hop_by_hop;
pub mod identity;
pub mod owned;
pub mod q_encoding;
pub mod request_id;
pub mod respond;
pub mod site;
pub mod upgrade;

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use postern_proxy_config::group::Backend;

use self::{
    access_log::{Opening, Record},
    guard::{Admitted, Rejection},
};
pub use self::{
    body::{BodyError, BoxError, RequestBody, ResponseBody},
    connection::{Connection, Tls},
    gate::Gate,
    identity::Caller,
    request_id::RequestId,
    respond::Failure,
    site::{Behaviour, Site},
};
use crate::{
    metrics::{KindLabel, ReasonLabel},
    route::Route,
    upstream::{Need, Target, Version as UpstreamVersion},
};

/// Answers a request.
///
/// # Errors
/// Never: every failure is an answer.
pub async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (head, body) = request.into_parts();
    let request_id = RequestId::new(SystemTime::now());
    let mut record = Record::open(
        &connection.metrics,
        Opening {
            name: connection.name.clone(),
            peer: connection.peer,
            funnel: connection.funnel,
            sni: connection.tls.as_ref().map(|t| t.sni.clone()),
            request_id: &request_id,
            head: &head,
        },
    );
    let grpc = respond::is_grpc(&head.headers);
    let http1 = head.version < Version::HTTP_2;
    let exchange = Exchange {
        connection: &connection,
        request_id: &request_id,
        grpc,
    };
    match exchange.run(head, body, &mut record).await {
        Ok(Outcome::Own(response)) => {
            record.answered(response.status(), None);
            Ok(response.map(|b| ResponseBody::own(b, Some(record))))
        }
        Ok(Outcome::File(response)) => {
            record.answered(response.status(), None);
            Ok(response.map(|b| ResponseBody::file(b, record)))
        }
        Ok(Outcome::Upstream(response, idle)) => {
            record.answered(response.status(), None);
            Ok(response.map(|b| ResponseBody::upstream(b, idle, record)))
        }
        Ok(Outcome::Switched {
            response,
            client,
            upstream,
            idle,
        }) => {
            record.answered(response.status(), None);
            upgrade::bridge(
                client,
                upstream,
                idle,
                &connection.drain,
                &connection.metrics,
                record,
            );
            Ok(response.map(|b| ResponseBody::own(b, None)))
        }
        Err(failure) => {
            connection.count(failure);
            let response = failure.response(&request_id, grpc, http1);
            record.answered(response.status(), Some(failure.label()));
            Ok(response.map(|b| ResponseBody::own(b, Some(record))))
        }
    }
}

type Own = http_body_util::Full<bytes::Bytes>;

enum Outcome {
    Own(Response<Own>),
    File(Response<files::FileBody>),
    Upstream(Response<Incoming>, Duration),
    Switched {
        response: Response<Own>,
        client: OnUpgrade,
        upstream: OnUpgrade,
        idle: Duration,
    },
}

/// A request with where it came in.
struct Exchange<'a> {
    connection: &'a Arc<Connection>,
    request_id: &'a RequestId,
    grpc: bool,
}

impl Exchange<'_> {
    async fn run(
        &self,
        mut head: request::Parts,
        body: Incoming,
        record: &mut Record,
    ) -> Result<Outcome, Failure> {
        let site = self.connection.site.load_full();
        let admitted = guard::check(&head)?;
        record.admitted(admitted.host.as_str(), admitted.path.as_str());
        if !self.connection.is_for(&site, &admitted.host) {
            return Err(Rejection::Misdirected.into());
        }
        let passages = forwarded::passages(&head.headers);
        if passages >= forwarded::MAX_PASSAGES {
            return Err(Rejection::Loop.into());
        }

        let websocket = upgrade::is_requested(&head);
        hop_by_hop::strip_request(&mut head.headers);
        owned::strip(&mut head.headers);
        join_cookies(&mut head);

        let (table, identity) = match &site.behaviour {
            Behaviour::Routes { table, identity } => (table, identity),
            Behaviour::RedirectToHttps { port } => {
                return Ok(Outcome::Own(site::redirect_to_https(
                    &site, &head, &admitted, *port,
                )));
            }
        };
        let route = table
            .find(&admitted.host, &admitted.path)
            .ok_or(Failure::NoRoute)?;
        record.routed(route.label.clone(), String::new());

        let caller = self.connection.caller();
        record.identified(caller.id());
        let funnel = site.funnel.as_deref();
        let entered = gate::enter(
            self.connection,
            route,
            funnel,
            &caller,
            &mut head.headers,
            Instant::now(),
        )?;
        record.entered(entered);
        if let Some(response) = site::answer(&route.config.backend, &head, &admitted) {
            return Ok(Outcome::Own(response));
        }
        if let Backend::Files { path } = &route.config.backend {
            let response = files::answer(path, route, &head, &admitted).await?;
            return Ok(Outcome::File(response));
        }

        let capabilities = route.config.app_capabilities.as_ref();
        caller.set_headers(
            &mut head.headers,
            identity.headers,
            capabilities.unwrap_or(&identity.app_capabilities),
        );
        forwarded::set(
            &mut head.headers,
            self.connection.peer.ip().to_canonical(),
            &admitted.authority,
            self.connection.tls.is_some(),
        );
        if self.connection.funnel {
            identity::mark_funnel(&mut head.headers);
        }
        forwarded::mark(&mut head.headers, passages);
        head.headers.insert(RequestId::HEADER, self.request_id.value());
        if !self.grpc {
            head.headers.remove(header::TRAILER);
        }
        if websocket {
            upgrade::set_headers(&mut head.headers);
        }
        self.forward(route, &admitted, head, body, websocket, record)
            .await
    }

    async fn forward(
        &self,
        route: &Route,
        admitted: &Admitted,
        mut head: request::Parts,
        body: Incoming,
        websocket: bool,
        record: &mut Record,
    ) -> Result<Outcome, Failure> {
        let config = &route.config;
        let timeouts = &config.timeouts;
        let idle = Duration::from_millis(timeouts.idle_ms);
        let response_timeout = Duration::from_millis(timeouts.response_ms);
        let declared = body.size_hint().exact();
        if let (Some(limit), Some(declared)) = (config.limits.body_bytes, declared)
            && declared > limit
        {
            return Err(Failure::BodyTooLarge);
        }
        let need = if websocket {
            Need::Http1
        } else if self.grpc && head.version == Version::HTTP_2 {
            Need::Http2
        } else {
            Need::Any
        };
        let upstreams = &self.connection.upstreams;
        let target = upstreams.target(&config.backend, timeouts, need)?;
        record.routed(route.label.clone(), target.place.to_string());

        let client = head.extensions.remove::<OnUpgrade>();
        // Nothing of the client's connection travels on in extensions.
        head.extensions.clear();
        set_destination(&mut head, route, admitted, &target)?;

        let progress = record.request_body();
        let empty = body.is_end_stream();
        let again = (empty && !websocket && is_safe(&head.method)).then(|| head.clone());
        let body = if empty {
            RequestBody::empty()
        } else {
            RequestBody::new(body, config.limits.body_bytes, idle, progress.clone())
        };
        let mut sent = upstreams
            .send(&target, Request::from_parts(head, body), response_timeout)
            .await;
        // A kept connection may have been closed by the backend while the request was on its way.
        if let (Err((Failure::BadGateway, true)), Some(head)) = (&sent, again) {
            record.retried();
            sent = upstreams
                .send(
                    &target,
                    Request::from_parts(head, RequestBody::empty()),
                    response_timeout,
                )
                .await;
        }
        let response = sent.map_err(|(failure, _)| {
            if progress.too_large.load(Relaxed) {
                Failure::BodyTooLarge
            } else if progress.timed_out.load(Relaxed) {
                Failure::BodyTimeout
            } else {
                failure
            }
        })?;
        self.answer(response, client.filter(|_| websocket), idle)
    }

    fn answer(
        &self,
        mut response: Response<Incoming>,
        client: Option<OnUpgrade>,
        idle: Duration,
    ) -> Result<Outcome, Failure> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // A switch that wasn't asked for, or to something else, would let bytes pass unseen.
            let (Some(client), true) = (client, upgrade::is_websocket(response.headers())) else {
                return Err(Failure::BadGateway);
            };
            let upstream = hyper::upgrade::on(&mut response);
            let mut switched = Response::new(Own::default());
            *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *switched.headers_mut() = std::mem::take(response.headers_mut());
            hop_by_hop::strip_response(switched.headers_mut());
            upgrade::set_headers(switched.headers_mut());
            return Ok(Outcome::Switched {
                response: switched,
                client,
                upstream,
                idle,
            });
        }
        // Built anew: extensions such as the backend's reason phrase stay behind.
        let (mut head, body) = response.into_parts();
        hop_by_hop::strip_response(&mut head.headers);
        let mut clean = Response::new(body);
        *clean.status_mut() = head.status;
        *clean.headers_mut() = head.headers;
        Ok(Outcome::Upstream(clean, idle))
    }
}

impl Connection {
    fn count(&self, failure: Failure) {
        match failure {
            Failure::Rejected(rejection) => {
                self.metrics
                    .guard_rejections
                    .get_or_create_owned(&ReasonLabel {
                        reason: rejection.label(),
                    })
                    .inc();
            }
            Failure::Unavailable | Failure::BadGateway | Failure::GatewayTimeout => {
                self.metrics
                    .upstream_errors
                    .get_or_create_owned(&KindLabel {
                        kind: failure.label(),
                    })
                    .inc();
            }
            Failure::NoRoute
            | Failure::Denied
            | Failure::Unauthorized { .. }
            | Failure::TooManyRequests { .. }
            | Failure::BodyTooLarge
            | Failure::BodyTimeout => {}
        }
    }
}

/// HTTP/2 lets a client split `Cookie`; HTTP/1 backends expect one (RFC 9113, section 8.2.3).
fn join_cookies(head: &mut request::Parts) {
    let crumbs: Vec<&[u8]> = head
        .headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        head.headers.insert(header::COOKIE, joined);
    }
}

/// Path and query for the backend under the client's authority, in the URI and the one `Host`.
fn set_destination(
    head: &mut request::Parts,
    route: &Route,
    admitted: &Admitted,
    target: &Target,
) -> Result<(), Failure> {
    let below = match &route.config.backend {
        Backend::Address { path, .. } => path.as_str(),
        _ => "",
    };
    // Go: a request for the mount point alone gets the target's path without another slash.
    let mut path = match (route.rewrite(&admitted.path), below) {
        (rest, "") if rest.is_empty() => "/".to_owned(),
        (rest, below) if rest.is_empty() => below.to_owned(),
        (rest, below) => format!("{}{rest}", below.trim_end_matches('/')),
    };
    if let Some(query) = head.uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let authority = match &route.config.backend {
        Backend::Unix { .. } => "localhost",
        _ => &admitted.authority,
    };
    head.uri = Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|_| Failure::Rejected(Rejection::Host))?;
    head.version = Version::HTTP_11;
    if target.version == UpstreamVersion::Http2 {
        head.headers.remove(header::HOST);
    } else if let Ok(host) = HeaderValue::from_str(authority) {
        head.headers.insert(header::HOST, host);
    }
    Ok(())
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
