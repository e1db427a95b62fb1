//! The PeerAPI: what this node answers its peers over the tailnet (Go: `ipn/ipnlocal/peerapi.go`).
//!
//! It is one door with one purpose: Funnel's ingress nodes bring connections from the internet through
//! `/v0/ingress`. Everything else is refused as Go refuses what it has not got. The packet filter lets every
//! peer up to this port, so what is asked here is judged here, and bounded.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ahash::AHashMap;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    control::LocalState,
    engine::{Engine, TcpListener, TcpStream},
    funnel::{FunnelStream, Funnels},
    key::NodePublic,
    netmap::{self, Netmap},
};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod request;

use request::{Answer, Caller, Ingress, Request, Verdict};

/// Callers that have not been answered yet, in all and of one peer.
const MAX_CALLS: usize = 512;
const MAX_CALLS_PER_PEER: usize = 128;
/// From the connection to the end of the answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How many ports are tried.
const PORTS: u16 = 32;

/// What the PeerAPI works with.
pub(crate) struct PeerApi {
    pub(crate) engine: Engine,
    pub(crate) netmap: watch::Receiver<Option<Arc<Netmap>>>,
    pub(crate) local: watch::Sender<LocalState>,
    pub(crate) funnels: Funnels,
}

impl PeerApi {
    /// Listens as soon as the node has addresses, until `cancel` or the engine's end.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.serve()).await;
        self.funnels.close();
    }

    async fn serve(&mut self) {
        let Ok(first) = self.netmap.wait_for(Option::is_some).await.map(|map| map.clone()) else {
            return;
        };
        let Some((mut listener, port)) = first.and_then(|netmap| self.listen(&netmap)) else {
            tracing::warn!("No port is free for the PeerAPI: Funnel will not work");
            return;
        };
        self.announce(port);
        let mut calls = JoinSet::new();
        let mut callers = Callers::default();
        let mut following = true;
        loop {
            tokio::select! {
                changed = self.netmap.changed(), if following => {
                    // A control session that has ended leaves us its last netmap.
                    following = changed.is_ok();
                    self.announce(port);
                }
                Some(_) = calls.join_next() => {}
                stream = listener.accept() => {
                    let Some(stream) = stream else { return };
                    let peer = stream.peer_key();
                    let Some(count) = callers.count(peer).filter(|_| calls.len() < MAX_CALLS) else {
                        tracing::debug!(%peer, "Too many calls of the PeerAPI; one is reset");
                        continue;
                    };
                    let netmap = self.netmap.borrow().clone();
                    let funnels = self.funnels.clone();
                    calls.spawn(async move {
                        if let Some(netmap) = netmap {
                            let _late = timeout(CALL_TIMEOUT, call(stream, &netmap, &funnels)).await;
                        }
                        drop(count);
                    });
                }
            }
        }
    }

    /// One port for both families, and if possible the same after a restart: peers remember it.
    fn listen(&self, netmap: &Netmap) -> Option<(TcpListener, u16)> {
        let seed = netmap.self_node.ips().next().map_or(0, |ip| match ip {
            IpAddr::V4(v4) => u16::from_be_bytes([v4.octets()[2], v4.octets()[3]]),
            IpAddr::V6(v6) => v6.segments()[7],
        });
        (0..PORTS).find_map(|attempt| {
            let port = 0x8000 | seed.wrapping_add(attempt);
            Some((self.engine.listen(None, port).ok()?, port))
        })
    }

    /// Control tells the peers where to knock.
    fn announce(&self, port: u16) {
        let Some(netmap) = self.netmap.borrow().clone() else {
            return;
        };
        let has = |v4: bool| netmap.self_node.ips().any(|ip| ip.is_ipv4() == v4);
        let peer_api = netmap::PeerApi {
            v4: has(true).then_some(port),
            v6: has(false).then_some(port),
        };
        self.local.send_if_modified(|local| {
            let changed = local.peer_api != peer_api;
            local.peer_api = peer_api;
            changed
        });
    }
}

/// How many calls each peer has under way: each holds a reference, however it ends.
#[derive(Default)]
struct Callers(AHashMap<NodePublic, Arc<()>>);

