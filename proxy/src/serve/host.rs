//! The task of this replica's host: a tagged node, and a task for each Service that it hosts.

use std::{ops::ControlFlow, pin::pin, sync::Arc};

use postern_node::node::Status;
use postern_proxy_config::report::NameReport;
use tokio::sync::watch;

use super::{Context, HostSpec, Services, hosting::Hosting, node, standing};
use crate::{drain::Drain, tailnet::Node};

/// See the module.
pub(super) struct HostTask {
    key: String,
    context: Arc<Context>,
    spec: watch::Receiver<Arc<HostSpec>>,
    services: watch::Receiver<Arc<Services>>,
    drain: Drain,
}

impl HostTask {
    pub(super) fn new(
        key: &str,
        context: Arc<Context>,
        spec: watch::Receiver<Arc<HostSpec>>,
        services: watch::Receiver<Arc<Services>>,
        drain: Drain,
    ) -> Self {
        Self {
            key: key.to_owned(),
            context,
            spec,
            services,
            drain,
        }
    }

    /// Until draining starts.
    pub(super) async fn run(mut self) {
        loop {
            let spec = self.spec.borrow_and_update().clone();
            let store = self.context.secrets.host_store(&spec.host.node);
            match node::start(&self.context, &spec.tailnet, &spec.host.node, store).await {
                Ok(node) => {
                    if self.serve(spec, node).await.is_break() {
                        return;
                    }
                }
                Err(reason) => {
                    tracing::warn!(host = self.key, reason, "The node can't start");
                    self.report(&spec, |report| report.reason = reason);
                    if node::retry(&self.drain, &mut self.spec).await.is_break() {
                        return;
                    }
                }
            }
        }
    }

    async fn serve(&mut self, mut spec: Arc<HostSpec>, node: Arc<dyn Node>) -> ControlFlow<()> {
        let mut hosting = Hosting::new(&self.context, &node, &self.drain.abort);
        let mut status = node.status();
        let end = loop {
            let now = status.borrow_and_update().clone();
            self.tell(&spec, &now);
            hosting.follow(&self.services.borrow_and_update().clone(), spec.leads);
            tokio::select! {
                biased;
                () = self.drain.start.cancelled() => break ControlFlow::Break(()),
                changed = self.spec.changed() => {
                    if changed.is_err() {
                        break ControlFlow::Break(());
                    }
                    let new = self.spec.borrow_and_update().clone();
                    let old = (&spec.tailnet, &spec.host.node);
                    if node::is_another(old, (&new.tailnet, &new.host.node), &now) {
                        break ControlFlow::Continue(());
                    }
                    spec = new;
                }
                changed = self.services.changed() => if changed.is_err() {
                    break ControlFlow::Break(());
                },
                changed = status.changed() => if changed.is_err() || *status.borrow() == Status::Closed {
                    break ControlFlow::Continue(());
                },
            }
        };
        if end.is_break() {
            self.leave(&mut hosting, spec.leads).await;
            hosting.finish(None).await;
        } else {
            hosting.finish(Some(self.context.drain_deadline)).await;
            tokio::time::sleep(node::RESTART_PAUSE).await;
        }
        node.close().await;
        end
    }

    /// Sends clients elsewhere, and serves them until they have gone. What goes with its configuration has no
    /// other host, and is not waited for.
    async fn leave(&mut self, hosting: &mut Hosting, leads: bool) {
        let mut gone = pin!(hosting.gone());
        let mut followed = true;
        loop {
            if followed {
                hosting.follow(&self.services.borrow_and_update().clone(), leads);
            }
            if !hosting.leave() {
                return;
            }
            tokio::select! {
                biased;
                () = self.drain.abort.cancelled() => return,
                () = gone.as_mut() => return,
                // Hosts and Services are told apart, so that they go may come late.
                changed = self.services.changed(), if followed => followed = changed.is_ok(),
            }
        }
    }

    fn tell(&self, spec: &HostSpec, status: &Status) {
        self.report(spec, |report| {
            (report.phase, report.reason) = standing::node(status);
            if let Status::Running(identity) = status {
                report.node_id = Some(identity.stable_id.clone());
                report.assigned_name = Some(identity.name.clone());
                report.addresses.clone_from(&identity.addrs);
                report.https_available = !identity.cert_domains.is_empty();
                report.funnel_access = standing::funnel_access(identity);
            }
        });
    }

    fn report(&self, spec: &HostSpec, change: impl FnOnce(&mut NameReport)) {
        self.context.reports.name(&self.key, |report| {
            report.owner_uid.clone_from(&spec.host.owner.uid);
            change(report);
        });
    }
}
