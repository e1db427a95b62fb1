//! Accepting: connections of one port, their bounds, TLS, and what is spoken then.

pub(crate) mod http1;
mod limits;
mod stall;
mod tcp;
mod tls;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use postern_proxy_config::funnel::{Funnel, Quota};

pub use limits::Limits;
pub use tcp::Forward;
pub use tls::ServerConfigs;

use self::stall::Stalling;
use crate::{
    certs::Resolver,
    drain::Drain,
    http::{self, Connection, Gate, Site, Tls},
    idp::Issuing,
    limiter::{Permit, Refused, Subject},
    metrics::{Metrics, ResultLabel, StateLabel},
    tailnet::{Accepted, Listener, Node, Stream},
    upstream::Upstreams,
};

/// What a port speaks, with its content; the content is swapped, another kind is another listener.
#[derive(Debug, Clone)]
pub enum Content {
    /// TLS, HTTP/1.1 or HTTP/2.
    Https(Arc<ArcSwap<Site>>),
    /// HTTP/1.1.
    Http(Arc<ArcSwap<Site>>),
    /// Bytes.
    Tcp(Arc<ArcSwap<Forward>>),
    /// Bytes inside of TLS.
    TlsTcp(Arc<ArcSwap<Forward>>),
    /// TLS, HTTP/1.1, and the identity provider.
    IdentityProvider(Arc<ArcSwap<Issuing>>),
}

impl Content {
    /// How the internet gets in.
    fn funnel(&self) -> Option<Arc<Funnel>> {
        match self {
            Self::Https(site) | Self::Http(site) => site.load().funnel.clone(),
            Self::Tcp(forward) | Self::TlsTcp(forward) => forward.load().funnel.clone(),
            Self::IdentityProvider(issuing) => issuing.load().funnel.clone(),
        }
    }
}

/// What a listener's connections need.
pub struct Port {
    /// The tailnet name's key.
    pub name: Arc<str>,
    /// What is served.
    pub content: Content,
    /// The node behind the name.
    pub node: Arc<dyn Node>,
    /// The name's certificates.
    pub certificates: Arc<Resolver>,
    /// TLS as we speak it with them.
    pub tls: ServerConfigs,
    /// Backends.
    pub upstreams: Arc<Upstreams>,
    /// Counters.
    pub metrics: Metrics,
    /// Bounds on connections.
    pub limits: Arc<Limits>,
    /// Keys and counts of the name.
    pub gate: Arc<Gate>,
    /// Ends the listener and its connections.
    pub drain: Drain,
}

/// From the first byte to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long is gone or attacks.
const WRITE_STALL: Duration = Duration::from_secs(120);

