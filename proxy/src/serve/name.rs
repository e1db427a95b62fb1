//! The task of one tailnet name: its node, its certificates, its ports and its part of the report. Where we run
//! alone, its node is the host of Services too.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

use postern_node::node::Status;
use postern_proxy_config::{
    clients::Clients,
    group::Name,
    keys::Keys,
    report::{NameReport, Phase},
};
use tokio::sync::watch;

use super::{
    Context, Spec,
    certificates::{Certificates, Source, Wanted},
    hosting::Hosting,
    listeners::{Listeners, Names, Place},
    newest::Newest,
    node,
    plan::Plan,
    standing::{self, Issued},
};
use crate::{certs::Resolver, drain::Drain, http::Gate, idp, tailnet::Node};

/// See the module.
pub(super) struct NameTask {
    key: Arc<str>,
    context: Arc<Context>,
    spec: watch::Receiver<Arc<Spec>>,
    drain: Drain,
}

impl NameTask {
    pub(super) fn new(
        key: &str,
        context: Arc<Context>,
        spec: watch::Receiver<Arc<Spec>>,
        drain: Drain,
    ) -> Self {
        Self {
            key: key.into(),
            context,
            spec,
            drain,
        }
    }

    /// Until draining starts.
    pub(super) async fn run(mut self) {
        loop {
            let spec = self.spec.borrow_and_update().clone();
            let store = self.context.secrets.store(&spec.name.node);
            match node::start(&self.context, &spec.tailnet, &spec.name.node, store).await {
                Ok(node) => {
                    if self.serve(spec, node).await.is_break() {
                        return;
                    }
                }
                Err(reason) => {
                    tracing::warn!(name = &*self.key, reason, "The node can't start");
                    self.report(&spec.name, |report| {
                        report.phase = Phase::Connecting;
                        report.reason = reason;
                    });
                    if node::retry(&self.drain, &mut self.spec).await.is_break() {
                        return;
                    }
                }
            }
        }
    }

    async fn serve(&mut self, spec: Arc<Spec>, node: Arc<dyn Node>) -> ControlFlow<()> {
        let resolver = Arc::new(Resolver::default());
        let gate = Arc::<Gate>::default();
        let listeners = Listeners::new(
            Place::Node,
            self.key.clone(),
            self.context.clone(),
            node.clone(),
            resolver.clone(),
            gate.clone(),
            self.drain.child(),
        );
        let (Ok(listeners), mut status) = (listeners, node.status()) else {
            return ControlFlow::Break(());
        };
        let mut session = Session {
            node: node.clone(),
            listeners,
            certificates: Certificates::new(resolver),
            keys: {
                let gate = gate.clone();
                Newest::new(
                    |secrets, secret| secrets.keys(secret),
                    move |keys| gate.keys.store(keys.cloned()),
                )
            },
            clients: Newest::new(
                |secrets, secret| secrets.clients(secret),
                move |clients| {
                    gate.clients
                        .replace(idp::declared(clients.map(|clients| &**clients)))
                },
            ),
            plan: None,
            spec,
            refused: String::new(),
        };
        session.plan(&self.context);
        let mut hosting = Hosting::new(&self.context, &node, &self.drain.abort);
        let mut doors = session.listeners.doors().changes();
        let end = loop {
            let now = status.borrow_and_update().clone();
            hosting.follow(&session.spec.services, true);
            let own = session.spec.name.certificates.clone();
            session.pursue(&now, &self.context);
            let report = session.settle(&now).await;
            self.report(&session.spec.name, |r| report.apply(r));
            (self.context.metrics).certificate_ends(&self.key, report.certificate_expires);
            tokio::select! {
                biased;
                () = self.drain.start.cancelled() => break ControlFlow::Break(()),
                changed = self.spec.changed() => {
                    if changed.is_err() {
                        break ControlFlow::Break(());
                    }
                    let new = self.spec.borrow_and_update().clone();
                    let old = (&session.spec.tailnet, &session.spec.name.node);
                    if node::is_another(old, (&new.tailnet, &new.name.node), &status.borrow()) {
                        break ControlFlow::Continue(());
                    }
                    session.spec = new;
                    session.plan(&self.context);
                    session.certificates.look_again();
                }
                changed = status.changed() => {
                    if changed.is_err() || *status.borrow() == Status::Closed {
                        break ControlFlow::Continue(());
                    }
                    session.certificates.look_again();
                }
                // The sender is the session's own.
                _ = doors.changed() => {}
                () = session.keys.progress() => {}
                () = session.clients.progress() => {}
                () = session.certificates.progress(&own) => {}
            }
        };
        if end.is_break() {
            self.report(&session.spec.name, |r| r.phase = Phase::Draining);
            self.leave(&hosting).await;
        }
        let restarts = end.is_continue();
        hosting
            .finish(restarts.then_some(self.context.drain_deadline))
            .await;
        session
            .listeners
            .finish(restarts, self.context.drain_deadline)
            .await;
        node.close().await;
        if restarts {
            tokio::time::sleep(node::RESTART_PAUSE).await;
        }
        end
    }

    /// Sends the Services' clients elsewhere, and serves them until they have gone. The name's own ports, which
    /// nobody else has, take nothing new meanwhile.
    async fn leave(&self, hosting: &Hosting) {
        if hosting.leave() {
            tokio::select! {
                biased;
                () = self.drain.abort.cancelled() => {}
                () = hosting.gone() => {}
            }
        }
    }

