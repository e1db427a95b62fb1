//! A DERP connection from the first frame to the last (Go: `derp/derp_client.go`).

use std::{io, sync::atomic::Ordering, time::Duration};

use bytes::{Bytes, BytesMut};
use crypto_box::{PublicKey, SalsaBox, SecretKey, aead::Aead};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{
    DerpEvent,
    client::Shared,
    frame::{self, Frame},
};
use crate::{
    derp_map::RegionId,
    key::{NodePrivate, NodePublic},
    magicsock::bucket::TokenBucket,
};

/// Servers send a keep-alive every minute; after two without a word the connection is dead.
const WATCHDOG: Duration = Duration::from_secs(120);
/// After this long without a word we ask for one.
const QUIET: Duration = Duration::from_secs(25);
/// A server that answers pings at all does so within this time.
const ANSWER: Duration = Duration::from_secs(10);
/// A socket that takes nothing for this long is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Packets that go out with one flush.
const BATCH: usize = 128;
/// Room for the next read; also what an idle connection holds.
const READ_SIZE: usize = 16 << 10;
/// A buffer that grew beyond this isn't kept.
const KEEP_CAPACITY: usize = 256 << 10;
const CLIENT_INFO: &[u8] = br#"{"version":2,"CanAckPings":true}"#;

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("the relay connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the relay closed the connection")]
    Closed,
    #[error("the relay sent {0}")]
    Frame(#[from] frame::FrameTooLong),
    #[error("the relay greeted with an unexpected frame: {0:?}")]
    Greeting(Frame),
    #[error("the relay's greeting can't be decrypted or parsed")]
    ServerInfo,
    #[error("the system has no randomness to give: {0}")]
    Random(getrandom::Error),
    #[error("the relay was silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the relay took nothing for {} s", WRITE_TIMEOUT.as_secs())]
    Stuck,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that has been logged in.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// Read and not yet decoded.
    read: BytesMut,
    info: ServerInfo,
}

/// What the server wants of its clients. Zero: no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ServerInfo {
    token_bucket_bytes_per_second: u32,
    token_bucket_bytes_burst: u32,
}

/// Exchanges the greetings. `read` is what has already been read of the stream.
pub(super) async fn handshake(
    mut stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut read: BytesMut,
    key: &NodePrivate,
) -> Result<Connection, SessionError> {
    let server = match next_frame(&mut stream, &mut read).await? {
        Frame::ServerKey(key) => PublicKey::from(key),
        other => return Err(SessionError::Greeting(other)),
    };
    let shared = SalsaBox::new(&server, &SecretKey::from(*key.expose_bytes()));
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(SessionError::Random)?;
    let sealed = shared
        .encrypt(&nonce.into(), CLIENT_INFO)
        .expect("no limit of length is near");
    let mut out = BytesMut::new();
    frame::put_client_info(&mut out, &key.public(), &nonce, &sealed);
    stream.write_all(&out).await?;
    stream.flush().await?;

    loop {
        let info = match next_frame(&mut stream, &mut read).await? {
            Frame::ServerInfo { nonce, sealed } => shared
                .decrypt(&nonce.into(), &sealed[..])
                .ok()
                .and_then(|json| serde_json::from_slice(&json).ok())
                .ok_or(SessionError::ServerInfo)?,
            Frame::KeepAlive | Frame::Health(_) | Frame::Other(_) => continue,
            other => return Err(SessionError::Greeting(other)),
        };
        let stream = Box::new(stream);
        return Ok(Connection { stream, read, info });
    }
}

async fn next_frame(
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut BytesMut,
) -> Result<Frame, SessionError> {
    loop {
        if let Some(frame) = frame::decode(read)? {
            return Ok(frame);
        }
        if stream.read_buf(read).await? == 0 {
            return Err(SessionError::Closed);
        }
    }
}

/// Moves packets in both directions until the connection ends.
pub(super) async fn serve(
    connection: Connection,
    region: RegionId,
    shared: &Shared,
    home: &mut watch::Receiver<bool>,
    queue: &mut mpsc::Receiver<(NodePublic, Bytes)>,
    asked_to_wait: &mut Option<Duration>,
) -> SessionError {
    let (read, write) = tokio::io::split(connection.stream);
    let (liveness, liveness_rx) = mpsc::channel(4);
    let mut reader = Reader {
        region,
        shared,
        liveness,
        answers_pings: false,
        asked_to_wait,
    };
    let mut writer = Writer {
        write,
        limit: connection.info.limit(Instant::now()),
        out: BytesMut::new(),
    };
    let error = tokio::select! {
        biased;
        error = reader.run(read, connection.read) => error,
        error = writer.run(home, queue, liveness_rx) => error,
    };
    error.err().unwrap_or(SessionError::Closed)
}

impl ServerInfo {
    fn limit(&self, now: Instant) -> Option<TokenBucket> {
        let rate = f64::from(self.token_bucket_bytes_per_second);
        let burst = f64::from(self.token_bucket_bytes_burst);
        (rate > 0.0 && burst > 0.0).then(|| TokenBucket::new(rate, burst, now.into_std()))
    }
}

