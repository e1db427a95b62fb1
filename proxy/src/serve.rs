//! Serving what is configured: one task for each tailnet name, which nothing but its own configuration
//! concerns, and one for the replica's host with a task for each Service.

mod certificates;
mod funnel;
mod host;
mod hosting;
mod keyed;
mod listeners;
mod name;
mod newest;
mod node;
mod plan;
mod secrets;
mod service;
mod stage;
mod standing;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use postern_proxy_config::{
    group::{self, Name, Service, Tailnet},
    report::{Report, Stage},
};
use tokio::sync::watch;

pub use plan::{Plan, PlanError};
pub use secrets::{PemPair, SecretError, Secrets};

use self::{host::HostTask, keyed::Keyed, name::NameTask};
use crate::{
    drain::Drain, listen::Limits, metrics::Metrics, report::Reports, tailnet::StartNode, upstream::Upstreams,
};

/// Everything that should be served.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// By their key.
    pub names: BTreeMap<String, Arc<Spec>>,
    /// This replica's hosts of Services, by their hostname; there is one at most.
    pub hosts: BTreeMap<String, Arc<HostSpec>>,
    /// What they host, by name.
    pub services: Arc<Services>,
}

/// Services by name, such as `svc:db`.
pub type Services = BTreeMap<String, Arc<Service>>;

/// One name with the tailnet that it is on.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The coordination server.
    pub tailnet: Tailnet,
    /// What is served there.
    pub name: Name,
    /// Services that its node hosts beside. In a cluster a host is a node of its own.
    pub services: Services,
}

/// A node that is a host of Services.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSpec {
    /// The coordination server.
    pub tailnet: Tailnet,
    /// The node.
    pub host: group::Host,
    /// This replica leads the group: it gets the certificates, the others read them.
    pub leads: bool,
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

/// What is served now.
pub struct Served {
    context: Arc<Context>,
    drain: Drain,
    names: Keyed<Spec>,
    hosts: Keyed<HostSpec>,
    services: watch::Sender<Arc<Services>>,
    ready: watch::Sender<bool>,
}

/// Others may be stopped for us when we serve; a Service that doesn't come up must not hold them up for longer.
const READY_WITHIN: Duration = Duration::from_secs(30);

impl Served {
    /// Nothing yet. `drain` ends it all.
    pub fn new(context: Arc<Context>, drain: Drain) -> Self {
        Self {
            names: Keyed::new(drain.clone(), context.drain_deadline),
            hosts: Keyed::new(drain.clone(), context.drain_deadline),
            context,
            drain,
            services: watch::Sender::default(),
            ready: watch::Sender::new(false),
        }
    }

    /// Whether the first configuration is applied and its Services are served.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Follows the configuration until draining starts. `None`: not known yet.
    pub async fn follow(mut self, mut desired: watch::Receiver<Option<Arc<Desired>>>) {
        let mut first = true;
        loop {
            let newest = desired.borrow_and_update().clone();
            if let Some(newest) = newest {
                self.apply(&newest);
                if std::mem::take(&mut first) {
                    let (ready, reports) = (self.ready.clone(), self.context.reports.clone());
                    self.drain
                        .tasks
                        .spawn(get_ready(ready, reports, newest, self.drain.clone()));
                }
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
    }

    fn apply(&mut self, desired: &Desired) {
        let context = &self.context;
        let reports = context.reports.clone();
        let gone = move |key: &str| reports.remove(key);
        self.names.apply(
            &desired.names,
            |key, spec, drain| Box::pin(NameTask::new(key, context.clone(), spec, drain).run()),
            gone.clone(),
        );
        // First: a host that goes has to know whether its Services go with it, or to other hosts.
        self.services.send_replace(desired.services.clone());
        self.hosts.apply(
            &desired.hosts,
            |key, spec, drain| {
                let services = self.services.subscribe();
                Box::pin(HostTask::new(key, context.clone(), spec, services, drain).run())
            },
            gone,
        );
    }
}

async fn get_ready(ready: watch::Sender<bool>, reports: Reports, desired: Arc<Desired>, drain: Drain) {
    let mut report = reports.subscribe();
    let served = report.wait_for(|report| serves_services(report, &desired));
    tokio::select! {
        biased;
        () = drain.start.cancelled() => return,
        // Its sender is here.
        _ = tokio::time::timeout(READY_WITHIN, served) => {}
    }
    ready.send_replace(true);
}

fn serves_services(report: &Report, desired: &Desired) -> bool {
    let serves = |key| (report.services.get(key)).is_some_and(|service| service.stage == Stage::Serving);
    desired.hosts.is_empty() || desired.services.keys().all(serves)
}
