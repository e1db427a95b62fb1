//! Pings of peers: TSMP and ICMP through the tunnel, disco beside it (Go: `LocalBackend.Ping`).

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use super::{Engine, shared::Shared};
use crate::{
    key::NodePublic,
    magicsock::Path,
    netstack::echo::{self, Token},
};

/// As in Go.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// More at a time are refused.
const MAX_PINGS: usize = 64;

/// The way that a ping takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PingKind {
    /// Through WireGuard, answered by the peer's client.
    Tsmp,
    /// Through WireGuard, answered by the peer's IP stack.
    Icmp,
    /// The path alone, without WireGuard.
    Disco,
}

/// The answer to a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    /// There and back.
    pub latency: Duration,
    /// The way that a disco ping took; the others don't tell.
    pub path: Path,
    /// Where the peer's PeerAPI listens, as it says to TSMP; 0: nowhere.
    pub peer_api_port: u16,
}

/// Pings without an answer yet.
#[derive(Default)]
pub(super) struct Pings(Mutex<AHashMap<Token, Waiting>>);

struct Waiting {
    peer: NodePublic,
    sent: Instant,
    done: oneshot::Sender<Pong>,
}

impl Pings {
    fn add(&self, token: Token, peer: NodePublic) -> io::Result<oneshot::Receiver<Pong>> {
        let mut waiting = self.0.lock();
        waiting.retain(|_, waiting| !waiting.done.is_closed());
        if waiting.len() >= MAX_PINGS {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let (done, pong) = oneshot::channel();
        let sent = Instant::now();
        waiting.insert(token, Waiting { peer, sent, done });
        Ok(pong)
    }

    /// An answer has come from `peer`.
    pub(super) fn answered(&self, peer: &NodePublic, token: &Token, path: Path, peer_api_port: u16) {
        let mut waiting = self.0.lock();
        if waiting.get(token).is_some_and(|waiting| waiting.peer == *peer)
            && let Some(waiting) = waiting.remove(token)
        {
            // Nobody waits any more: that is fine.
            let _ = waiting.done.send(Pong {
                latency: waiting.sent.elapsed(),
                path,
                peer_api_port,
            });
        }
    }
}

impl Engine {
    /// Pings the peer that packets to `to` go to.
    ///
    /// # Errors
    /// `HostUnreachable`: no peer has this address; `TimedOut` after 10 s.
    pub async fn ping(&self, to: IpAddr, kind: PingKind) -> io::Result<Pong> {
        let pong = self.send_ping(&self.shared, to, kind)?;
        match timeout(PING_TIMEOUT, pong).await {
            Ok(Ok(pong)) => Ok(pong),
            Ok(Err(_)) | Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn send_ping(&self, shared: &Shared, to: IpAddr, kind: PingKind) -> io::Result<oneshot::Receiver<Pong>> {
        let unreachable = || io::Error::from(io::ErrorKind::HostUnreachable);
        let view = shared.view.load_full().ok_or_else(unreachable)?;
        let node = view.peer_for(to).ok_or_else(unreachable)?;
        let node = view.peer(&node.key).ok_or_else(unreachable)?;
        let mut token = Token::default();
        getrandom::fill(&mut token)?;
        let pong = shared.pings.add(token, node.key)?;
        if kind == PingKind::Disco {
            if !shared.paths.lock().ask(Instant::now(), &node.key, token) {
                return Err(unreachable());
            }
            shared.wake_engine();
            return Ok(pong);
        }
        let from = view.source_for(to).ok_or_else(unreachable)?;
        let packet = match kind {
            PingKind::Tsmp => echo::tsmp_ping(from, to, &token),
            PingKind::Icmp | PingKind::Disco => echo::request(from, to, &token),
        };
        let peer = shared.peers.peer(&node);
        shared.send(&peer, vec![packet.ok_or_else(unreachable)?]);
        Ok(pong)
    }
}
