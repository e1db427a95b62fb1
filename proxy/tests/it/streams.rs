//! Bodies and upgraded streams pass as they are produced, and end when somebody goes.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    backend::{address, everything_to},
    front::{FQDN, Front, WAIT},
};

pub type Frames = mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>;

/// Answers one request with the frames that the test sends.
pub async fn producing(content_type: &'static str, frames: Frames) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let frames = parking_lot::Mutex::new(Some(frames));
        let service = service_fn(move |_: Request<Incoming>| {
            let frames = frames.lock().take().unwrap();
            let stream = futures::stream::unfold(frames, |mut f| async { f.recv().await.map(|x| (x, f)) });
            let mut response = Response::new(StreamBody::new(stream));
            response
                .headers_mut()
                .insert("content-type", HeaderValue::from_static(content_type));
            async { Ok::<_, Infallible>(response) }
        });
        let _ = auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
    addr
}

pub fn data(text: &'static str) -> Result<Frame<Bytes>, std::io::Error> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

#[tokio::test]
async fn chunks_arrive_as_they_are_produced() {
    for http2 in [false, true] {
        let (frames, receiver) = mpsc::channel(1);
        let addr = producing("text/event-stream", receiver).await;
        let front = Front::serving(everything_to(&address(addr))).await;
        let uri = format!("https://{FQDN}/events");
        let request = Request::get(&uri).header("host", FQDN).body(()).unwrap();
        let waiting = async {
            if http2 {
                front.h2_get(443, request).await
            } else {
                let stream = front.tls(443, FQDN, &["http/1.1"]).await.unwrap();
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .unwrap();
                tokio::spawn(connection);
                let (mut head, ()) = request.into_parts();
                head.uri = "/events".parse().unwrap();
                sender
                    .send_request(Request::from_parts(head, Full::<Bytes>::default()))
                    .await
                    .unwrap()
            }
        };
        let mut body = tokio::time::timeout(WAIT, waiting).await.unwrap().into_body();
        for text in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
            // The next one is produced only after this one has arrived.
            frames.send(data(text)).await.unwrap();
            let frame = tokio::time::timeout(WAIT, body.frame())
                .await
                .expect("not held back")
                .unwrap()
                .unwrap();
            assert_eq!(frame.into_data().unwrap(), text);
        }
        drop(frames);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "");
    }
}

