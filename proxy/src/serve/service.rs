//! The task of one Service on this host: its certificate, its ports and its part of the report. The node is
//! the host's.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use postern_node::{
    node::{Identity, Status},
    service::{ServiceName, ServiceStatus},
};
use postern_proxy_config::{
    group::Service,
    report::{ServiceReport, Stage},
};
use tokio::sync::watch;

use super::{
    Context,
    certificates::{Certificates, Source, Wanted},
    listeners::{Listeners, Names, Place},
    plan::Plan,
    stage::{Known, Told},
    standing::Issued,
};
use crate::{certs::Resolver, drain::Drain, tailnet::Node};

/// See the module.
pub(super) struct ServiceTask {
    key: Arc<str>,
    context: Arc<Context>,
    node: Arc<dyn Node>,
    /// The group's leader gets the certificate, the others read it.
    leads: bool,
    spec: watch::Receiver<Arc<Service>>,
    drain: Drain,
}

/// A port that was taken may be free again.
const LISTEN_RETRY: Duration = Duration::from_secs(1);

impl ServiceTask {
    pub(super) fn new(
        key: &str,
        context: Arc<Context>,
        node: Arc<dyn Node>,
        leads: bool,
        spec: watch::Receiver<Arc<Service>>,
        drain: Drain,
    ) -> Self {
        Self {
            key: key.into(),
            context,
            node,
            leads,
            spec,
            drain,
        }
    }

    /// Until draining starts. Before that, clients are asked to leave.
    pub(super) async fn run(mut self) {
        let spec = self.spec.borrow_and_update().clone();
        let name = match self.key.parse::<ServiceName>() {
            Ok(name) => name,
            Err(error) => {
                self.report(&spec, |report| report.reason = error.to_string());
                return self.drain.start.cancelled().await;
            }
        };
        let resolver = Arc::new(Resolver::default());
        let listeners = Listeners::new(
            Place::Service(name.clone()),
            self.key.clone(),
            self.context.clone(),
            self.node.clone(),
            resolver.clone(),
            Arc::default(),
            self.drain.child(),
        );
        let Ok(listeners) = listeners else { return };
        let mut session = Session {
            name,
            node: self.node.clone(),
            leads: self.leads,
            listeners,
            certificates: Certificates::new(resolver),
            plan: None,
            spec,
            refused: String::new(),
            in_place: false,
            domain: None,
            told: Told::default(),
            leaving: false,
        };
        session.plan(&self.context);
        let (mut status, mut hosted) = (self.node.status(), self.node.services());
        loop {
            let now = status.borrow_and_update().clone();
            let standing = (hosted.borrow_and_update().iter())
                .find(|service| service.name == session.name)
                .cloned();
            let settled = session.settle(&now, standing, &self.context).await;
            self.report(&session.spec, |report| settled.apply(report));
            (self.context.metrics).certificate_ends(&self.key, settled.certificate_expires);
            let own = session.spec.certificates.clone();
            tokio::select! {
                biased;
                () = self.drain.start.cancelled() => break,
                () = self.drain.leave.cancelled(), if !session.leaving => session.leaving = true,
                changed = self.spec.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let new = self.spec.borrow_and_update().clone();
                    session.take(new, &settled.issued, &self.context);
                }
                changed = changes(&mut status, &mut hosted) => {
                    if changed.is_err() {
                        break;
                    }
                    if settled.issued == Issued::Missing {
                        session.certificates.look_again();
                    }
                }
                () = session.certificates.progress(&own) => {}
                () = tokio::time::sleep(LISTEN_RETRY), if settled.not_listening => {}
            }
        }
        self.report(&session.spec, |report| report.stage = Stage::Draining);
        self.node.advertise_service(&session.name, false);
        session.listeners.finish(false, Duration::ZERO).await;
        if let Some(domain) = &session.domain {
            self.node.forget_certificate(domain);
        }
        self.context.reports.remove_service(&self.key);
    }

    fn report(&self, service: &Service, change: impl FnOnce(&mut ServiceReport)) {
        self.context.reports.service(&self.key, |report| {
            report.owner_uid.clone_from(&service.owner.uid);
            change(report);
        });
    }
}

/// News of the node.
async fn changes(
    status: &mut watch::Receiver<Status>,
    hosted: &mut watch::Receiver<Vec<ServiceStatus>>,
) -> Result<(), watch::error::RecvError> {
    tokio::select! {
        changed = status.changed() => changed,
        changed = hosted.changed() => changed,
    }
}

/// What is served.
struct Session {
    name: ServiceName,
    node: Arc<dyn Node>,
    leads: bool,
    listeners: Listeners,
    certificates: Certificates,
    /// The newest good one, with its generation.
    plan: Option<(Plan, i64)>,
    spec: Arc<Service>,
    /// Why the newest specification isn't the plan.
    refused: String,
    /// Every port of a plan was open once.
    in_place: bool,
    /// The full name, once the node knows its tailnet.
    domain: Option<String>,
    told: Told,
    leaving: bool,
}