impl Callers {
    /// Counts a call for as long as the answer is held; `None` when the peer has enough of them.
    fn count(&mut self, peer: NodePublic) -> Option<Arc<()>> {
        self.0.retain(|_, calls| Arc::strong_count(calls) > 1);
        let calls = self.0.entry(peer).or_default();
        (Arc::strong_count(calls) <= MAX_CALLS_PER_PEER).then(|| calls.clone())
    }
}

/// One request on one connection.
async fn call(mut stream: TcpStream, netmap: &Netmap, funnels: &Funnels) {
    let (src, dst) = (stream.peer_addr().ip(), stream.local_addr().ip());
    // As Go does: who can't be named gets no answer.
    let Some(who) = netmap.whois(src, dst) else {
        tracing::debug!(%src, "A caller of the PeerAPI is nobody that control has described");
        return;
    };
    let mut buf = BytesMut::with_capacity(2048);
    let answer = match read(&mut stream, &mut buf).await {
        None => return,
        Some(Err(answer)) => answer,
        Some(Ok(request)) => {
            let own: Vec<IpAddr> = netmap.self_node.ips().collect();
            let caller = Caller {
                name: &who.user.display_name,
                device: &who.node.name,
                own: &own,
                may_ingress: who.caps.contains_key(netmap::INGRESS),
            };
            match request::judge(&request, &caller) {
                Verdict::Answer(answer) => answer,
                Verdict::Ingress(ingress) => {
                    let early = buf.split_off(request.len).freeze();
                    match admit(stream, early, ingress, netmap, funnels).await {
                        Ok(()) => return,
                        Err((refused, answer)) => {
                            stream = refused;
                            answer
                        }
                    }
                }
            }
        }
    };
    tracing::debug!(%src, status = answer.status, said = answer.body, "Answered a call of the PeerAPI");
    if stream.write_all(&answer.encode()).await.is_ok() && stream.shutdown().await.is_ok() {
        // Closing with unread bytes would be a reset, which may overtake the answer.
        let _ = tokio::io::copy(&mut stream.take(64 << 10), &mut tokio::io::sink()).await;
    }
}

/// The request's head; `None` when the caller has gone.
async fn read(stream: &mut TcpStream, buf: &mut BytesMut) -> Option<Result<Request, Answer>> {
    loop {
        if let Some(parsed) = request::parse(buf) {
            return Some(parsed);
        }
        if stream.read_buf(buf).await.ok()? == 0 {
            return None;
        }
    }
}

/// Hands the connection to the Funnel listener that it is for.
async fn admit(
    mut stream: TcpStream,
    early: bytes::Bytes,
    ingress: Ingress,
    netmap: &Netmap,
    funnels: &Funnels,
) -> Result<(), (TcpStream, Answer)> {
    let Some(queue) = funnels.find(netmap, &ingress.host, ingress.port) else {
        return Err((stream, Answer::new(403, "denied")));
    };
    let Ok(place) = queue.try_reserve() else {
        return Err((
            stream,
            Answer::new(503, "too many connections wait to be accepted"),
        ));
    };
    // Byte for byte what Go writes: no headers.
    let switched = stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        .await;
    if switched.is_ok() && stream.flush().await.is_ok() {
        place.send(FunnelStream::from_internet(stream, early, ingress));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_of_a_peer_are_bounded_and_count_no_longer_when_they_end_or_panic() {
        let [peer, other] = [1, 2].map(|number| NodePublic::from_bytes([number; 32]));
        let mut callers = Callers::default();
        let mut counts: Vec<_> = (0..MAX_CALLS_PER_PEER)
            .map(|_| callers.count(peer).unwrap())
            .collect();
        assert!(callers.count(peer).is_none() && callers.count(other).is_some());
        let count = counts.pop();
        let call = tokio::spawn(async move {
            let _count = count;
            panic!("a call that panics");
        });
        assert!(call.await.unwrap_err().is_panic());
        counts.push(callers.count(peer).unwrap());
        assert!(callers.count(peer).is_none());
        drop(counts);
        assert!(callers.count(other).is_some());
        assert_eq!(callers.0.len(), 1, "nobody is remembered");
    }
}