impl Port {
    /// Accepts until draining starts or the node closes. Connections end in the drain's tasks.
    pub async fn serve(self, mut listener: Box<dyn Listener>) {
        let port = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                biased;
                () = port.drain.start.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Some(accepted) = accepted else { return };
            let Some(permit) = port.limits.admit(accepted.source()) else {
                // Dropping the stream resets it: at once, and at no cost to those who are in.
                port.metrics.connections_refused.inc();
                continue;
            };
            let Ok(counted) = port.count(&accepted) else {
                port.metrics.connections_refused.inc();
                continue;
            };
            let port = port.clone();
            let drain = port.drain.clone();
            drain.tasks.spawn(async move {
                let open = port
                    .metrics
                    .connections
                    .get_or_create_owned(&StateLabel { state: "open" });
                open.inc();
                let abort = port.drain.abort.clone();
                tokio::select! {
                    biased;
                    () = abort.cancelled() => {}
                    () = port.connection(accepted) => {}
                }
                open.dec();
                drop((permit, counted));
            });
        }
    }

    /// Counts a connection from the internet as the name's configuration bounds them.
    fn count(&self, accepted: &Accepted) -> Result<Option<Permit>, Refused> {
        let funnel = accepted.funnel.as_ref().and_then(|_| self.content.funnel());
        let Some(most) = funnel.and_then(|funnel| funnel.limits.connections_per_address) else {
            return Ok(None);
        };
        let quota = Quota {
            requests_per_minute: None,
            concurrent: Some(most),
        };
        let subject = Subject::Connections(accepted.source());
        (self.gate.limiter)
            .admit(subject, quota, Instant::now())
            .map(Some)
    }

    /// Its stages are boxed: one that waits takes no room for those that are over or don't come.
    async fn connection(self: &Arc<Self>, accepted: Accepted) {
        match &self.content {
            Content::Http(site) => {
                let connection = self.http(&accepted, site, None);
                self.http1(accepted.stream, connection).await;
            }
            Content::Https(site) => {
                let handshake = Box::pin(self.handshake(&self.tls.http, accepted));
                let Some((accepted, sni, http2)) = handshake.await else {
                    return;
                };
                let tls = Tls {
                    sni,
                    certificates: self.certificates.clone(),
                };
                let connection = self.http(&accepted, site, Some(tls));
                if http2 {
                    Box::pin(self.http2(accepted.stream, connection)).await;
                } else {
                    self.http1(accepted.stream, connection).await;
                }
            }
            Content::Tcp(forward) => {
                let forward = forward.load_full();
                Box::pin(tcp::forward(self, &forward, accepted)).await;
            }
            Content::TlsTcp(forward) => {
                let handshake = Box::pin(self.handshake(&self.tls.bytes, accepted));
                if let Some((accepted, _, _)) = handshake.await {
                    let forward = forward.load_full();
                    Box::pin(tcp::forward(self, &forward, accepted)).await;
                }
            }
            Content::IdentityProvider(issuing) => {
                if let Some((accepted, _, _)) = self.handshake(&self.tls.bytes, accepted).await {
                    issuing.load_full().serve(self, accepted).await;
                }
            }
        }
    }

    fn http(&self, accepted: &Accepted, site: &Arc<ArcSwap<Site>>, tls: Option<Tls>) -> Arc<Connection> {
        Arc::new(Connection {
            name: self.name.clone(),
            peer: accepted.peer,
            source: accepted.source(),
            local: accepted.local,
            funnel: accepted.funnel.is_some(),
            tls,
            site: site.clone(),
            gate: self.gate.clone(),
            node: self.node.clone(),
            upstreams: self.upstreams.clone(),
            metrics: self.metrics.clone(),
            drain: self.drain.clone(),
            whois: Mutex::default(),
        })
    }

    /// The connection inside of TLS, the SNI and whether ALPN chose HTTP/2.
    pub(crate) async fn handshake(
        &self,
        config: &Arc<rustls::ServerConfig>,
        mut accepted: Accepted,
    ) -> Option<(Accepted, Arc<str>, bool)> {
        let stream = std::mem::replace(&mut accepted.stream, Box::new(tokio::io::empty()));
        let accepting = tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream);
        let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await;
        let label = match &result {
            Ok(Ok(_)) => "ok",
            Ok(Err(_)) => "failed",
            Err(_) => "timeout",
        };
        self.metrics
            .tls_handshakes
            .get_or_create_owned(&ResultLabel { result: label })
            .inc();
        let stream = match result {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(name = &*self.name, %error, "TLS handshake failed");
                return None;
            }
            Err(_) => return None,
        };
        let session = stream.get_ref().1;
        let sni: Arc<str> = session.server_name()?.to_ascii_lowercase().into();
        let http2 = session.alpn_protocol() == Some(b"h2");
        // Funnel's edge chose us by one name, and only that one is meant to be on the internet.
        if accepted.funnel.as_ref().is_some_and(|host| *host != sni) {
            tracing::debug!(name = &*self.name, sni = &*sni, "Not the name that is on Funnel");
            return None;
        }
        accepted.stream = Box::new(stream);
        Some((accepted, sni, http2))
    }

    async fn http2(&self, stream: Stream, connection: Arc<Connection>) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(100)
            .max_header_list_size(32 * 1024)
            // 100 streams hold at most 6.4 MiB of answers for a reader that doesn't read.
            .max_send_buf_size(64 * 1024)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let service = service_fn(move |request| http::handle(connection.clone(), request));
        let io = TokioIo::new(Stalling::new(stream, WRITE_STALL));
        let mut serving = std::pin::pin!(builder.serve_connection(io, service));
        let result = tokio::select! {
            biased;
            () = self.drain.leaving() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
            result = serving.as_mut() => result,
        };
        self.ended(result);
    }

    fn ended(&self, result: hyper::Result<()>) {
        if let Err(error) = result {
            tracing::debug!(
                name = &*self.name,
                error = &error as &dyn std::error::Error,
                "Connection ended"
            );
        }
    }
}
