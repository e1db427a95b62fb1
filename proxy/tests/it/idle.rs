//! Connections on which nothing happens.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    backend::{Recorder, everything_to},
    front::{FQDN, Front, WAIT},
};

/// Sends what is left of a request and reads the answer.
async fn finish(client: &mut TcpStream, request: &str) {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n/") {
        let read = tokio::time::timeout(WAIT, client.read_buf(&mut answer)).await;
        let count = read.expect("an answer in time").unwrap();
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

/// Lets time pass for all of the proxy.
async fn pass(seconds: u64) {
    tokio::time::pause();
    for _ in 0..seconds {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
}

async fn assert_closed(client: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(WAIT, client.read_to_end(&mut rest)).await;
    read.expect("the proxy closes").unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_minutes_and_then_closed() {
    let backend = Recorder::start().await;
    let front = Front::serving(everything_to(&backend.backend())).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\n\r\n");
    let mut client = front.connect(80).await;
    for pause in [0, 1, 3, 100, 250] {
        pass(pause).await;
        finish(&mut client, &request).await;
    }
    // A head may begin before the connection is taken apart, and end after it.
    client.write_all(b"GET / HT").await.unwrap();
    pass(20).await;
    finish(&mut client, &request["GET / HT".len()..]).await;
    pass(320).await;
    assert_closed(&mut client).await;
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let backend = Recorder::start().await;
    let front = Front::serving(everything_to(&backend.backend())).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\n\r\n");
    let mut fresh = front.connect(80).await;
    let mut used = front.connect(80).await;
    finish(&mut used, &request).await;
    pass(10).await;
    used.write_all(b"GET").await.unwrap();
    fresh.write_all(b"GET").await.unwrap();
    // Somebody has to see the bytes before time goes on.
    let mut other = front.connect(80).await;
    finish(&mut other, &request).await;
    pass(40).await;
    assert_closed(&mut used).await;
    assert_closed(&mut fresh).await;
}
