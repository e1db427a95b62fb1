//! Tasks by key, each of which follows its own part of the configuration.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::drain::Drain;

/// See the module.
pub(super) struct Keyed<S> {
    drain: Drain,
    deadline: Duration,
    running: BTreeMap<String, Running<S>>,
}

struct Running<S> {
    spec: watch::Sender<Arc<S>>,
    drain: Drain,
}

impl<S: PartialEq + Send + Sync + 'static> Keyed<S> {
    /// None yet. `drain` ends them all; what is taken away earlier has until `deadline` to end.
    pub(super) fn new(drain: Drain, deadline: Duration) -> Self {
        Self {
            drain,
            deadline,
            running: BTreeMap::new(),
        }
    }

    /// Starts what is new by `run`, tells the others what has changed for them, and ends what is gone; each that
    /// has ended is `gone`.
    pub(super) fn apply(
        &mut self,
        desired: &BTreeMap<String, Arc<S>>,
        run: impl Fn(&str, watch::Receiver<Arc<S>>, Drain) -> BoxFuture<'static, ()>,
        gone: impl Fn(&str) + Clone + Send + 'static,
    ) {
        let doomed = |key: &String, _: &mut Running<S>| !desired.contains_key(key);
        for (key, running) in self.running.extract_if(.., doomed) {
            tracing::info!(name = key, "Stop serving");
            let (deadline, gone) = (self.deadline, gone.clone());
            self.drain.tasks.spawn(async move {
                running.drain.finish_within(deadline).await;
                gone(&key);
            });
        }
        for (key, spec) in desired {
            if let Some(running) = self.running.get(key) {
                running.spec.send_if_modified(|current| {
                    let changed = current != spec;
                    if changed {
                        *current = spec.clone();
                    }
                    changed
                });
                continue;
            }
            tracing::info!(name = key, "Start serving");
            let (sender, receiver) = watch::channel(spec.clone());
            let drain = self.drain.child();
            // The end of the whole waits for each.
            let task = drain.tasks.track_future(run(key, receiver, drain.clone()));
            self.drain.tasks.spawn(task);
            self.running.insert(key.clone(), Running { spec: sender, drain });
        }
    }

    /// Clients of all of them should go.
    pub(super) fn leave(&self) {
        for running in self.running.values() {
            running.drain.leave.cancel();
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}
