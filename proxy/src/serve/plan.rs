//! A name's listeners, checked and ready to be put in place. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use postern_proxy_config::{
    group::{Backend, Identity, Listener, Name, Protocol, Route, Service, Tcp},
    serve::CERT_DOMAIN,
};

use crate::{
    http::{Behaviour, Site},
    listen::Forward,
    route::{Table, TableError},
};

/// Listeners by port.
#[derive(Debug)]
pub struct Plan {
    pub(super) listeners: BTreeMap<u16, Planned>,
    /// Those that the internet reaches too.
    pub(super) funnel: BTreeSet<u16>,
}

/// What a port will do.
#[derive(Debug, Clone)]
pub(super) enum Planned {
    Https(Protocol),
    Http(Protocol),
    Tcp(Arc<Forward>),
    TlsTcp(Arc<Forward>),
}

/// Why a name's configuration is refused; the one before it stays.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two listeners on a port.
    #[error("listeners[{0}].port: {1} is there twice")]
    Port(usize, u16),
    /// Only bytes can come from any port.
    #[error("listeners[{0}].port: 0 stands for all other ports, whose bytes are forwarded")]
    NoPort(usize),
    /// A route.
    #[error("listeners[{0}].{1}")]
    Routes(usize, TableError),
    /// Nothing that the internet could reach.
    #[error("funnel: port {0} has no listener that speaks TLS, which Funnel needs")]
    Funnel(u16),
    /// Bytes can't go there.
    #[error("listeners[{0}].backend: bytes can only go to a service, an address or a unix socket")]
    Backend(usize),
}

impl Plan {
    /// Checks everything, so that nothing can fail when it is put in place.
    ///
    /// # Errors
    /// Names the listener and the field.
    pub fn new(name: &Name) -> Result<Self, PlanError> {
        Self::check(&name.listeners, &name.funnel)
    }

    /// The same for a Service, which is never on Funnel.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn of_service(service: &Service) -> Result<Self, PlanError> {
        Self::check(&service.listeners, &BTreeSet::new())
    }

    fn check(all: &[Listener], funnel: &BTreeSet<u16>) -> Result<Self, PlanError> {
        let mut listeners = BTreeMap::new();
        for (index, Listener { port, protocol }) in all.iter().enumerate() {
            if *port == 0 && !matches!(protocol, Protocol::Tcp(_)) {
                return Err(PlanError::NoPort(index));
            }
            let compiles = |routes: &[Route]| {
                // Which name it will be doesn't matter.
                let routes = with_domain(routes, "name.invalid");
                Table::compile(&routes).map_err(|e| PlanError::Routes(index, e))
            };
            let planned = match protocol {
                Protocol::Https(http) => {
                    compiles(&http.routes)?;
                    Planned::Https(protocol.clone())
                }
                Protocol::Http(http) => {
                    compiles(&http.routes)?;
                    Planned::Http(protocol.clone())
                }
                Protocol::RedirectToHttps { .. } => Planned::Http(protocol.clone()),
                Protocol::Tcp(tcp) => Planned::Tcp(forward(index, tcp)?),
                Protocol::TlsTerminatedTcp(tcp) => Planned::TlsTcp(forward(index, tcp)?),
            };
            if listeners.insert(*port, planned).is_some() {
                return Err(PlanError::Port(index, *port));
            }
        }
        // The backend of plain TCP may speak TLS itself.
        let may = |port: &u16| !matches!(listeners.get(port), None | Some(Planned::Http(_)));
        if let Some(port) = funnel.iter().find(|port| !may(port)) {
            return Err(PlanError::Funnel(*port));
        }
        Ok(Self {
            listeners,
            funnel: funnel.clone(),
        })
    }

    /// Whether any port needs a certificate.
    pub fn needs_certificate(&self) -> bool {
        self.listeners
            .values()
            .any(|l| matches!(l, Planned::Https(_) | Planned::TlsTcp(_)))
    }
}

/// The content of an HTTP port for a name that is known as `fqdn` and by the hosts of own certificates.
pub(super) fn site<'a>(protocol: &Protocol, fqdn: &'a str, own: impl Iterator<Item = &'a str>) -> Site {
    let behaviour = match protocol {
        Protocol::Https(http) | Protocol::Http(http) => Behaviour::Routes {
            // The plan has compiled them already.
            table: Table::compile(&with_domain(&http.routes, fqdn)).unwrap_or_default(),
            identity: http.identity.clone(),
        },
        Protocol::RedirectToHttps { port } => Behaviour::RedirectToHttps { port: *port },
        Protocol::Tcp(_) | Protocol::TlsTerminatedTcp(_) => Behaviour::Routes {
            table: Table::default(),
            identity: Identity::default(),
        },
    };
    let mut hosts: ahash::AHashSet<String> = own.map(str::to_owned).collect();
    hosts.insert(fqdn.to_ascii_lowercase());
    hosts.extend(short(fqdn));
    if let Behaviour::Routes { table, .. } = &behaviour {
        hosts.extend(table.hosts().map(str::to_owned));
    }
    Site {
        fqdn: fqdn.to_ascii_lowercase(),
        hosts,
        behaviour,
    }
}

/// Hosts, texts and redirects of a `serve.json` may name the domain, which only the node knows. What is for
/// the own name is for its short form too.
fn with_domain(routes: &[Route], fqdn: &str) -> Vec<Route> {
    let mut named = Vec::with_capacity(routes.len());
    for route in routes {
        let mut route = route.clone();
        if let Backend::Text { text } | Backend::Redirect { location: text, .. } = &mut route.backend {
            *text = text.replace(CERT_DOMAIN, fqdn);
        }
        if let Some(host) = &mut route.host {
            if host == CERT_DOMAIN {
                fqdn.clone_into(host);
            }
            if let Some(short) = short(fqdn).filter(|_| host.eq_ignore_ascii_case(fqdn)) {
                named.push(Route {
                    host: Some(short),
                    ..route.clone()
                });
            }
        }
        named.push(route);
    }
    named
}

/// `http://name/`, as search domains have it.
fn short(fqdn: &str) -> Option<String> {
    let (label, _) = fqdn.split_once('.')?;
    Some(label.to_ascii_lowercase())
}

fn forward(index: usize, tcp: &Tcp) -> Result<Arc<Forward>, PlanError> {
    match tcp.backend {
        Backend::Text { .. } | Backend::Redirect { .. } | Backend::Files { .. } => {
            Err(PlanError::Backend(index))
        }
        Backend::Service { .. }
        | Backend::Address { .. }
        | Backend::Unix { .. }
        | Backend::Unavailable { .. } => Ok(Arc::new(Forward {
            backend: tcp.backend.clone(),
            proxy_protocol: tcp.proxy_protocol,
            access: tcp.access.clone(),
        })),
    }
}
