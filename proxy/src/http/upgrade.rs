//! WebSocket: the one upgrade that is passed on.
//!
//! The client gets its 101 only after the backend has sent one (a proxy that switches on the request lets
//! clients smuggle: RUSTSEC-2026-0033). hyper's graceful shutdown doesn't see upgraded streams, so they are
//! tasks of the listener's drain.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Version, header, request};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{access_log::Record, hop_by_hop};
use crate::{
    copy::both_ways,
    drain::Drain,
    metrics::{Metrics, StateLabel},
};

/// Whether the request asks for WebSocket (RFC 6455, section 4.2.1).
pub fn is_requested(head: &request::Parts) -> bool {
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && hop_by_hop::has_token(&head.headers, header::CONNECTION, "upgrade")
        && is_websocket(&head.headers)
}

/// Whether `Upgrade` is exactly WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::UPGRADE).iter();
    match (values.next(), values.next()) {
        (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(b"websocket"),
        _ => false,
    }
}

/// Sets what the hop needs, after hop-by-hop fields were stripped.
pub fn set_headers(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// Copies both ways once both sides have switched, until one ends, both are silent for `idle`, or the
/// drain's deadline has come.
pub fn bridge(
    client: OnUpgrade,
    upstream: OnUpgrade,
    idle: Duration,
    drain: &Drain,
    metrics: &Metrics,
    mut record: Record,
) {
    let abort = drain.abort.clone();
    let open = metrics
        .connections
        .get_or_create_owned(&StateLabel { state: "upgraded" });
    drain.tasks.spawn(async move {
        let copy = async {
            let (client, upstream) = tokio::try_join!(client, upstream).map_err(io::Error::other)?;
            let activity = Activity::default();
            let mut client = activity.watch(TokioIo::new(client));
            let mut upstream = activity.watch(TokioIo::new(upstream));
            tokio::select! {
                biased;
                () = activity.silence(idle) => Err(io::ErrorKind::TimedOut.into()),
                done = both_ways(&mut client, &mut upstream) => done,
            }
        };
        open.inc();
        let error = tokio::select! {
            biased;
            () = abort.cancelled() => Some("drained"),
            copied = copy => match copied {
                Ok((_, sent)) => {
                    record.sent(usize::try_from(sent).unwrap_or(usize::MAX));
                    None
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Some("silent"),
                Err(_) => Some("broken"),
            },
        };
        open.dec();
        record.finish(error);
    });
}

/// When bytes were read last on any of several streams.
#[derive(Debug, Clone)]
struct Activity {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last_ms: Arc::default(),
        }
    }
}

impl Activity {
    fn watch<T>(&self, inner: T) -> Watched<T> {
        Watched {
            inner,
            activity: self.clone(),
        }
    }

    fn heard(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Relaxed);
    }

    async fn silence(&self, limit: Duration) {
        loop {
            let end = self.start + Duration::from_millis(self.last_ms.load(Relaxed)) + limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

struct Watched<T> {
    inner: T,
    activity: Activity,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            self.activity.heard();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
