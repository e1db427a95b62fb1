//! HTTP/1 connections that cost little while nothing happens on them.
//!
//! hyper keeps 16 KiB for as long as its connection lasts, and has one bound for a head that comes slowly and for a
//! client that asks for nothing. So after a while without requests its connection is taken apart, and a new one is made
//! when the client sends something.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use ::http::{HeaderValue, header};
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, interval_at, timeout},
};

use super::{Port, WRITE_STALL, stall::Stalling};
use crate::{
    http::{self, Connection},
    tailnet::Stream,
};

/// A head has to come within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection without requests is taken apart after once to twice this time.
const PARK_AFTER: Duration = Duration::from_secs(2);
/// How long a client may keep a connection without using it. Go's servers keep it for ever.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// What a request's head may take, of time and of memory.
pub(crate) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(64 * 1024)
        .max_header_size(32 * 1024)
        .max_headers(100);
    builder
}

impl Port {
    pub(super) async fn http1(&self, stream: Stream, connection: Arc<Connection>) {
        let activity = Arc::<Activity>::default();
        let mut io = Parkable {
            stream: Stalling::new(stream, WRITE_STALL),
            read: Bytes::new(),
            activity: activity.clone(),
        };
        loop {
            // Boxed, so that a parked connection is small.
            let served = Box::pin(self.until_parked(io, &activity, &connection)).await;
            let Some(parked) = served else { return };
            io = parked;
            if io.read.is_empty() && !self.wait(&mut io).await {
                let _ = io.stream.shutdown().await;
                return;
            }
        }
    }

    /// Serves until the connection ends (`None`) or nothing has been asked for in a while.
    async fn until_parked(
        &self,
        io: Parkable,
        activity: &Arc<Activity>,
        connection: &Arc<Connection>,
    ) -> Option<Parkable> {
        let service = {
            let (activity, connection) = (activity.clone(), connection.clone());
            service_fn(move |request| {
                let (begun, connection) = (activity.begin(), connection.clone());
                async move {
                    let mut response = http::handle(connection.clone(), request).await?;
                    if connection.drain.is_leaving() {
                        let close = || HeaderValue::from_static("close");
                        response
                            .headers_mut()
                            .entry(header::CONNECTION)
                            .or_insert_with(close);
                    }
                    Ok::<_, std::convert::Infallible>(response.map(|body| Answer { body, _begun: begun }))
                }
            })
        };
        let mut serving = builder()
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        // While we leave, each answer says that it is the last one: whoever has a request on its way gets it.
        let mut start = std::pin::pin!(self.drain.start.cancelled());
        let first = activity.requests();
        let (mut seen, mut ends) = (first, false);
        let mut check = interval_at(Instant::now() + PARK_AFTER, PARK_AFTER);
        let ended = loop {
            tokio::select! {
                biased;
                () = &mut start, if !ends => {
                    ends = true;
                    Pin::new(&mut serving).graceful_shutdown();
                }
                ended = &mut serving => break ended,
                _ = check.tick(), if !ends => {
                    let requests = activity.requests();
                    // A client that has asked for nothing yet has a head to send.
                    if requests == seen && requests != first && activity.is_idle() {
                        ends = true;
                        activity.parking.store(true, Release);
                        Pin::new(&mut serving).graceful_shutdown();
                    }
                    seen = requests;
                }
            }
        };
        let parking = activity.parking.swap(false, AcqRel) && ended.is_ok();
        self.ended(ended);
        // None: upgraded.
        let parts = serving.into_parts().filter(|_| parking)?;
        let mut io = parts.io.into_inner();
        // A copy, since what is left of hyper's buffer would keep all of it alive.
        io.read = Bytes::copy_from_slice(&parts.read_buf);
        Some(io)
    }

    /// Waits for the client's next bytes; `false`: there won't be any.
    async fn wait(&self, io: &mut Parkable) -> bool {
        let mut first = [0; 64];
        let read = tokio::select! {
            biased;
            () = self.drain.start.cancelled() => return false,
            read = timeout(IDLE_TIMEOUT, io.stream.read(&mut first)) => read,
        };
        let Ok(Ok(count)) = read else { return false };
        io.read = Bytes::copy_from_slice(&first[..count]);
        count > 0
    }
}

/// What happens on a connection.
#[derive(Debug, Default)]
struct Activity {
    requests: AtomicU32,
    unanswered: AtomicU32,
    /// Something was written and not flushed.
    unflushed: AtomicBool,
    /// hyper's connection ends, the client's doesn't.
    parking: AtomicBool,
}

impl Activity {
    fn begin(self: &Arc<Self>) -> Begun {
        self.requests.fetch_add(1, AcqRel);
        self.unanswered.fetch_add(1, AcqRel);
        Begun(self.clone())
    }

    fn requests(&self) -> u32 {
        self.requests.load(Acquire)
    }

    fn is_idle(&self) -> bool {
        self.unanswered.load(Acquire) == 0 && !self.unflushed.load(Acquire)
    }
}

/// A request that is not answered in full yet.
#[derive(Debug)]
struct Begun(Arc<Activity>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, AcqRel);
    }
}

/// An answer's body.
struct Answer<B> {
    body: B,
    _begun: Begun,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The client's connection, with bytes that were read already. It stays open when hyper's is parked.
struct Parkable {
    stream: Stalling<Stream>,
    read: Bytes,
    activity: Arc<Activity>,
}

impl Parkable {
    fn wrote<R>(&self, polled: Poll<R>) -> Poll<R> {
        self.activity.unflushed.store(true, Release);
        polled
    }
}

impl AsyncRead for Parkable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..count]);
        self.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Parkable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if polled.is_ready() {
            self.activity.unflushed.store(false, Release);
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.parking.load(Acquire) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
