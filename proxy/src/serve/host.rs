//! The task of this replica's host: a tagged node, and a task for each Service that it hosts.

use std::{ops::ControlFlow, pin::pin, sync::Arc, time::Duration};

use postern_node::{node::Status, service::ServiceStatus};
use postern_proxy_config::{group::Service, report::NameReport};
use tokio::sync::watch;

use super::{Context, HostSpec, Services, keyed::Keyed, node, service::ServiceTask, standing};
use crate::{drain::Drain, tailnet::Node};

/// See the module.
pub(super) struct HostTask {
    key: String,
    context: Arc<Context>,
    spec: watch::Receiver<Arc<HostSpec>>,
    services: watch::Receiver<Arc<Services>>,
    drain: Drain,
}

/// Control takes up to 15 s to send clients elsewhere, and nobody says when they have heard (Go:
/// `kube/services.EnsureServicesNotAdvertised`).
const LEAVE_WITHIN: Duration = Duration::from_secs(20);
/// From control's word to us until the clients have heard it too.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

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
        // The Services end in an order of their own: first their clients have to go elsewhere.
        let drain = Drain {
            abort: self.drain.abort.child_token(),
            ..Drain::default()
        };
        let mut hosted = Keyed::new(drain.clone(), self.context.drain_deadline);
        let mut status = node.status();
        let end = loop {
            let now = status.borrow_and_update().clone();
            self.tell(&spec, &now);
            self.follow(&mut hosted, &node, spec.leads);
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
            self.leave(&mut hosted, &node, spec.leads).await;
            drain.finish().await;
        } else {
            drain.finish_within(self.context.drain_deadline).await;
            tokio::time::sleep(node::RESTART_PAUSE).await;
        }
        node.close().await;
        end
    }

    /// Sends clients elsewhere, and serves them until they have gone. What goes with its configuration has no
    /// other host, and is not waited for.
    async fn leave(&mut self, hosted: &mut Keyed<Service>, node: &Arc<dyn Node>, leads: bool) {
        let mut gone = pin!(others_serve(node.services()));
        let mut followed = true;
        loop {
            if followed {
                self.follow(hosted, node, leads);
            }
            hosted.leave();
            if hosted.is_empty() {
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

    /// Makes the tasks those of the configured Services.
    fn follow(&mut self, hosted: &mut Keyed<Service>, node: &Arc<dyn Node>, leads: bool) {
        let services = self.services.borrow_and_update().clone();
        let context = &self.context;
        hosted.apply(
            &services,
            |key, spec, drain| {
                let task = ServiceTask::new(key, context.clone(), node.clone(), leads, spec, drain);
                Box::pin(task.run())
            },
            |_| {}, // it has said so itself
        );
    }

    fn tell(&self, spec: &HostSpec, status: &Status) {
        self.report(spec, |report| {
            (report.phase, report.reason) = standing::node(status);
            if let Status::Running(identity) = status {
                report.node_id = Some(identity.stable_id.clone());
                report.assigned_name = Some(identity.name.clone());
                report.addresses.clone_from(&identity.addrs);
                report.https_available = !identity.cert_domains.is_empty();
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

/// Waits until clients have gone to other hosts, as far as anybody can say.
async fn others_serve(mut services: watch::Receiver<Vec<ServiceStatus>>) {
    let routed = |services: &Vec<ServiceStatus>| services.iter().any(|service| service.routed);
    if !services.borrow().iter().any(ServiceStatus::is_approved) {
        return; // nobody was ever sent here
    }
    let was_routed = routed(&services.borrow());
    let gone = async {
        if !was_routed || services.wait_for(|now| !routed(now)).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(HEARD_WITHIN).await;
    };
    let _ = tokio::time::timeout(LEAVE_WITHIN, gone).await;
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::time::Instant;

    use super::*;

    fn status(approved: bool, routed: bool) -> Vec<ServiceStatus> {
        let addr: IpAddr = [100, 127, 0, 1].into();
        vec![ServiceStatus {
            name: "svc:web".parse().unwrap(),
            fqdn: "web.example.ts.net".into(),
            ports: vec![443],
            advertised: false,
            told: true,
            addrs: approved.then_some(addr).into_iter().collect(),
            routed,
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn clients_have_time_to_go_and_no_more_than_that() {
        let waited = async |before: Vec<ServiceStatus>, after: Option<Vec<ServiceStatus>>| {
            let (sender, receiver) = watch::channel(before);
            let start = Instant::now();
            let change = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Some(after) = after {
                    sender.send_replace(after);
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = others_serve(receiver) => {}
                () = change => {}
            }
            start.elapsed()
        };
        assert_eq!(waited(status(false, false), None).await, Duration::ZERO);
        assert_eq!(waited(Vec::new(), None).await, Duration::ZERO);
        let moved = waited(status(true, true), Some(status(true, false))).await;
        assert_eq!(moved, Duration::from_secs(1) + HEARD_WITHIN);
        assert_eq!(waited(status(true, true), None).await, LEAVE_WITHIN);
        // A host that control never sends clients to can't tell whether it does.
        assert_eq!(waited(status(true, false), None).await, LEAVE_WITHIN);
    }
}
