//! The Services that a node hosts: a task for each, and an end of their own, after their clients have gone.

use std::{sync::Arc, time::Duration};

use postern_node::service::ServiceStatus;
use postern_proxy_config::group::Service;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Context, Services, keyed::Keyed, service::ServiceTask};
use crate::{drain::Drain, tailnet::Node};

/// See the module.
pub(super) struct Hosting {
    context: Arc<Context>,
    node: Arc<dyn Node>,
    drain: Drain,
    hosted: Keyed<Service>,
}

/// Control takes up to 15 s to send clients elsewhere, and nobody says when they have heard (Go:
/// `kube/services.EnsureServicesNotAdvertised`).
const LEAVE_WITHIN: Duration = Duration::from_secs(20);
/// From control's word to us until the clients have heard it too.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

impl Hosting {
    /// None yet; they end when told to, or with `abort`.
    pub(super) fn new(context: &Arc<Context>, node: &Arc<dyn Node>, abort: &CancellationToken) -> Self {
        let drain = Drain {
            abort: abort.child_token(),
            ..Drain::default()
        };
        Self {
            context: context.clone(),
            node: node.clone(),
            hosted: Keyed::new(drain.clone(), context.drain_deadline),
            drain,
        }
    }

    /// Makes the tasks those of the configured Services.
    pub(super) fn follow(&mut self, services: &Services, leads: bool) {
        let (context, node) = (&self.context, &self.node);
        self.hosted.apply(
            services,
            |key, spec, drain| {
                let task = ServiceTask::new(key, context.clone(), node.clone(), leads, spec, drain);
                Box::pin(task.run())
            },
            |_| {}, // it has said so itself
        );
    }

    /// Asks the clients of all to go to other hosts. Returns whether there is any Service.
    pub(super) fn leave(&self) -> bool {
        self.hosted.leave();
        !self.hosted.is_empty()
    }

    /// Waits until clients have gone to other hosts, as far as anybody can say.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + use<> {
        others_serve(self.node.services())
    }

    /// Ends them, within the deadline where somebody else doesn't abort them.
    pub(super) async fn finish(&self, deadline: Option<Duration>) {
        match deadline {
            Some(deadline) => self.drain.finish_within(deadline).await,
            None => self.drain.finish().await,
        }
    }
}

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
