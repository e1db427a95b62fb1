//! The one writer of a node's stored state.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::{Mutex, MutexGuard};

use crate::{
    control::Persist,
    state::{HandOver, NodeState, StateError, StateStore, StoreFuture},
};

/// Holds the state as it is stored. Identity comes from the control session, hand-over from the engine;
/// each replaces only its own part.
#[derive(Debug)]
pub(super) struct Keeper {
    store: Arc<dyn StateStore>,
    state: Mutex<NodeState>,
}

impl Keeper {
    pub(super) fn new(store: Arc<dyn StateStore>, state: NodeState) -> Self {
        Self {
            store,
            state: Mutex::new(state),
        }
    }

    /// Stores what a successor needs, if it differs from what is stored in more than times.
    pub(super) async fn keep(&self, hand_over: HandOver) -> Result<(), StateError> {
        let state = self.state.lock().await;
        if same_but_for_times(&state.hand_over, &hand_over) {
            return Ok(());
        }
        self.store(state, hand_over).await
    }

    /// Stores what a successor needs, times too: they will not change any more.
    pub(super) async fn hand_over(&self, hand_over: HandOver) -> Result<(), StateError> {
        let state = self.state.lock().await;
        self.store(state, hand_over).await
    }

    async fn store(
        &self,
        mut state: MutexGuard<'_, NodeState>,
        hand_over: HandOver,
    ) -> Result<(), StateError> {
        let next = NodeState {
            hand_over,
            ..state.clone()
        };
        next.save(&*self.store).await?;
        *state = next;
        Ok(())
    }
}

impl Persist for Keeper {
    fn persist(&self, identity: NodeState) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            let next = NodeState {
                hand_over: state.hand_over.clone(),
                ..identity
            };
            next.save(&*self.store).await?;
            *state = next;
            Ok(())
        })
    }
}

/// Every write costs an fsync or a request to an API server; a newer time alone isn't worth one, nor is who of them was
/// heard last.
fn same_but_for_times(a: &HandOver, b: &HandOver) -> bool {
    let key = |h: &HandOver| h.disco_key.as_ref().map(|k| *k.expose_bytes());
    let peers = |h: &HandOver| {
        h.recent_peers
            .iter()
            .map(|p| (p.key, p.addr))
            .collect::<BTreeSet<_>>()
    };
    key(a) == key(b) && a.udp_port == b.udp_port && a.addresses == b.addresses && peers(a) == peers(b)
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::{
        key::NodePrivate,
        state::{MemoryStore, RecentPeer, STATE_KEY},
    };

    #[tokio::test]
    async fn the_store_is_not_written_for_times_or_an_order() {
        let store = Arc::new(MemoryStore::default());
        let keeper = Keeper::new(store.clone(), NodeState::generate().unwrap());
        let peer = |port: u16| RecentPeer {
            key: NodePrivate::generate().unwrap().public(),
            addr: Some(([10, 0, 0, 1], port).into()),
            seen: Timestamp::now(),
        };
        let mut hand_over = HandOver {
            recent_peers: vec![peer(1), peer(2)],
            ..HandOver::default()
        };
        // Whether this hand-over is written: a store without a state gets it only then.
        let written = async |hand_over: &HandOver| {
            store.clear().await.unwrap();
            keeper.keep(hand_over.clone()).await.unwrap();
            store.read(STATE_KEY).await.unwrap().is_some()
        };
        assert!(written(&hand_over).await);
        hand_over.recent_peers.reverse();
        hand_over.recent_peers[0].seen += SignedDuration::from_secs(15);
        hand_over.newest_tai64n = Some("4000000000000000".to_owned());
        assert!(!written(&hand_over).await);
        // The end does.
        keeper.hand_over(hand_over.clone()).await.unwrap();
        let stored = NodeState::load(&*store).await.unwrap();
        assert_eq!(stored.hand_over.newest_tai64n, hand_over.newest_tai64n);
        assert!(!written(&hand_over).await);
        hand_over.recent_peers[0].addr = None;
        assert!(written(&hand_over).await);
        hand_over.recent_peers.pop();
        assert!(written(&hand_over).await);
    }
}
