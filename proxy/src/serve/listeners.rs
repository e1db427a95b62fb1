//! A name's open ports: contents are swapped in place, so that connections outlive every change that
//! doesn't take their port away.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use postern_node::service::ServiceName;

use super::{
    Context,
    funnel::{self, Refusals},
    plan::{self, Plan, Planned},
};
use crate::{
    certs::Resolver,
    drain::Drain,
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
    drain: Drain,
    open: BTreeMap<u16, Open>,
    refusals: Refusals,
}

struct Open {
    content: Content,
    drain: Drain,
    /// Ends what comes from the internet.
    funnel: Option<Drain>,
}

/// What the contents depend on beside the plan.
pub(super) struct Names<'a> {
    pub(super) fqdn: &'a str,
    pub(super) own: Vec<String>,
    /// Ports with TLS wait for the first certificate.
    pub(super) tls_ready: bool,
}

impl Listeners {
    pub(super) fn new(
        place: Place,
        key: Arc<str>,
        context: Arc<Context>,
        node: Arc<dyn Node>,
        certificates: Arc<Resolver>,
        drain: Drain,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: ServerConfigs::new(&certificates)?,
            place,
            key,
            context,
            node,
            certificates,
            drain,
            open: BTreeMap::new(),
            refusals: Refusals::default(),
        })
    }

    /// Why ports can't be on Funnel, and when that changes.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Makes the open ports those of the plan. Returns why a port could not be opened.
    pub(super) async fn apply(&mut self, plan: &Plan, names: &Names<'_>) -> Result<(), String> {
        self.close(|port, open| {
            plan.listeners
                .get(&port)
                .is_none_or(|planned| !same_kind(&open.content, planned))
        });
        let mut failed = Ok(());
        for (port, planned) in &plan.listeners {
            if let Some(open) = self.open.get(port) {
                swap(&open.content, planned, names);
                continue;
            }
            if !names.tls_ready && matches!(planned, Planned::Https(_) | Planned::TlsTcp(_)) {
                continue;
            }
            if let Err(error) = self.open(*port, content(planned, names)).await {
                failed = Err(format!("listen on port {port}: {error}"));
            }
        }
        self.follow_funnel(plan);
        failed
    }

    /// Opens to the internet what the plan wants there, and closes what it doesn't; the tailnet's connections go on.
    fn follow_funnel(&mut self, plan: &Plan) {
        let ports: Vec<u16> = self.open.keys().copied().collect();
        for port in ports {
            let wanted = plan.funnel.contains(&port);
            let Some(open) = self.open.get(&port) else {
                continue;
            };
            match (wanted, &open.funnel) {
                (true, None) => {
                    let drain = open.drain.child();
                    let serving = self.serving(open.content.clone(), drain.clone());
                    let accepting = funnel::serve(serving, port, self.refusals.clone());
                    own(&open.drain, &drain, accepting);
                    if let Some(open) = self.open.get_mut(&port) {
                        open.funnel = Some(drain);
                    }
                }
                (false, Some(_)) => {
                    let gone = self.open.get_mut(&port).and_then(|open| open.funnel.take());
                    let deadline = self.context.drain_deadline;
                    self.drain.tasks.spawn(async move {
                        if let Some(drain) = gone {
                            drain.finish_within(deadline).await;
                        }
                    });
                }
                _ => {}
            }
        }
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

    async fn open(&mut self, port: u16, content: Content) -> Result<(), postern_node::node::Error> {
        let listener = match &self.place {
            Place::Node => self.node.listen(port)?,
            Place::Service(name) => self.node.listen_service(name, port).await?,
        };
        let drain = self.drain.child();
        let serving = self.serving(content.clone(), drain.clone());
        own(&self.drain, &drain, serving.serve(listener));
        let funnel = None;
        self.open.insert(
            port,
            Open {
                content,
                drain,
                funnel,
            },
        );
        Ok(())
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
                let deadline = self.context.drain_deadline;
                self.drain
                    .tasks
                    .spawn(async move { open.drain.finish_within(deadline).await });
            }
        }
    }
}

/// The end of the whole waits for the part, and then for the part's connections.
fn own(whole: &Drain, part: &Drain, accepting: impl Future<Output = ()> + Send + 'static) {
    let part = part.clone();
    whole.tasks.spawn(async move {
        part.tasks.spawn(accepting);
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
    )
}

fn content(planned: &Planned, names: &Names<'_>) -> Content {
    let site = |protocol| {
        let own = names.own.iter().map(String::as_str);
        Arc::new(ArcSwap::from_pointee(plan::site(protocol, names.fqdn, own)))
    };
    match planned {
        Planned::Https(protocol) => Content::Https(site(protocol)),
        Planned::Http(protocol) => Content::Http(site(protocol)),
        Planned::Tcp(forward) => Content::Tcp(Arc::new(ArcSwap::new(forward.clone()))),
        Planned::TlsTcp(forward) => Content::TlsTcp(Arc::new(ArcSwap::new(forward.clone()))),
    }
}

fn swap(open: &Content, planned: &Planned, names: &Names<'_>) {
    match (open, content(planned, names)) {
        (Content::Https(old), Content::Https(new)) | (Content::Http(old), Content::Http(new)) => {
            old.store(new.load_full());
        }
        (Content::Tcp(old), Content::Tcp(new)) | (Content::TlsTcp(old), Content::TlsTcp(new)) => {
            old.store(new.load_full());
        }
        // Ports of another kind were closed before.
        _ => {}
    }
}
