//! Engines that know of each other.

use std::time::Instant;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::{netmap::Merger, tailcfg::MapResponse};

/// Everything a test waits for comes within this time, or it fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// A node of a tailnet.
pub(super) struct Side {
    pub(super) id: u8,
    pub(super) key: NodePrivate,
    pub(super) engine: Engine,
    pub(super) local: watch::Sender<LocalState>,
    netmap: watch::Sender<Option<Arc<Netmap>>>,
    merger: Mutex<Merger>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Side {
    pub(super) fn start(id: u8, recent_peers: Vec<RecentPeer>) -> Self {
        let key = NodePrivate::generate().unwrap();
        let hand_over = HandOver {
            recent_peers,
            ..HandOver::default()
        };
        Self::start_as(id, key, hand_over)
    }

    /// The same node once more, on another port.
    pub(super) fn restart(old: &Self, hand_over: HandOver) -> Self {
        Self::start_as(old.id, old.key.clone(), hand_over)
    }

    fn start_as(id: u8, key: NodePrivate, hand_over: HandOver) -> Self {
        let config = EngineConfig {
            hand_over,
            ..EngineConfig::new(key.clone())
        };
        let (netmap, netmap_seen) = watch::channel(None);
        let local = watch::Sender::new(LocalState::default());
        let tasks = TaskTracker::new();
        let cancel = CancellationToken::new();
        let engine = Engine::start(config, netmap_seen, local.clone(), &tasks, cancel.clone()).unwrap();
        Self {
            id,
            key,
            engine,
            local,
            netmap,
            merger: Mutex::default(),
            cancel,
            tasks,
        }
    }

    pub(super) fn addr(&self, port: u16) -> SocketAddr {
        ([100, 64, 0, self.id], port).into()
    }

    pub(super) fn addr_v6(&self, port: u16) -> SocketAddr {
        let ip: IpAddr = format!("fd7a:115c:a1e0::{:x}", self.id).parse().unwrap();
        (ip, port).into()
    }

    /// Where its socket is.
    pub(super) fn endpoint(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.engine.shared.udp.port()).into()
    }

    pub(super) fn as_recent(&self, addr: SocketAddr) -> RecentPeer {
        RecentPeer {
            key: self.key.public(),
            addr: Some(addr),
            seen: Timestamp::now(),
        }
    }

    /// The node as control describes it.
    pub(super) fn node(&self) -> Value {
        let addrs = [
            format!("{}/32", self.addr(0).ip()),
            format!("{}/128", self.addr_v6(0).ip()),
        ];
        json!({
            "ID": self.id,
            "StableID": format!("n{}", self.id),
            "Name": format!("n{}.example.ts.net.", self.id),
            "User": 1,
            "Key": self.key.public(),
            "DiscoKey": self.local.borrow().disco,
            "Addresses": addrs,
            "AllowedIPs": addrs,
            "Endpoints": [self.endpoint()],
            "MachineAuthorized": true,
        })
    }

    /// Takes over what control says, on top of what it said before.
    pub(super) async fn hear(&self, message: Value) {
        let message = MapResponse::from_json(message.to_string().as_bytes()).unwrap();
        let netmap = self
            .merger
            .lock()
            .apply(message, Timestamp::now())
            .unwrap()
            .unwrap();
        let generation = netmap.generation;
        self.netmap.send_replace(Some(netmap));
        within(|| {
            let view = self.engine.shared.view.load();
            view.as_ref()
                .is_some_and(|view| view.netmap.generation == generation)
        })
        .await;
    }

    /// A first map with these peers; everybody may reach everything.
    pub(super) async fn meet(&self, peers: &[Value]) {
        self.hear(json!({"Node": self.node(), "Peers": peers, "PacketFilter": allow_all()}))
            .await;
    }

    pub(super) fn netmap(&self) -> watch::Receiver<Option<Arc<Netmap>>> {
        self.netmap.subscribe()
    }

    pub(super) fn cancel(&self) -> CancellationToken {
        self.cancel.clone()
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.engine.stats().dropped(reason)
    }

    pub(super) async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.unwrap();
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

pub(super) fn allow_all() -> Value {
    json!([{"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]}])
}

/// Two nodes that know each other.
pub(super) async fn pair() -> (Side, Side) {
    let b = Side::start(2, Vec::new());
    let a = Side::start(1, vec![b.as_recent(b.endpoint())]);
    b.meet(&[a.node()]).await;
    a.meet(&[b.node()]).await;
    (a, b)
}

/// Waits for a condition.
pub(super) async fn within(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < PATIENCE,
            "the condition did not come true in time"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
