//! Two engines in one process, over loopback, with netmaps merged from hand-made messages.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::state::RecentPeer;

mod flows;
mod funnel;
mod hostile;
mod lab;
mod paths;
mod policy;
mod services;

use lab::{PATIENCE, Side, allow_all, pair, within};

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

/// Echoes until the other side has closed its half, then closes ours.
async fn echo(mut stream: TcpStream) {
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}

/// What `f` logs.
pub(super) fn logged(f: impl FnOnce()) -> String {
    use std::io::{Read as _, Seek as _};

    let mut log = tempfile::tempfile().unwrap();
    let writer = Arc::new(log.try_clone().unwrap());
    let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
    tracing::subscriber::with_default(subscriber, f);
    let mut text = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut text).unwrap();
    text
}

/// A service that echoes, for as long as the test runs.
fn serve_echo(side: &Side, tasks: &mut tokio::task::JoinSet<()>) {
    let mut listener = side.engine.listen(None, PORT).unwrap();
    tasks.spawn(async move {
        let mut streams = tokio::task::JoinSet::new();
        while let Some(stream) = listener.accept().await {
            streams.spawn(echo(stream));
        }
    });
}

async fn assert_echo(mut stream: TcpStream, bytes: usize) {
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    tokio::join!(
        send_pattern(&mut writer, bytes),
        assert_pattern(&mut reader, bytes)
    );
}
