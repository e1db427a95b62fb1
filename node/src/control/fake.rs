//! A control server in the same process, whose answers the test gives.
//!
//! Its Noise is `snow`'s responder, its HTTP is hyper's server; connections are pipes in memory, so that
//! tests can run on paused time.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, oneshot},
};

use super::{
    dial::{BoxStream, Dial, Dialing},
    noise::tests::respond,
    url::Origin,
};
use crate::key::MachinePrivate;

/// What the session dials.
pub(super) struct Network {
    key: Mutex<MachinePrivate>,
    calls: mpsc::UnboundedSender<Call>,
    pub(super) down: AtomicBool,
    /// How long a dial takes.
    pub(super) slowness: Mutex<Duration>,
}

/// What the test holds.
pub(super) struct Server {
    calls: mpsc::UnboundedReceiver<Call>,
    waiting: VecDeque<Call>,
}

/// A request inside Noise, or a plain `HEAD`, to be answered by the test.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) raw: Bytes,
    /// `Null` when it is no JSON.
    pub(super) body: Value,
    reply: oneshot::Sender<Response<Reply>>,
}

pub(super) fn server() -> (Arc<Network>, Server) {
    let (sender, calls) = mpsc::unbounded_channel();
    let network = Network {
        key: Mutex::new(MachinePrivate::generate().unwrap()),
        calls: sender,
        down: AtomicBool::new(false),
        slowness: Mutex::default(),
    };
    let waiting = VecDeque::new();
    (Arc::new(network), Server { calls, waiting })
}

impl Network {
    /// As after a restart that has lost the server's state.
    pub(super) fn change_key(&self) {
        *self.key.lock().unwrap() = MachinePrivate::generate().unwrap();
    }
}

impl Dial for Network {
    fn dial<'a>(&'a self, _: &'a Origin) -> Dialing<'a> {
        Box::pin(async move {
            let slowness = *self.slowness.lock().unwrap();
            tokio::time::sleep(slowness).await;
            if self.down.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::ConnectionRefused.into());
            }
            let (near, far) = tokio::io::duplex(64 << 10);
            let (key, calls) = (self.key.lock().unwrap().clone(), self.calls.clone());
            tokio::spawn(async move {
                let service = service_fn(|request| outer(request, key.clone(), calls.clone()));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(far), service);
                let _ = connection.with_upgrades().await;
            });
            Ok(Box::new(near) as BoxStream)
        })
    }
}

/// Outside of Noise.
async fn outer(
    mut request: Request<Incoming>,
    key: MachinePrivate,
    calls: mpsc::UnboundedSender<Call>,
) -> Result<Response<Reply>, Infallible> {
    let response = match request.uri().path() {
        "/key" => {
            let keys = json!({"publicKey": key.public(), "legacyPublicKey": key.public()});
            Response::new(Reply::Full(Some(keys.to_string().into())))
        }
        "/ts2021" => {
            let initiation = STANDARD
                .decode(&request.headers()["x-tailscale-handshake"])
                .unwrap();
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let io = TokioIo::new(upgrade.await.unwrap());
                let Some(mut noise) = respond(&key, &initiation, io).await else {
                    // As Go's server does.
                    return std::future::pending().await;
                };
                noise
                    .write_all(b"\xff\xff\xffTS\x00\x00\x00\x02{}")
                    .await
                    .unwrap();
                let service = service_fn(|request| inner(request, calls.clone()));
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(noise), service)
                    .await;
            });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "tailscale-control-protocol")
                .body(Reply::Full(None))
                .unwrap()
        }
        _ => return inner(request, calls).await,
    };
    Ok(response)
}

/// Inside of Noise.
async fn inner(
    request: Request<Incoming>,
    calls: mpsc::UnboundedSender<Call>,
) -> Result<Response<Reply>, Infallible> {
    let (head, body) = request.into_parts();
    let raw = body.collect().await.unwrap().to_bytes();
    let (reply, answer) = oneshot::channel();
    let call = Call {
        method: head.method,
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: serde_json::from_slice(&raw).unwrap_or_default(),
        raw,
        reply,
    };
    let _ = calls.send(call);
    let gone = Response::builder()
        .status(StatusCode::SERVICE_UNAVAILABLE)
        .body(Reply::Full(None));
    Ok(answer.await.unwrap_or_else(|_| gone.unwrap()))
}

impl Server {
    /// The next request that `wanted` accepts; others wait.
    pub(super) async fn call(&mut self, wanted: impl Fn(&Call) -> bool) -> Call {
        if let Some(at) = self.waiting.iter().position(&wanted) {
            return self.waiting.remove(at).unwrap();
        }
        loop {
            let call = self.calls.recv().await.unwrap();
            if wanted(&call) {
                return call;
            }
            self.waiting.push_back(call);
        }
    }

    pub(super) async fn path(&mut self, path: &str) -> Call {
        self.call(|call| call.path == path).await
    }

    pub(super) async fn register(&mut self) -> Call {
        self.path("/machine/register").await
    }

    /// The request for the map stream.
    pub(super) async fn stream(&mut self) -> Call {
        self.call(|call| call.path == "/machine/map" && call.body["Stream"] == true)
            .await
    }

    /// An update.
    pub(super) async fn update(&mut self) -> Call {
        self.call(|call| call.path == "/machine/map" && call.body["OmitPeers"] == true)
            .await
    }

    /// A request that is there already.
    pub(super) fn waiting(&mut self) -> usize {
        while let Ok(call) = self.calls.try_recv() {
            self.waiting.push_back(call);
        }
        self.waiting.len()
    }
}

impl Call {
    pub(super) fn answer(self, status: u16, text: &str) {
        self.answer_with(status, text, &[]);
    }

    pub(super) fn answer_with(self, status: u16, text: &str, headers: &[(&str, &str)]) {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let body = Reply::Full(Some(text.to_owned().into()));
        let _ = self.reply.send(response.body(body).unwrap());
    }

    /// Answers the request for the map stream.
    pub(super) fn open(self) -> MapStream {
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = self.reply.send(Response::new(Reply::Stream(receiver)));
        MapStream(sender)
    }
}

/// The server's end of a map stream; dropping it ends the stream.
pub(super) struct MapStream(mpsc::UnboundedSender<Bytes>);

impl MapStream {
    pub(super) fn send(&self, message: &str) {
        let mut bytes = (message.len() as u32).to_le_bytes().to_vec();
        bytes.extend(message.as_bytes());
        self.raw(&bytes);
    }

    pub(super) fn raw(&self, bytes: &[u8]) {
        let _ = self.0.send(Bytes::copy_from_slice(bytes));
    }
}

/// The body of an answer.
pub(super) enum Reply {
    Full(Option<Bytes>),
    Stream(mpsc::UnboundedReceiver<Bytes>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Full(body) => body.take(),
            Self::Stream(stream) => ready!(stream.poll_recv(cx)),
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }
}
