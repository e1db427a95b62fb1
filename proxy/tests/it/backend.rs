//! Backends: one that records what it understands, one that records bytes.

use std::{convert::Infallible, future::ready, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};

/// What a backend got.
#[derive(Debug, Clone)]
pub struct Seen {
    pub target: String,
    pub headers: HeaderMap,
    pub trailers: Option<HeaderMap>,
    pub body: Bytes,
    pub version: http::Version,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        let first = all.next()?.to_str().unwrap();
        assert!(all.next().is_none(), "{name} is there twice");
        Some(first)
    }
}

/// Answers 200 with the request's path; HTTP/1 and HTTP/2.
#[derive(Debug, Clone)]
pub struct Recorder {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Recorder {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder = Self::at(listener.local_addr().unwrap());
        let accept = async move || ready(Ok(listener.accept().await.unwrap().0));
        tokio::spawn(record(recorder.seen.clone(), accept));
        recorder
    }

    /// The same behind TLS, with a certificate that nobody has signed.
    pub async fn behind_tls() -> Self {
        let (cert, key) = crate::front::self_signed(&["localhost"]);
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder = Self::at(listener.local_addr().unwrap());
        let accept = async move || tls.accept(listener.accept().await.unwrap().0);
        tokio::spawn(record(recorder.seen.clone(), accept));
        recorder
    }

    /// The same on a unix socket.
    pub fn on_unix(path: &std::path::Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let recorder = Self::at(([0, 0, 0, 0], 0).into());
        let accept = async move || ready(Ok(listener.accept().await.unwrap().0));
        tokio::spawn(record(recorder.seen.clone(), accept));
        recorder
    }

    fn at(addr: SocketAddr) -> Self {
        Self {
            addr,
            seen: Arc::default(),
        }
    }

    /// As a route's backend.
    pub fn backend(&self) -> serde_json::Value {
        address(self.addr)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the backend saw a request")
    }
}

pub fn address(addr: SocketAddr) -> serde_json::Value {
    serde_json::json!({"type": "address", "address": addr.to_string()})
}

/// Listeners with one HTTP port 80 and one HTTPS port 443, everything to this backend.
pub fn everything_to(backend: &serde_json::Value) -> serde_json::Value {
    let routes = serde_json::json!([{"path": {"type": "prefix", "value": "/"}, "backend": backend}]);
    let identity = serde_json::json!({"appCapabilities": ["example.com/cap/x"]});
    serde_json::json!([
        {"port": 80, "protocol": {"type": "http", "routes": routes, "identity": identity}},
        {"port": 443, "protocol": {"type": "https", "routes": routes, "identity": identity}},
    ])
}

/// Serves every connection, as soon as its handshake is done.
async fn record<S, H>(record: Arc<Mutex<Vec<Seen>>>, accept: impl AsyncFn() -> H)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Future<Output = io::Result<S>> + Send + 'static,
{
    loop {
        let (record, handshake) = (record.clone(), accept().await);
        tokio::spawn(async move {
            if let Ok(stream) = handshake.await {
                serve(record, stream).await;
            }
        });
    }
}

async fn serve<S>(record: Arc<Mutex<Vec<Seen>>>, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| answer(record.clone(), request));
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    record: Arc<Mutex<Vec<Seen>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        // Cut off: as if it had never come.
        return Ok(Response::new(Full::default()));
    };
    let path = head
        .uri
        .path_and_query()
        .map(ToString::to_string)
        .unwrap_or_default();
    record.lock().push(Seen {
        target: path.clone(),
        trailers: body.trailers().cloned(),
        body: body.to_bytes(),
        headers: head.headers,
        version: head.version,
    });
    Ok(Response::new(Full::from(path)))
}

/// Records the bytes that arrive; answers `ok` to every head that ends.
#[derive(Debug, Clone)]
pub struct Wire {
    pub addr: SocketAddr,
    pub bytes: Arc<Mutex<Vec<u8>>>,
    /// Who connected.
    pub peers: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Wire {
    pub async fn start() -> Self {
        Self::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    }

    pub async fn answering(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
        let record = bytes.clone();
        let peers: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let connected = peers.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, peer) = listener.accept().await.unwrap();
                connected.lock().push(peer);
                let record = record.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65536];
                    let mut pending: Vec<u8> = Vec::new();
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        record.lock().extend(&buffer[..read]);
                        pending.extend(&buffer[..read]);
                        while let Some(at) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
                            pending.drain(..at + 4);
                            if stream.write_all(answer).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { addr, bytes, peers }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock()).into_owned()
    }
}
