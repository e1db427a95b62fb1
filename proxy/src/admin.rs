//! `/healthz`, `/readyz` and `/metrics`, for the cluster; never on the tailnet.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::metrics::Metrics;

/// What is answered.
#[derive(Debug, Clone)]
pub struct Admin {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// A configuration was applied.
    pub applied: watch::Receiver<bool>,
    /// We are leaving.
    pub draining: CancellationToken,
}

/// Kubernetes and Prometheus need few.
const MAX_CONNECTIONS: usize = 32;

impl Admin {
    /// Serves until `end`.
    ///
    /// # Errors
    /// When the port can't be had.
    pub async fn serve(self, port: u16, tasks: &TaskTracker, end: CancellationToken) -> std::io::Result<()> {
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], port))).await;
        let listener = match listener {
            Ok(listener) => listener,
            // No IPv6 on this machine.
            Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await?,
        };
        let connections = tasks.clone();
        tasks.spawn(async move {
            let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = end.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors: a moment later there may be some.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let Ok(permit) = permits.clone().try_acquire_owned() else {
                    continue;
                };
                let (admin, end) = (self.clone(), end.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    let service =
                        service_fn(|request| std::future::ready(Ok::<_, Infallible>(admin.answer(&request))));
                    let mut builder = http1::Builder::new();
                    builder
                        .timer(TokioTimer::new())
                        .header_read_timeout(Duration::from_secs(30));
                    tokio::select! {
                        biased;
                        () = end.cancelled() => {}
                        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
                    }
                });
            }
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
            "/readyz" if !*self.applied.borrow() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "waiting for the configuration")
            }
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
