//! Everything that `/metrics` shows. Labels name what is configured, never what clients send.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

/// All families; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Families>);

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

/// The families.
#[derive(Debug)]
pub struct Families {
    /// Answered requests.
    pub requests: Family<RequestLabels, Counter>,
    /// From the request's head to the end of the response's body.
    pub request_duration: Family<NameLabel, Histogram, fn() -> Histogram>,
    /// Body bytes to clients.
    pub response_bytes: Family<NameLabel, Counter>,
    /// Open connections.
    pub connections: Family<StateLabel, Gauge>,
    /// Refused because of a bound on connections.
    pub connections_refused: Counter,
    /// Handshakes by result.
    pub tls_handshakes: Family<ResultLabel, Counter>,
    /// Requests without an answer of their backend.
    pub upstream_errors: Family<KindLabel, Counter>,
    /// Requests that the guard refused.
    pub guard_rejections: Family<ReasonLabel, Counter>,
    /// End of each name's certificate.
    pub cert_expiry: Family<NameLabel, Gauge<i64, AtomicI64>>,
    /// Configurations that were refused.
    pub config_refused: Counter<u64, AtomicU64>,
    registry: Registry,
}

/// Labels of [`Families::requests`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The tailnet name's key.
    pub name: Arc<str>,
    /// The route as configured; empty: none.
    pub route: Arc<str>,
    /// A registered method, or `other`.
    pub method: &'static str,
    /// `2xx` and so on.
    pub code_class: &'static str,
}

/// A tailnet name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NameLabel {
    /// Its key in the configuration.
    pub name: Arc<str>,
}

/// `open` or `upgraded`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// The state.
    pub state: &'static str,
}

/// `ok`, `failed` or `timeout`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// The result.
    pub result: &'static str,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// As in the access log.
    pub kind: &'static str,
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// As in the access log.
    pub reason: &'static str,
}

impl Metrics {
    /// Registers all families.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("proxy");
        let metrics = Families {
            requests: Family::default(),
            request_duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 4.0, 10))
            }),
            response_bytes: Family::default(),
            connections: Family::default(),
            connections_refused: Counter::default(),
            tls_handshakes: Family::default(),
            upstream_errors: Family::default(),
            guard_rejections: Family::default(),
            cert_expiry: Family::default(),
            config_refused: Counter::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("requests", "Answered requests", metrics.requests.clone());
        r.register_with_unit(
            "request_duration",
            "From a request's head to the end of its response's body",
            Unit::Seconds,
            metrics.request_duration.clone(),
        );
        r.register_with_unit(
            "response",
            "Body bytes sent to clients",
            Unit::Bytes,
            metrics.response_bytes.clone(),
        );
        r.register("connections", "Open connections", metrics.connections.clone());
        r.register(
            "connections_refused",
            "Connections beyond a bound",
            metrics.connections_refused.clone(),
        );
        r.register(
            "tls_handshakes",
            "TLS handshakes by result",
            metrics.tls_handshakes.clone(),
        );
        r.register(
            "upstream_errors",
            "Requests that got no answer from their backend",
            metrics.upstream_errors.clone(),
        );
        r.register(
            "guard_rejections",
            "Requests that the guard refused",
            metrics.guard_rejections.clone(),
        );
        r.register_with_unit(
            "cert_expiry_timestamp",
            "End of the served certificate",
            Unit::Seconds,
            metrics.cert_expiry.clone(),
        );
        r.register(
            "config_refused",
            "Configurations that were refused",
            metrics.config_refused.clone(),
        );
        r.register(
            "build",
            "The running version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self(Arc::new(Families { registry, ..metrics }))
    }

    /// When the certificate of a name ends, where it has one.
    pub fn certificate_ends(&self, name: &Arc<str>, end: Option<Timestamp>) {
        if let Some(end) = end {
            let label = NameLabel { name: name.clone() };
            self.cert_expiry.get_or_create_owned(&label).set(end.as_second());
        }
    }

    /// OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A label for a method: clients may send any token.
pub fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The class of a status.
pub fn code_class(status: http::StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_documentation() {
        let metrics = Metrics::new();
        let name: Arc<str> = "app".into();
        metrics
            .requests
            .get_or_create_owned(&RequestLabels {
                name: name.clone(),
                route: "*/".into(),
                method: "GET",
                code_class: "2xx",
            })
            .inc();
        metrics
            .cert_expiry
            .get_or_create_owned(&NameLabel { name: name.clone() })
            .set(7);
        metrics
            .request_duration
            .get_or_create_owned(&NameLabel { name: name.clone() })
            .observe(0.1);
        metrics
            .response_bytes
            .get_or_create_owned(&NameLabel { name })
            .inc_by(3);
        let text = metrics.encode();
        for line in [
            r#"proxy_requests_total{name="app",route="*/",method="GET",code_class="2xx"} 1"#,
            r#"proxy_cert_expiry_timestamp_seconds{name="app"} 7"#,
            r#"proxy_response_bytes_total{name="app"} 3"#,
            r#"proxy_request_duration_seconds_count{name="app"} 1"#,
            "proxy_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
