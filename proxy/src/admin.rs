//! `/healthz`, `/readyz` and `/metrics`, for the cluster; never on the tailnet.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{local::Socket, metrics::Metrics};

/// What is answered.
#[derive(Debug, Clone)]
pub struct Admin {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// The configuration was applied, and what we share with others is served.
    pub ready: watch::Receiver<bool>,
    /// We are leaving.
    pub draining: CancellationToken,
}

impl Admin {
    /// Serves until `end`.
    ///
    /// # Errors
    /// When the port can't be had.
    pub async fn serve(self, port: u16, tasks: &TaskTracker, end: CancellationToken) -> std::io::Result<()> {
        let socket = Socket::port((Ipv6Addr::UNSPECIFIED, port).into()).await?;
        socket.serve(tasks, end, move |_client, request| {
            std::future::ready(self.answer(&request))
        });
        Ok(())
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok"),
            "/readyz" if self.draining.is_cancelled() => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
            "/readyz" if !*self.ready.borrow() => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "waiting for the configuration, or for Services to be served",
            ),
            "/readyz" => text(StatusCode::OK, "ok"),
            "/metrics" => {
                let mut response = Response::new(Full::from(self.metrics.encode()));
                response.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
                );
                response
            }
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics"),
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
}