/// What the reader asks the writer to send.
enum Liveness {
    Ping,
    Pong([u8; 8]),
}

struct Reader<'a> {
    region: RegionId,
    shared: &'a Shared,
    liveness: mpsc::Sender<Liveness>,
    answers_pings: bool,
    asked_to_wait: &'a mut Option<Duration>,
}

impl Reader<'_> {
    async fn run(&mut self, mut read: impl AsyncRead + Unpin, mut buf: BytesMut) -> Result<(), SessionError> {
        // The first ping tells whether this server answers pings.
        self.say(Liveness::Ping);
        loop {
            while let Some(frame) = frame::decode(&mut buf)? {
                self.on_frame(frame).await;
            }
            buf.reserve(READ_SIZE);
            if self.read_or_ask(&mut read, &mut buf).await? == 0 {
                return Err(SessionError::Closed);
            }
        }
    }

    /// Reads; asks a silent server for a sign of life, and gives up on one that gives none.
    async fn read_or_ask(
        &mut self,
        read: &mut (impl AsyncRead + Unpin),
        buf: &mut BytesMut,
    ) -> Result<usize, SessionError> {
        let since = Instant::now();
        if let Ok(n) = timeout_at(since + QUIET, read.read_buf(buf)).await {
            return Ok(n?);
        }
        self.say(Liveness::Ping);
        let limit = if self.answers_pings {
            QUIET + ANSWER
        } else {
            WATCHDOG
        };
        match timeout_at(since + limit, read.read_buf(buf)).await {
            Ok(n) => Ok(n?),
            Err(_) => Err(SessionError::Silent(limit)),
        }
    }

    async fn on_frame(&mut self, frame: Frame) {
        let region = self.region;
        match frame {
            Frame::Packet { from, packet } => {
                let event = DerpEvent::Packet { region, from, packet };
                if self.shared.events.try_send(event).is_err() {
                    self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Frame::PeerGone(peer) => {
                // Not to be lost: it ends a route that leads nowhere.
                let _ = self
                    .shared
                    .events
                    .send(DerpEvent::PeerGone { region, peer })
                    .await;
            }
            Frame::Ping(data) => self.say(Liveness::Pong(data)),
            Frame::Pong(_) => self.answers_pings = true,
            Frame::Health(problem) if problem.is_empty() => {
                tracing::debug!(region, "The relay is well again")
            }
            Frame::Health(problem) => tracing::info!(region, problem, "The relay reports a problem"),
            Frame::Restarting { reconnect_in } => {
                *self.asked_to_wait = Some(Duration::from_millis(reconnect_in.into()));
            }
            Frame::KeepAlive | Frame::ServerKey(_) | Frame::ServerInfo { .. } => {}
            Frame::Other(kind) => tracing::trace!(region, kind, "Skipped a relay's frame"),
        }
    }

    fn say(&self, what: Liveness) {
        // When it is full the writer has enough to say already.
        let _ = self.liveness.try_send(what);
    }
}

struct Writer<W> {
    write: W,
    limit: Option<TokenBucket>,
    out: BytesMut,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn run(
        &mut self,
        home: &mut watch::Receiver<bool>,
        queue: &mut mpsc::Receiver<(NodePublic, Bytes)>,
        mut liveness: mpsc::Receiver<Liveness>,
    ) -> Result<(), SessionError> {
        if *home.borrow_and_update() {
            frame::put_note_preferred(&mut self.out, true);
        }
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.flush().await?;
            tokio::select! {
                biased;
                Some(what) = liveness.recv() => match what {
                    Liveness::Ping => frame::put_ping(&mut self.out, &fastrand::u64(..).to_be_bytes()),
                    Liveness::Pong(data) => frame::put_pong(&mut self.out, &data),
                },
                Ok(()) = home.changed() => frame::put_note_preferred(&mut self.out, *home.borrow_and_update()),
                n = queue.recv_many(&mut batch, BATCH) => {
                    if n == 0 {
                        return Err(SessionError::Closed);
                    }
                    let now = Instant::now().into_std();
                    for (to, packet) in batch.drain(..) {
                        self.put_packet(now, &to, &packet);
                    }
                }
            }
        }
    }

    /// What is above the server's limit is dropped here as it would be there.
    fn put_packet(&mut self, now: std::time::Instant, to: &NodePublic, packet: &[u8]) {
        let passes = self
            .limit
            .as_mut()
            .is_none_or(|limit| limit.take(now, packet.len() as f64));
        if passes {
            frame::put_packet(&mut self.out, to, packet);
        }
    }

    async fn flush(&mut self) -> Result<(), SessionError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let write = async {
            self.write.write_all(&self.out).await?;
            self.write.flush().await
        };
        timeout(WRITE_TIMEOUT, write)
            .await
            .map_err(|_| SessionError::Stuck)??;
        if self.out.capacity() > KEEP_CAPACITY {
            self.out = BytesMut::new();
        } else {
            self.out.clear();
        }
        Ok(())
    }
}
