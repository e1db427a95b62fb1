//! A name's open ports: contents are swapped in place, so that connections outlive every change that
//! doesn't take their port away.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use postern_node::service::ServiceName;

use super::{
    Context,
    funnel::{self, Doors},
    plan::{self, Plan, Planned},
};
use crate::{
    certs::Resolver,
    drain::Drain,
    http::Gate,
    idp::{self, Issuing},
    listen::{Content, Port, ServerConfigs},
    tailnet::Node,
};

/// Whose addresses are listened on.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// The node's own.
    Node,
    /// A Service's.
    Service(ServiceName),
}

/// See the module.
pub(super) struct Listeners {
    place: Place,
    key: Arc<str>,
    context: Arc<Context>,
    node: Arc<dyn Node>,
    certificates: Arc<Resolver>,
    tls: ServerConfigs,
    gate: Arc<Gate>,
    drain: Drain,
    open: BTreeMap<u16, Open>,
    doors: Doors,
}

struct Open {
    content: Content,
    drain: Drain,
    /// Ends what comes from the tailnet.
    tailnet: Option<Drain>,
    /// Ends what comes from the internet.
    funnel: Option<Drain>,
}

/// What the contents depend on beside the plan.
pub(super) struct Names<'a> {
    pub(super) fqdn: &'a str,
    pub(super) own: Vec<String>,
    /// Ports with TLS wait for the first certificate.
    pub(super) tls_ready: bool,
    /// Those of identity providers wait for their clients besides.
    pub(super) clients_ready: bool,
}

impl Names<'_> {
    fn are_ready_for(&self, planned: &Planned) -> bool {
        (self.tls_ready || !planned.needs_certificate())
            && (self.clients_ready || planned.declared_clients().is_none())
    }
}

impl Listeners {
    pub(super) fn new(
        place: Place,
        key: Arc<str>,
        context: Arc<Context>,
        node: Arc<dyn Node>,
        certificates: Arc<Resolver>,
        gate: Arc<Gate>,
        drain: Drain,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: ServerConfigs::new(&certificates)?,
            place,
            key,
            context,
            node,
            certificates,
            gate,
            drain,
            open: BTreeMap::new(),
            doors: Doors::default(),
        })
    }

    /// Which ports are open to the internet, and when that changes.
    pub(super) fn doors(&self) -> &Doors {
        &self.doors
    }

    /// Makes the open ports those of the plan. Returns why a port could not be opened.
    pub(super) async fn apply(&mut self, plan: &Plan, names: &Names<'_>) -> Result<(), String> {
        self.close(|port, open| {
            plan.listeners
                .get(&port)
                .is_none_or(|planned| !same_kind(&open.content, planned))
        });
        for (port, planned) in &plan.listeners {
            let content = content(planned, plan, names, &self.context);
            if let Some(open) = self.open.get(port) {
                swap(&open.content, content);
            } else if names.are_ready_for(planned) {
                let drain = self.drain.child();
                own(&self.drain, &drain);
                if let Content::IdentityProvider(issuing) = &content {
                    let whole = Arc::new(self.serving(content.clone(), drain.clone()));
                    drain.tasks.spawn(idp::look_after(whole, issuing.clone()));
                }
                let open = Open {
                    content,
                    drain,
                    tailnet: None,
                    funnel: None,
                };
                self.open.insert(*port, open);
            }
        }
        let mut failed = Ok(());
        let ports: Vec<u16> = self.open.keys().copied().collect();
        for port in ports {
            if let Err(error) = self.follow_tailnet(plan, port).await {
                failed = Err(format!("listen on port {port}: {error}"));
            }
            self.follow_funnel(plan, port);
        }
        failed
    }

    /// Opens a port to the tailnet if the plan wants it there, else closes it.
    async fn follow_tailnet(&mut self, plan: &Plan, port: u16) -> Result<(), postern_node::node::Error> {
        let Some(open) = self.open.get(&port) else {
            return Ok(());
        };
        match (plan.is_on_tailnet(port), &open.tailnet) {
            (true, None) => {
                let listener = match &self.place {
                    Place::Node => self.node.listen(port)?,
                    Place::Service(name) => self.node.listen_service(name, port).await?,
                };
                let drain = open.drain.child();
                let serving = self.serving(open.content.clone(), drain.clone());
                own(&open.drain, &drain);
                drain.tasks.spawn(serving.serve(listener));
                self.set(port, |open| &mut open.tailnet, drain);
            }
            (false, Some(_)) => self.end(port, |open| &mut open.tailnet),
            _ => {}
        }
        Ok(())
    }

    /// The same for the internet. Neither concerns the other's connections.
    fn follow_funnel(&mut self, plan: &Plan, port: u16) {
        let Some(open) = self.open.get(&port) else {
            return;
        };
        match (plan.is_on_funnel(port), &open.funnel) {
            (true, None) => {
                let drain = open.drain.child();
                let serving = self.serving(open.content.clone(), drain.clone());
                own(&open.drain, &drain);
                drain
                    .tasks
                    .spawn(funnel::serve(serving, port, self.doors.clone()));
                self.set(port, |open| &mut open.funnel, drain);
            }
            (false, Some(_)) => {
                self.end(port, |open| &mut open.funnel);
                self.doors.forget(port);
            }
            _ => {}
        }
    }

    fn set(&mut self, port: u16, side: fn(&mut Open) -> &mut Option<Drain>, drain: Drain) {
        if let Some(open) = self.open.get_mut(&port) {
            *side(open) = Some(drain);
        }
    }

    fn end(&mut self, port: u16, side: fn(&mut Open) -> &mut Option<Drain>) {
        let Some(gone) = self.open.get_mut(&port).and_then(|open| side(open).take()) else {
            return;
        };
        gone.start.cancel();
        let deadline = self.context.drain_deadline;
        (self.drain.tasks).spawn(async move { gone.finish_within(deadline).await });
    }

    /// Closes all ports; their connections drain.
    pub(super) fn close_all(&mut self) {
        self.close(|_, _| true);
    }

    /// Ends everything: by the drain's own deadline, or where the name goes on with another node by this one.
    pub(super) async fn finish(&mut self, goes_on: bool, deadline: std::time::Duration) {
        if goes_on {
            self.drain.finish_within(deadline).await;
        } else {
            self.drain.finish().await;
        }
    }

    fn serving(&self, content: Content, drain: Drain) -> Port {
        Port {
            name: self.key.clone(),
            content,
            node: self.node.clone(),
            certificates: self.certificates.clone(),
            tls: self.tls.clone(),
            upstreams: self.context.upstreams.clone(),
            metrics: self.context.metrics.clone(),
            limits: self.context.limits.clone(),
            gate: self.gate.clone(),
            drain,
        }
    }

    fn close(&mut self, which: impl Fn(u16, &Open) -> bool) {
        let doomed: Vec<u16> = self
            .open
            .iter()
            .filter(|(port, open)| which(**port, open))
            .map(|(port, _)| *port)
            .collect();
        for port in doomed {
            if let Some(open) = self.open.remove(&port) {
                open.drain.start.cancel();
                self.doors.forget(port);
                let deadline = self.context.drain_deadline;
                self.drain
                    .tasks
                    .spawn(async move { open.drain.finish_within(deadline).await });
            }
        }
    }
}

