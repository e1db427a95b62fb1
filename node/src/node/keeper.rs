//! The one writer of a node's stored state.

use std::sync::Arc;

use tokio::sync::Mutex;

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
    pub(super) async fn hand_over(&self, hand_over: HandOver) -> Result<(), StateError> {
        let mut state = self.state.lock().await;
        if same_but_for_times(&state.hand_over, &hand_over) {
            return Ok(());
        }
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

/// Every write costs an fsync or a request to an API server; a newer time alone isn't worth one.
fn same_but_for_times(a: &HandOver, b: &HandOver) -> bool {
    let key = |h: &HandOver| h.disco_key.as_ref().map(|k| *k.expose_bytes());
    let peers = |h: &HandOver| h.recent_peers.iter().map(|p| (p.key, p.addr)).collect::<Vec<_>>();
    key(a) == key(b) && a.udp_port == b.udp_port && a.addresses == b.addresses && peers(a) == peers(b)
}
