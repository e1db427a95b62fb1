//! The task of one region: connect, serve, and when the connection ends, do it again.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{DerpEvent, connect, session};
use crate::{
    derp_map::DerpRegion,
    key::{NodePrivate, NodePublic},
    proxy::Outbound,
};

/// The longest wait between two attempts. Without its home relay a node can't be reached at all.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one: the next attempt starts at once.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// What the tasks of all regions have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) outbound: Outbound,
    pub(super) events: mpsc::Sender<DerpEvent>,
    pub(super) dropped: AtomicU64,
}

/// One region's task.
pub(super) struct Client {
    pub(super) region: DerpRegion,
    pub(super) key: NodePrivate,
    pub(super) shared: Arc<Shared>,
    pub(super) home: watch::Receiver<bool>,
    pub(super) queue: mpsc::Receiver<(NodePublic, Bytes)>,
}

/// Why a connection could not be made or has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("the region has no relay")]
    NoNodes,
    #[error("{node}: {source}")]
    Connect {
        node: String,
        source: connect::ConnectError,
    },
    #[error(transparent)]
    Session(#[from] session::SessionError),
}

impl Client {
    /// Until `cancel`. A task that ends this way says nothing more: who cancelled it knows.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = self.keep_connected() => {}
        }
    }

    async fn keep_connected(&mut self) {
        let mut failures = 0;
        loop {
            let (mut up_since, mut asked_to_wait) = (None, None);
            let error = match self.connect_and_serve(&mut up_since, &mut asked_to_wait).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            // Each failed attempt is said too: who stays away too long is home no more.
            self.state(false).await;
            failures = match up_since {
                Some(since) if since.elapsed() >= GOOD_FOR => 0,
                _ => failures + 1,
            };
            let wait =
                asked_to_wait.map_or_else(|| backoff(failures), |wait: Duration| wait.min(MAX_BACKOFF));
            tracing::debug!(region = self.region.id, %error, failures, ?wait, "The relay connection has ended");
            // What waited for this connection is old by the time of the next one.
            while self.queue.try_recv().is_ok() {}
            sleep(wait).await;
        }
    }

    async fn connect_and_serve(
        &mut self,
        up_since: &mut Option<Instant>,
        asked_to_wait: &mut Option<Duration>,
    ) -> Result<std::convert::Infallible, ClientError> {
        let connection = self.connect().await?;
        *up_since = Some(Instant::now());
        self.state(true).await;
        let error = session::serve(
            connection,
            self.region.id,
            &self.shared,
            &mut self.home,
            &mut self.queue,
            asked_to_wait,
        )
        .await;
        Err(error.into())
    }

    /// The first node of the region that takes us, in the order of the map.
    async fn connect(&self) -> Result<session::Connection, ClientError> {
        let mut result = Err(ClientError::NoNodes);
        let nodes: Vec<_> = self.region.nodes.iter().filter(|n| !n.stun_only).collect();
        for node in &nodes {
            let ideal = (node.name != nodes[0].name).then_some(nodes[0].name.as_str());
            match connect::connect(node, ideal, &self.key, &self.shared.outbound).await {
                Ok(connection) => {
                    tracing::debug!(region = self.region.id, node = node.name, "Connected to a relay");
                    return Ok(connection);
                }
                Err(source) => {
                    let node = node.name.clone();
                    result = Err(ClientError::Connect { node, source });
                }
            }
        }
        result
    }

    async fn state(&self, connected: bool) {
        let region = self.region.id;
        // It fails when nobody listens any more; then the task's end is near.
        let _ = self
            .shared
            .events
            .send(DerpEvent::State { region, connected })
            .await;
    }
}

/// Doubling from 250 ms, half of it random so that a relay's restart doesn't bring all clients at once.
fn backoff(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::from_millis(50).mul_f64(fastrand::f64());
    };
    let longest = Duration::from_millis(250).saturating_mul(1 << doublings.min(8));
    longest.min(MAX_BACKOFF).mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_five_seconds_and_never_beyond() {
        assert!(backoff(0) <= Duration::from_millis(50));
        assert!(backoff(1) <= Duration::from_millis(250));
        for failures in [6, 20, u32::MAX] {
            let wait = backoff(failures);
            assert!(
                wait >= Duration::from_millis(2500) && wait <= MAX_BACKOFF,
                "{wait:?}"
            );
        }
    }
}