    fn report(&self, name: &Name, change: impl FnOnce(&mut NameReport)) {
        self.context.reports.name(&self.key, |report| {
            report.owner_uid.clone_from(&name.owner.uid);
            change(report);
        });
    }
}

/// A running node with what it serves.
struct Session {
    node: Arc<dyn Node>,
    listeners: Listeners,
    certificates: Certificates,
    keys: Newest<Keys>,
    clients: Newest<Clients>,
    /// The newest good one, with its generation.
    plan: Option<(Plan, i64)>,
    spec: Arc<Spec>,
    /// Why the newest specification isn't the plan.
    refused: String,
}

/// What is to be reported.
struct Settled {
    applied_generation: Option<i64>,
    phase: Phase,
    reason: String,
    identity: Option<postern_node::node::Identity>,
    certificate_expires: Option<jiff::Timestamp>,
    certificate_error: String,
    https_available: bool,
    funnel: BTreeSet<u16>,
    clients: BTreeMap<String, String>,
}

impl Session {
    /// Takes the specification for the plan if it is good.
    fn plan(&mut self, context: &Context) {
        match Plan::new(&self.spec.name) {
            Ok(plan) => {
                self.plan = Some((plan, self.spec.name.generation));
                self.refused.clear();
            }
            Err(error) => {
                context.metrics.config_refused.inc();
                self.refused = error.to_string();
                tracing::warn!(
                    hostname = self.spec.name.node.hostname,
                    reason = self.refused,
                    "Configuration refused"
                );
            }
        }
    }

    fn needs_certificate(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|(plan, _)| plan.needs_certificate())
    }

    fn pursue(&mut self, status: &Status, context: &Context) {
        let plan = self.plan.as_ref().map(|(plan, _)| plan);
        let lock = plan.and_then(|plan| plan.funnel.as_ref()?.keys.as_ref());
        self.keys.pursue(lock, &context.secrets);
        let clients = plan.and_then(Plan::declared_clients);
        self.clients.pursue(clients, &context.secrets);
        let Status::Running(identity) = status else { return };
        let domain = (self.needs_certificate()
            && self.spec.name.node.certificate.is_some()
            && standing::is_name(&self.spec.name.node.hostname, identity))
        .then(|| {
            let offered = identity
                .cert_domains
                .iter()
                .any(|d| d.eq_ignore_ascii_case(&identity.name));
            (identity.name.as_str(), Source::Node { offered })
        });
        let wanted = Wanted {
            own: &self.spec.name.certificates,
            issued: domain,
        };
        self.certificates.pursue(&wanted, &context.secrets, &self.node);
    }

    /// Puts the ports in place and says where the name stands.
    async fn settle(&mut self, status: &Status) -> Settled {
        let hostname = &self.spec.name.node.hostname;
        let mut problem = self.refused.clone();
        let mut applied_generation = None;
        let mut issued = Issued::NotNeeded;
        let mut identity = None;
        match status {
            Status::Running(id) if standing::is_name(hostname, id) => {
                identity = Some(id.clone());
                issued = self.certificates.standing(self.needs_certificate(), &id.name);
                if let Some((plan, generation)) = &self.plan {
                    let names = Names {
                        fqdn: &id.name,
                        own: self.certificates.own_hosts(&self.spec.name.certificates),
                        tls_ready: issued != Issued::Missing,
                        clients_ready: plan.declared_clients().is_none() || self.clients.value().is_some(),
                    };
                    match self.listeners.apply(plan, &names).await {
                        Ok(()) if names.clients_ready => applied_generation = Some(*generation),
                        Ok(()) => {}
                        Err(error) => problem = error,
                    }
                    if problem.is_empty() {
                        problem = self.listeners.doors().refusals();
                    }
                    if problem.is_empty() {
                        self.keys.error().clone_into(&mut problem);
                    }
                    if problem.is_empty() {
                        self.clients.error().clone_into(&mut problem);
                    }
                }
            }
            Status::Running(id) => {
                identity = Some(id.clone());
                self.listeners.close_all();
            }
            // The tailnet is away, or the login: what is open stays open and serves again with it.
            _ => {}
        }
        let certificate_error = self.certificates.errors();
        let (phase, reason) = standing::phase(hostname, status, &issued, &certificate_error);
        Settled {
            applied_generation,
            phase,
            reason: if problem.is_empty() { reason } else { problem },
            https_available: identity.as_ref().is_some_and(|id| !id.cert_domains.is_empty()),
            identity,
            certificate_expires: self.certificates.not_after(),
            certificate_error,
            funnel: self.listeners.doors().open(),
            clients: (self.clients.value())
                .map(|clients| clients.revisions.clone())
                .unwrap_or_default(),
        }
    }
}

impl Settled {
    fn apply(&self, report: &mut NameReport) {
        if let Some(generation) = self.applied_generation {
            report.applied_generation = generation;
        }
        report.phase = self.phase;
        report.reason.clone_from(&self.reason);
        if let Some(identity) = &self.identity {
            report.node_id = Some(identity.stable_id.clone());
            report.assigned_name = Some(identity.name.clone());
            report.addresses.clone_from(&identity.addrs);
            report.funnel_access = standing::funnel_access(identity);
        }
        report.certificate_expires = self.certificate_expires;
        report.certificate_error.clone_from(&self.certificate_error);
        report.https_available = self.https_available;
        report.funnel.clone_from(&self.funnel);
        report.clients.clone_from(&self.clients);
    }
}
