//! One event per request, when its response's body ends. Never headers, cookies, queries or tokens.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use http::{Method, StatusCode, Version};

use super::{body::Progress, gate::Entered, request_id::RequestId};
use crate::{
    limiter::Permit,
    metrics::{self, Metrics, NameLabel, RequestLabels},
};

/// What will be logged and counted about a request.
#[derive(Debug)]
pub struct Record(Box<Fields>);

#[derive(Debug)]
struct Fields {
    metrics: Metrics,
    started: Instant,
    first_byte: Option<Duration>,
    name: Arc<str>,
    peer: SocketAddr,
    funnel: bool,
    request_id: RequestId,
    method: Method,
    version: Version,
    sni: Option<Arc<str>>,
    user_agent: String,
    client_id: String,
    /// What the request uses up while it runs.
    permits: Vec<Permit>,
    host: String,
    path: String,
    route: Arc<str>,
    upstream: String,
    retries: u8,
    status: StatusCode,
    request_body: Arc<Progress>,
    response_bytes: u64,
    error: Option<&'static str>,
}

/// The target of access log events.
pub const TARGET: &str = "access";

/// What is known of a request at its head.
#[derive(Debug)]
pub struct Opening<'a> {
    /// The tailnet name's key.
    pub name: Arc<str>,
    /// The client.
    pub peer: SocketAddr,
    /// It is on the internet.
    pub funnel: bool,
    /// Over TLS.
    pub sni: Option<Arc<str>>,
    /// Ours.
    pub request_id: &'a RequestId,
    /// The head.
    pub head: &'a http::request::Parts,
}

impl Record {
    /// Starts the clock.
    pub fn open(metrics: &Metrics, opening: Opening<'_>) -> Self {
        let Opening {
            name,
            peer,
            funnel,
            sni,
            request_id,
            head,
        } = opening;
        Self(Box::new(Fields {
            metrics: metrics.clone(),
            started: Instant::now(),
            first_byte: None,
            name,
            peer,
            funnel,
            request_id: request_id.clone(),
            method: head.method.clone(),
            version: head.version,
            sni,
            user_agent: head
                .headers
                .get(http::header::USER_AGENT)
                .and_then(|v| v.to_str().ok())
                .map(|v| v.chars().take(256).collect())
                .unwrap_or_default(),
            client_id: String::new(),
            permits: Vec::new(),
            host: String::new(),
            path: String::new(),
            route: "".into(),
            upstream: String::new(),
            retries: 0,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            request_body: Arc::default(),
            response_bytes: 0,
            error: None,
        }))
    }

    /// Where the bytes of the request's body are counted.
    pub fn request_body(&self) -> Arc<Progress> {
        self.0.request_body.clone()
    }

    /// The guard has passed it.
    pub fn admitted(&mut self, host: &str, path: &str) {
        self.0.host = host.to_owned();
        self.0.path = path.to_owned();
    }

    /// Who it is from.
    pub fn identified(&mut self, client_id: String) {
        self.0.client_id = client_id;
    }

    /// It was let in, by a key perhaps.
    pub fn entered(&mut self, entered: Entered) {
        self.0.permits = entered.permits;
        if let Some(key) = entered.key
            && self.0.client_id.is_empty()
        {
            self.0.client_id = format!("key:{key}");
        }
    }

    /// Where it goes.
    pub fn routed(&mut self, route: Arc<str>, upstream: String) {
        self.0.route = route;
        self.0.upstream = upstream;
    }

    /// It was sent a second time.
    pub fn retried(&mut self) {
        self.0.retries += 1;
    }

    /// What it is answered with.
    pub fn answered(&mut self, status: StatusCode, error: Option<&'static str>) {
        self.0.first_byte = Some(self.0.started.elapsed());
        self.0.status = status;
        self.0.error = error;
    }

    /// Bytes of the response's body.
    pub fn sent(&mut self, bytes: usize) {
        self.0.response_bytes += bytes as u64;
    }

    /// The body has ended, or was cut off because of `error`.
    pub fn finish(self, error: Option<&'static str>) {
        let f = *self.0;
        let total = f.started.elapsed();
        let name = NameLabel { name: f.name.clone() };
        f.metrics
            .requests
            .get_or_create_owned(&RequestLabels {
                name: f.name.clone(),
                route: f.route.clone(),
                method: metrics::method_label(&f.method),
                code_class: metrics::code_class(f.status),
            })
            .inc();
        f.metrics
            .request_duration
            .get_or_create_owned(&name)
            .observe(total.as_secs_f64());
        f.metrics
            .response_bytes
            .get_or_create_owned(&name)
            .inc_by(f.response_bytes);
        tracing::info!(
            target: TARGET,
            name = &*f.name,
            client.addr = %f.peer.ip(),
            client.id = f.client_id,
            client.funnel = f.funnel,
            host = f.host,
            method = f.method.as_str(),
            path = f.path,
            version = ?f.version,
            status = f.status.as_u16(),
            req_bytes = f.request_body.bytes.load(Relaxed),
            resp_bytes = f.response_bytes,
            ttfb_ms = millis(f.first_byte.unwrap_or(total)),
            total_ms = millis(total),
            route = &*f.route,
            upstream = f.upstream,
            retries = f.retries,
            tls.sni = f.sni.as_deref().unwrap_or_default(),
            error.kind = error.or(f.error).unwrap_or_default(),
            request_id = f.request_id.as_str(),
            user_agent = f.user_agent,
        );
    }
}

/// With three decimals.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
