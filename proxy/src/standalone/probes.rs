//! `/healthz` and `/metrics` as Tailscale's container has them.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use postern_proxy_config::report::Report;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::environment::Probes;
use crate::{local::Socket, metrics::Metrics};

impl Probes {
    /// Answers until `end`. Healthy is a node that has a tailnet address.
    ///
    /// # Errors
    /// When the address can't be had.
    pub async fn serve(
        self,
        report: watch::Receiver<Report>,
        metrics: Metrics,
        tasks: &TaskTracker,
        end: CancellationToken,
    ) -> std::io::Result<()> {
        let socket = Socket::port(self.addr).await?;
        socket.serve(tasks, end, move |_client, request| {
            let response = self.answer(&request, &report, &metrics);
            std::future::ready(response)
        });
        Ok(())
    }

    fn answer<B>(
        self,
        request: &Request<B>,
        report: &watch::Receiver<Report>,
        metrics: &Metrics,
    ) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/healthz" if self.health => {
                let addressed = report
                    .borrow()
                    .names
                    .values()
                    .any(|name| !name.addresses.is_empty());
                if addressed {
                    text(StatusCode::OK, "ok")
                } else {
                    text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "node currently has no tailscale IPs",
                    )
                }
            }
            "/metrics" if self.metrics => {
                let mut response = Response::new(Full::from(metrics.encode()));
                response.headers_mut().insert(header::CONTENT_TYPE, OPEN_METRICS);
                response
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }
}

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use postern_proxy_config::report::NameReport;

    use super::*;
    use crate::report::Reports;

    #[tokio::test]
    async fn health_is_an_address_and_each_page_is_there_where_it_was_asked_for() {
        let reports = Reports::new("r");
        let ask = async |path: &str, health: bool, metrics: bool| {
            let addr = ([127, 0, 0, 1], 0).into();
            let probes = Probes {
                addr,
                health,
                metrics,
            };
            let request = Request::get(path).body(()).unwrap();
            let answer = probes.answer(&request, &reports.subscribe(), &Metrics::new());
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        let text = |status, text: &str| (status, text.to_owned());
        let none = text(503, "node currently has no tailscale IPs");
        assert_eq!(ask("/healthz", true, false).await, none);
        reports.name("app", |name: &mut NameReport| {
            name.addresses = vec![[100, 64, 0, 1].into()]
        });
        assert_eq!(ask("/healthz", true, false).await, text(200, "ok"));
        assert_eq!(ask("/healthz", false, true).await.0, 404);
        assert_eq!(ask("/metrics", true, false).await.0, 404);
        let (status, metrics) = ask("/metrics", false, true).await;
        assert!(status == 200 && metrics.contains("# EOF"), "{metrics}");
    }
}