/// What is to be reported.
struct Settled {
    applied_generation: Option<i64>,
    stage: Stage,
    reason: String,
    issued: Issued,
    not_listening: bool,
    assigned_name: Option<String>,
    addresses: Vec<IpAddr>,
    certificate_expires: Option<Timestamp>,
    certificate_error: String,
}

impl Session {
    /// A new specification. Where the certificate's Secret has changed, what is in it counts, not what the node
    /// remembers.
    fn take(&mut self, new: Arc<Service>, issued: &Issued, context: &Context) {
        if let (Issued::Ready, Some(domain)) = (issued, &self.domain)
            && new.certificate != self.spec.certificate
        {
            self.node.forget_certificate(domain);
        }
        self.spec = new;
        self.plan(context);
        self.certificates.look_again();
    }

    /// Takes the specification for the plan if it is good.
    fn plan(&mut self, context: &Context) {
        match Plan::within_tailnet(&self.spec.listeners) {
            Ok(plan) => {
                self.plan = Some((plan, self.spec.generation));
                self.refused.clear();
            }
            Err(error) => {
                context.metrics.config_refused.inc();
                self.refused = error.to_string();
                tracing::warn!(service = %self.name, reason = self.refused, "Configuration refused");
            }
        }
    }

    fn needs_certificate(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|(plan, _)| plan.needs_certificate())
    }

    fn pursue(&mut self, identity: &Identity, domain: &str, approved: bool, context: &Context) {
        // Control offers names to approved hosts alone.
        let wanted = approved && self.needs_certificate() && !self.leaving;
        let issued = self.spec.certificate.as_ref().filter(|_| wanted).map(|secret| {
            let offered = || (identity.cert_domains.iter()).any(|known| known.eq_ignore_ascii_case(domain));
            let source = match self.leads {
                true => Source::Node { offered: offered() },
                false => Source::Secret(secret),
            };
            (domain, source)
        });
        let wanted = Wanted {
            own: &self.spec.certificates,
            issued,
        };
        self.certificates.pursue(&wanted, &context.secrets, &self.node);
    }

    /// Puts the ports in place, tells control whether it may send clients, and says where the Service stands.
    async fn settle(&mut self, status: &Status, hosted: Option<ServiceStatus>, context: &Context) -> Settled {
        let approved = hosted.as_ref().is_some_and(ServiceStatus::is_approved);
        let mut problem = self.refused.clone();
        let mut applied_generation = None;
        if let Status::Running(identity) = status {
            let suffix = identity.name.split_once('.').map_or("", |(_, suffix)| suffix);
            let domain = self.name.fqdn(suffix);
            self.pursue(identity, &domain, approved, context);
            if let Some((plan, generation)) = &self.plan {
                let names = Names {
                    fqdn: &domain,
                    own: self.certificates.own_hosts(&self.spec.certificates),
                    // Nobody is sent here before there is a certificate, and control wants to see all ports.
                    tls_ready: true,
                    clients_ready: true,
                };
                match self.listeners.apply(plan, &names).await {
                    Ok(()) => {
                        applied_generation = Some(*generation);
                        self.in_place = true;
                    }
                    Err(error) => problem = error,
                }
            }
            self.domain = Some(domain);
        }
        let known = Known {
            node: status,
            hosted: hosted.as_ref(),
            issued: (self.certificates).standing(
                self.needs_certificate(),
                self.domain.as_deref().unwrap_or_default(),
            ),
            in_place: self.in_place,
            leaving: self.leaving,
        };
        self.node.advertise_service(&self.name, known.may_advertise());
        let (stage, reason) = known.stage(&mut self.told);
        Settled {
            applied_generation,
            stage,
            reason: if problem.is_empty() { reason } else { problem },
            issued: known.issued,
            not_listening: matches!(status, Status::Running(_))
                && self.plan.is_some()
                && applied_generation.is_none(),
            assigned_name: self.domain.clone(),
            addresses: hosted.map(|hosted| hosted.addrs).unwrap_or_default(),
            certificate_expires: self.certificates.not_after(),
            certificate_error: self.certificates.errors(),
        }
    }
}

impl Settled {
    fn apply(&self, report: &mut ServiceReport) {
        if let Some(generation) = self.applied_generation {
            report.applied_generation = generation;
        }
        report.stage = self.stage;
        report.reason.clone_from(&self.reason);
        report.assigned_name.clone_from(&self.assigned_name);
        report.addresses.clone_from(&self.addresses);
        report.certificate_expires = self.certificate_expires;
        report.certificate_error.clone_from(&self.certificate_error);
    }
}
