//! Two engines in one process, over loopback, with netmaps merged from hand-made messages.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

mod lab;

use lab::{Side, pair, within};

const PORT: u16 = 80;

/// Sends `bytes` bytes of a known pattern and closes the writing half.
async fn send_pattern(stream: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: usize) {
    let pattern = pattern(bytes);
    stream.write_all(&pattern).await.unwrap();
    stream.shutdown().await.unwrap();
}

fn pattern(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(bytes as u64);
    let mut pattern = vec![0; bytes];
    random.fill(&mut pattern);
    pattern
}

async fn assert_pattern(stream: &mut (impl tokio::io::AsyncRead + Unpin), bytes: usize) {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), bytes);
    assert!(got == pattern(bytes), "the bytes differ");
}

async fn connected(from: &Side, to: &Side) -> (TcpStream, TcpStream) {
    let mut listener = to.engine.listen(None, PORT).unwrap();
    let dialled = from.engine.dial(to.addr(PORT)).await.unwrap();
    let accepted = listener.accept().await.unwrap();
    (dialled, accepted)
}

async fn bulk_both_ways() {
    let (a, b) = pair().await;
    let (dialled, accepted) = connected(&a, &b).await;
    assert_eq!(accepted.peer_key(), a.key.public());
    assert_eq!(accepted.peer_addr(), dialled.local_addr());
    assert_eq!(dialled.peer_addr(), b.addr(PORT));
    const BYTES: usize = 16 << 20;
    let (mut r1, mut w1) = tokio::io::split(dialled);
    let (mut r2, mut w2) = tokio::io::split(accepted);
    tokio::join!(
        send_pattern(&mut w1, BYTES),
        send_pattern(&mut w2, BYTES),
        assert_pattern(&mut r1, BYTES),
        assert_pattern(&mut r2, BYTES),
    );
    drop((r1, r2, w1, w2));
    within(|| a.engine.open_flows() == 0 && b.engine.open_flows() == 0).await;
}

#[tokio::test]
async fn sixteen_mebibytes_each_way() {
    bulk_both_ways().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn sixteen_mebibytes_each_way_on_several_threads() {
    bulk_both_ways().await;
}