/// The end of the whole waits for the part's.
fn own(whole: &Drain, part: &Drain) {
    let part = part.clone();
    whole.tasks.spawn(async move {
        part.start.cancelled().await;
        part.finish().await;
    });
}

fn same_kind(content: &Content, planned: &Planned) -> bool {
    matches!(
        (content, planned),
        (Content::Https(_), Planned::Https(_))
            | (Content::Http(_), Planned::Http(_))
            | (Content::Tcp(_), Planned::Tcp(_))
            | (Content::TlsTcp(_), Planned::TlsTcp(_))
            | (Content::IdentityProvider(_), Planned::IdentityProvider(_))
    )
}

fn content(planned: &Planned, plan: &Plan, names: &Names<'_>, context: &Context) -> Content {
    let site = |protocol| {
        let own = names.own.iter().map(String::as_str);
        let site = plan::site(protocol, plan.funnel.clone(), names.fqdn, own);
        Arc::new(ArcSwap::from_pointee(site))
    };
    match planned {
        Planned::Https(protocol) => Content::Https(site(protocol)),
        Planned::Http(protocol) => Content::Http(site(protocol)),
        Planned::Tcp(forward) => Content::Tcp(Arc::new(ArcSwap::new(forward.clone()))),
        Planned::TlsTcp(forward) => Content::TlsTcp(Arc::new(ArcSwap::new(forward.clone()))),
        Planned::IdentityProvider(provider) => {
            let issuing = Issuing::new(provider, plan.funnel.clone(), names.fqdn, &*context.secrets);
            Content::IdentityProvider(Arc::new(ArcSwap::from_pointee(issuing)))
        }
    }
}

fn swap(open: &Content, new: Content) {
    match (open, new) {
        (Content::Https(old), Content::Https(new)) | (Content::Http(old), Content::Http(new)) => {
            old.store(new.load_full());
        }
        (Content::Tcp(old), Content::Tcp(new)) | (Content::TlsTcp(old), Content::TlsTcp(new)) => {
            old.store(new.load_full());
        }
        (Content::IdentityProvider(old), Content::IdentityProvider(new)) => {
            let new = new.load().after(&old.load());
            old.store(Arc::new(new));
        }
        // Ports of another kind were closed before.
        _ => {}
    }
}
