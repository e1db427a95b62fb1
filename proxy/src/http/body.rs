//! Bodies on their way through: frames are passed on as they come, never gathered.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::{access_log::Record, files::FileBody, owned};

/// An error of any layer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is learnt about a request's body while it passes.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes so far.
    pub bytes: AtomicU64,
    /// It was larger than allowed.
    pub too_large: AtomicBool,
    /// It stopped for too long.
    pub timed_out: AtomicBool,
}

/// Why a body is cut off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More than the route allows.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// No frame for so long.
    #[error("the body was silent for {} s", .0.as_secs())]
    Silent(Duration),
}

/// A client's body on its way to a backend.
#[derive(Debug)]
pub struct RequestBody {
    inner: Option<Incoming>,
    limit: Option<u64>,
    idle: Idle,
    progress: Arc<Progress>,
}

impl RequestBody {
    /// Bounds `inner`.
    pub fn new(inner: Incoming, limit: Option<u64>, idle: Duration, progress: Arc<Progress>) -> Self {
        Self {
            inner: Some(inner),
            limit,
            idle: Idle::new(idle),
            progress,
        }
    }

    /// No body.
    pub fn empty() -> Self {
        Self {
            inner: None,
            limit: None,
            idle: Idle::new(Duration::MAX),
            progress: Arc::default(),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) else {
            ready!(this.idle.poll_silent(cx));
            this.progress.timed_out.store(true, Relaxed);
            return Poll::Ready(Some(Err(BodyError::Silent(this.idle.limit).into())));
        };
        this.idle.heard();
        let mut frame = match frame {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            let length = data.len() as u64;
            let bytes = this.progress.bytes.fetch_add(length, Relaxed) + length;
            if let Some(limit) = this.limit
                && bytes > limit
            {
                this.progress.too_large.store(true, Relaxed);
                return Poll::Ready(Some(Err(BodyError::TooLarge(limit).into())));
            }
        } else if let Some(trailers) = frame.trailers_mut() {
            strip_trailers(trailers);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Trailers can't set what headers may not, nor framing, routing or credentials (RFC 9110, section 6.5.1).
fn strip_trailers(trailers: &mut HeaderMap) {
    const NEVER: [HeaderName; 9] = [
        header::AUTHORIZATION,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::HOST,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    owned::strip(trailers);
    for name in NEVER {
        trailers.remove(name);
    }
}

/// A response's body on its way to the client. The access log is written when it ends.
#[derive(Debug)]
pub struct ResponseBody {
    inner: Inner,
    idle: Idle,
    record: Option<Record>,
}

#[derive(Debug)]
enum Inner {
    Own(Full<Bytes>),
    File(FileBody),
    Upstream(Incoming),
}

impl ResponseBody {
    /// Of our own making.
    pub fn own(body: Full<Bytes>, record: Option<Record>) -> Self {
        Self {
            inner: Inner::Own(body),
            idle: Idle::new(Duration::MAX),
            record,
        }
    }

    /// Of a file.
    pub fn file(body: FileBody, record: Record) -> Self {
        Self {
            inner: Inner::File(body),
            idle: Idle::new(Duration::MAX),
            record: Some(record),
        }
    }

    /// A backend's.
    pub fn upstream(body: Incoming, idle: Duration, record: Record) -> Self {
        Self {
            inner: Inner::Upstream(body),
            idle: Idle::new(idle),
            record: Some(record),
        }
    }

    fn end(&mut self, error: Option<&'static str>) {
        if let Some(record) = self.record.take() {
            record.finish(error);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = match &mut this.inner {
            Inner::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Inner::File(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Inner::Upstream(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
        };
        let Poll::Ready(frame) = polled else {
            ready!(this.idle.poll_silent(cx));
            this.end(Some("upstream_silent"));
            return Poll::Ready(Some(Err(BodyError::Silent(this.idle.limit).into())));
        };
        this.idle.heard();
        match &frame {
            None => this.end(None),
            Some(Err(_)) => this.end(Some("upstream_body")),
            Some(Ok(frame)) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.sent(data.len());
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Own(body) => body.is_end_stream(),
            Inner::File(body) => body.is_end_stream(),
            Inner::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Own(body) => body.size_hint(),
            Inner::File(body) => body.size_hint(),
            Inner::Upstream(body) => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper doesn't poll a body whose end it knows already.
        let complete = self.is_end_stream();
        self.end((!complete).then_some("client_gone"));
    }
}

/// A deadline that starts anew with everything heard. The timer exists only while there is silence: most
/// bodies are there at once.
#[derive(Debug)]
struct Idle {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    fn heard(&mut self) {
        self.timer = None;
    }

    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.limit == Duration::MAX {
            return Poll::Pending;
        }
        let limit = self.limit;
        self.timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)))
            .as_mut()
            .poll(cx)
    }
}
