//! The nodes that run now, for those who ask about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Weak},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use postern_node::node::{Config, Error};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::tailnet::{Node, StartNode};

/// Starts nodes by another, and knows them while they live.
#[derive(Debug)]
pub struct Nodes {
    start: Arc<dyn StartNode>,
    tasks: TaskTracker,
    /// The first login of each is made anew.
    force_login: bool,
    started: Mutex<BTreeSet<String>>,
    running: Mutex<BTreeMap<String, Running>>,
}

struct Running(Weak<dyn Node>);

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.strong_count() > 0 {
            "running"
        } else {
            "gone"
        })
    }
}

impl Nodes {
    /// None yet; `start` makes them. What follows them is of `tasks`, and ends with them. With `force_login` each logs
    /// in once although its state holds a login.
    pub fn new(start: Arc<dyn StartNode>, tasks: TaskTracker, force_login: bool) -> Arc<Self> {
        Arc::new(Self {
            start,
            tasks,
            force_login,
            started: Mutex::default(),
            running: Mutex::default(),
        })
    }

    /// Those that live, by hostname.
    pub fn running(&self) -> Vec<Arc<dyn Node>> {
        let mut running = self.running.lock();
        running.retain(|_, node| node.0.strong_count() > 0);
        running.values().filter_map(|node| node.0.upgrade()).collect()
    }

    /// The first by hostname: what a daemon with one node would be.
    pub fn first(&self) -> Option<Arc<dyn Node>> {
        self.running().into_iter().next()
    }

    /// The one whose tailnet has this address.
    pub(super) fn that_knows(&self, ip: IpAddr) -> Option<Arc<dyn Node>> {
        self.running()
            .into_iter()
            .find(|node| node.netmap().is_some_and(|map| map.node_by_ip(ip).is_some()))
    }
}

impl StartNode for Nodes {
    fn start(&self, config: Config) -> BoxFuture<'_, Result<Arc<dyn Node>, Error>> {
        Box::pin(async move {
            let hostname = config.hostname.clone();
            let config = Config {
                keep_details: true,
                force_login: self.force_login && !self.started.lock().contains(&hostname),
                ..config
            };
            let node = self.start.start(config).await?;
            self.started.lock().insert(hostname.clone());
            let running = Running(Arc::downgrade(&node));
            self.running.lock().insert(hostname, running);
            if let Some(ports) = node.refused_ports() {
                self.tasks.spawn(hint(ports));
            }
            Ok(node)
        })
    }
}

/// Who comes from `tailscaled` in userspace mode is used to every port being forwarded: each that is refused
/// is named once. Ends with the node.
async fn hint(mut ports: watch::Receiver<BTreeSet<u16>>) {
    let mut known = BTreeSet::new();
    loop {
        let now = ports.borrow_and_update().clone();
        for port in now.difference(&known) {
            tracing::info!(
                port,
                "Refused: nothing listens there. POSTERN_FORWARD_PORTS={port} (or all) forwards it to 127.0.0.1"
            );
        }
        known = now;
        if ports.changed().await.is_err() {
            return;
        }
    }
}
