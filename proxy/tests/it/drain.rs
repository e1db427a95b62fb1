//! The end: what is in flight is finished, nothing new begins.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    backend::{address, everything_to},
    front::{FQDN, Front, WAIT},
};

#[tokio::test]
async fn requests_in_flight_are_finished() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let front = Front::serving(everything_to(&address(addr))).await;
    let mut client = front.connect(80).await;
    let mut idle = front.connect(80).await;
    client
        .write_all(format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let (mut backend, _) = listener.accept().await.unwrap();
    let mut buffer = [0; 4096];
    assert!(backend.read(&mut buffer).await.unwrap() > 0);

    let drain = front.drain.clone();
    let draining = tokio::spawn(async move { drain.finish_within(Duration::from_secs(20)).await });
    // An idle connection is closed, a busy one waits for its answer.
    let mut rest = Vec::new();
    tokio::time::timeout(WAIT, idle.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(front.nodes.ports.lock().is_empty(), "nothing listens any more");
    assert!(!draining.is_finished());
    backend
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await
        .unwrap();
    let mut answer = String::new();
    tokio::time::timeout(WAIT, client.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("ok"));
    tokio::time::timeout(WAIT, draining).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_deadline_ends_what_does_not_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let front = Front::serving(everything_to(&address(addr))).await;
    let mut client = front.connect(80).await;
    client
        .write_all(format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let (_backend, _) = listener.accept().await.unwrap();
    let draining = front.drain.finish_within(Duration::from_millis(50));
    tokio::time::timeout(WAIT, draining).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(WAIT, client.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.is_empty());
}
