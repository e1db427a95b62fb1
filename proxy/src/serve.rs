//! Serving what is configured: one task for each tailnet name, which nothing but its own configuration
//! concerns.

mod certificates;
mod funnel;
mod listeners;
mod name;
mod plan;
mod secrets;
mod standing;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use postern_proxy_config::group::{Name, Tailnet};
use tokio::sync::watch;

pub use plan::{Plan, PlanError};
pub use secrets::{PemPair, SecretError, Secrets};

use crate::{
    drain::Drain, listen::Limits, metrics::Metrics, report::Reports, tailnet::StartNode, upstream::Upstreams,
};

/// Everything that should be served.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// By their key.
    pub names: BTreeMap<String, Arc<Spec>>,
}

/// One name with the tailnet that it is on.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The coordination server.
    pub tailnet: Tailnet,
    /// What is served there.
    pub name: Name,
}

/// What all names share.
pub struct Context {
    /// Makes nodes.
    pub start: Arc<dyn StartNode>,
    /// Keeps state, hands out keys and certificates.
    pub secrets: Arc<dyn Secrets>,
    /// Backends.
    pub upstreams: Arc<Upstreams>,
    /// Counters.
    pub metrics: Metrics,
    /// What we say about ourselves.
    pub reports: Reports,
    /// Bounds on connections.
    pub limits: Arc<Limits>,
    /// How long work in flight may take when something is taken away.
    pub drain_deadline: Duration,
}

/// The names that are served now.
pub struct Served {
    context: Arc<Context>,
    drain: Drain,
    names: BTreeMap<String, Running>,
    applied: watch::Sender<bool>,
}

struct Running {
    spec: watch::Sender<Arc<Spec>>,
    drain: Drain,
}

impl Served {
    /// None yet. `drain` ends them all.
    pub fn new(context: Arc<Context>, drain: Drain) -> Self {
        Self {
            context,
            drain,
            names: BTreeMap::new(),
            applied: watch::Sender::new(false),
        }
    }

    /// Whether a configuration was applied once.
    pub fn applied(&self) -> watch::Receiver<bool> {
        self.applied.subscribe()
    }

    /// Follows the configuration until draining starts. `None`: not known yet.
    pub async fn follow(mut self, mut desired: watch::Receiver<Option<Arc<Desired>>>) {
        loop {
            let newest = desired.borrow_and_update().clone();
            if let Some(newest) = newest {
                self.apply(&newest);
                self.applied.send_replace(true);
            }
            tokio::select! {
                biased;
                () = self.drain.start.cancelled() => break,
                changed = desired.changed() => if changed.is_err() {
                    self.drain.start.cancelled().await;
                    break;
                },
            }
        }
        for name in self.names.values() {
            name.drain.tasks.close();
            name.drain.tasks.wait().await;
        }
    }

    fn apply(&mut self, desired: &Desired) {
        let gone: Vec<String> = self
            .names
            .keys()
            .filter(|key| !desired.names.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            if let Some(running) = self.names.remove(&key) {
                tracing::info!(name = key, "Stop serving");
                self.retire(key, running);
            }
        }
        for (key, spec) in &desired.names {
            match self.names.get(key) {
                Some(running) => {
                    running.spec.send_if_modified(|current| {
                        let changed = current != spec;
                        if changed {
                            *current = spec.clone();
                        }
                        changed
                    });
                }
                None => self.start(key, spec),
            }
        }
    }

    fn start(&mut self, key: &str, spec: &Arc<Spec>) {
        tracing::info!(name = key, "Start serving");
        let (sender, receiver) = watch::channel(spec.clone());
        let drain = self.drain.child();
        let task = name::NameTask::new(key, self.context.clone(), receiver, drain.clone());
        drain.tasks.spawn(task.run());
        self.names.insert(key.to_owned(), Running { spec: sender, drain });
    }

    fn retire(&self, key: String, running: Running) {
        let deadline = self.context.drain_deadline;
        let reports = self.context.reports.clone();
        self.drain.tasks.spawn(async move {
            running.drain.finish_within(deadline).await;
            reports.remove(&key);
        });
    }
}