#[tokio::test]
async fn trailers_of_grpc_arrive() {
    let (frames, receiver) = mpsc::channel(4);
    let addr = producing("application/grpc", receiver).await;
    let front = Front::serving(everything_to(&address(addr))).await;
    let request = Request::post(format!("https://{FQDN}/pkg.Service/Method"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    frames.send(data("message")).await.unwrap();
    frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(frames);
    let body = front
        .h2_get(443, request)
        .await
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "message");
}

#[tokio::test]
async fn grpc_failures_speak_grpc() {
    let front = Front::serving(everything_to(&address("127.0.0.1:1".parse().unwrap()))).await;
    let request = Request::post(format!("https://{FQDN}/pkg.Service/Method"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let response = front.h2_get(443, request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
}

/// A model's answer costs as long as it is computed. Of several tries the quickest counts: the machine may be
/// busy with other things.
#[tokio::test]
async fn a_client_that_goes_takes_the_upstream_with_it_at_once() {
    for after_the_head in [true, false] {
        let mut quickest = WAIT;
        for _ in 0..5 {
            quickest = quickest.min(cancelled_after(after_the_head).await);
        }
        let bound = std::time::Duration::from_millis(100);
        assert!(quickest < bound, "after the head: {after_the_head}, {quickest:?}");
    }
}

/// How long the backend goes on for a client that has left during the answer, or while it waits for one.
async fn cancelled_after(the_head: bool) -> std::time::Duration {
    let (frames, receiver) = mpsc::channel(1);
    let (asked, was_asked) = tokio::sync::oneshot::channel();
    let addr = if the_head {
        producing("application/x-ndjson", receiver).await
    } else {
        thinking(receiver, asked).await
    };
    let front = Front::serving(everything_to(&address(addr))).await;
    let mut client = front.connect(80).await;
    client
        .write_all(format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    if the_head {
        frames.send(data("{}\n")).await.unwrap();
        let mut buffer = [0; 1024];
        assert!(client.read(&mut buffer).await.unwrap() > 0);
    } else {
        tokio::time::timeout(WAIT, was_asked).await.unwrap().unwrap();
    }
    let gone = std::time::Instant::now();
    drop(client);
    tokio::time::timeout(WAIT, frames.closed())
        .await
        .expect("the backend learns that the client is gone");
    gone.elapsed()
}

/// Over HTTP/2 the client takes one stream back, and the connection goes on.
#[tokio::test]
async fn a_stream_that_is_taken_back_takes_the_upstream_with_it_at_once() {
    let mut quickest = WAIT;
    for _ in 0..5 {
        let (frames, receiver) = mpsc::channel(1);
        let addr = producing("application/x-ndjson", receiver).await;
        let front = Front::serving(everything_to(&address(addr))).await;
        let mut sender = front.h2::<Full<Bytes>>(443, FQDN).await;
        let request = Request::get(format!("https://{FQDN}/"))
            .body(Full::default())
            .unwrap();
        let asking = sender.send_request(request);
        frames.send(data("{}\n")).await.unwrap();
        let mut body = tokio::time::timeout(WAIT, asking)
            .await
            .unwrap()
            .unwrap()
            .into_body();
        assert!(body.frame().await.unwrap().is_ok());
        let gone = std::time::Instant::now();
        drop(body);
        tokio::time::timeout(WAIT, frames.closed())
            .await
            .expect("the backend learns that the stream is gone");
        quickest = quickest.min(gone.elapsed());
        assert!(!sender.is_closed());
    }
    assert!(quickest < std::time::Duration::from_millis(100), "{quickest:?}");
}

/// Takes one request and never answers; the frames' end is held until the request is dropped.
async fn thinking(frames: Frames, asked: tokio::sync::oneshot::Sender<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let held = parking_lot::Mutex::new(Some((frames, asked)));
        let service = service_fn(move |_: Request<Incoming>| {
            let (frames, asked) = held.lock().take().unwrap();
            asked.send(()).unwrap();
            async move {
                std::future::pending::<()>().await;
                drop(frames);
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        let _ = auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
    addr
}

#[tokio::test]
async fn websocket_messages_pass_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let front = Front::serving(everything_to(&address(addr))).await;
    let stream = front.tls(443, FQDN, &["http/1.1"]).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(format!("wss://{FQDN}/ws"), stream)
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        let answer = tokio::time::timeout(WAIT, socket.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(answer.into_text().unwrap(), text);
    }
    assert!(
        front
            .metrics
            .encode()
            .contains(r#"proxy_connections{state="upgraded"} 1"#)
    );
    // The drain's deadline ends it.
    front
        .drain
        .finish_within(std::time::Duration::from_millis(100))
        .await;
    assert!(!matches!(
        tokio::time::timeout(WAIT, socket.next()).await.unwrap(),
        Some(Ok(Message::Text(_)))
    ));
}

#[tokio::test]
async fn a_refused_websocket_is_an_ordinary_answer() {
    let backend = crate::backend::Recorder::start().await;
    let front = Front::serving(everything_to(&backend.backend())).await;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {FQDN}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: \
         dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nGET /second HTTP/1.1\r\nHost: {FQDN}\r\n\
         Tailscale-User-Login: evil\r\nConnection: close\r\n\r\n"
    );
    // What follows a refused upgrade is the next request, guarded as any other.
    let answer = front.raw(80, request).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert_eq!(backend.last().target, "/second");
    assert_eq!(backend.last().header("tailscale-user-login"), None);
}

#[tokio::test]
async fn bytes_pass_with_half_closes_and_the_clients_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        stream.write_all(all.to_uppercase().as_bytes()).await.unwrap();
    });
    let front = Front::serving(serde_json::json!([{"port": 5432, "protocol": {
        "type": "tcp", "backend": address(addr), "proxyProtocol": "V1"}}]))
    .await;
    let mut client = front.connect(5432).await;
    let port = client.local_addr().unwrap().port();
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(WAIT, client.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.starts_with(&format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} ")),
        "{answer}"
    );
    assert!(answer.ends_with("\r\nHELLO"), "{answer}");
}
