//! A name's listeners, checked and ready to be put in place. Pure.

use std::{collections::BTreeMap, sync::Arc};

use postern_proxy_config::{
    funnel::Funnel,
    group::{Backend, Identity, IdentityProvider, Listener, Name, Protocol, Route, SecretRef, Tcp},
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
    /// How the internet gets in.
    pub(super) funnel: Option<Arc<Funnel>>,
}

/// What a port will do.
#[derive(Debug, Clone)]
pub(super) enum Planned {
    Https(Protocol),
    Http(Protocol),
    Tcp(Arc<Forward>),
    TlsTcp(Arc<Forward>),
    IdentityProvider(IdentityProvider),
}

impl Planned {
    /// Whether it is nothing without a certificate.
    pub(super) fn needs_certificate(&self) -> bool {
        match self {
            Self::Https(_) | Self::TlsTcp(_) | Self::IdentityProvider(_) => true,
            Self::Http(_) | Self::Tcp(_) => false,
        }
    }

    /// See [`Plan::declared_clients`].
    pub(super) fn declared_clients(&self) -> Option<&SecretRef> {
        match self {
            Self::IdentityProvider(provider) => provider.clients.as_ref(),
            Self::Https(_) | Self::Http(_) | Self::Tcp(_) | Self::TlsTcp(_) => None,
        }
    }
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
    /// Nothing keeps strangers out, and nobody has said that this is meant.
    #[error("funnel: it has neither keys nor sources; say unauthenticated where everybody may come in")]
    Unlocked,
    /// No key can be asked for.
    #[error("funnel.keys: port {0} forwards bytes, which show no key; bound its sources instead")]
    NoKeys(u16),
    /// Its clients show their own secrets.
    #[error("funnel.keys: port {0} is an identity provider's, which asks for the secrets of its clients")]
    IssuerKeys(u16),
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
        Self::of(&name.listeners, name.funnel.clone().map(Arc::new))
    }

    /// The same for what is never on Funnel, as a Service.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn within_tailnet(listeners: &[Listener]) -> Result<Self, PlanError> {
        Self::of(listeners, None)
    }

    fn of(all: &[Listener], funnel: Option<Arc<Funnel>>) -> Result<Self, PlanError> {
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
                Protocol::Tcp(tcp) => Planned::Tcp(forward(index, tcp, funnel.as_ref())?),
                Protocol::TlsTerminatedTcp(tcp) => Planned::TlsTcp(forward(index, tcp, funnel.as_ref())?),
                Protocol::IdentityProvider(provider) => Planned::IdentityProvider(provider.clone()),
            };
            if listeners.insert(*port, planned).is_some() {
                return Err(PlanError::Port(index, *port));
            }
        }
        if let Some(funnel) = &funnel {
            check(funnel, &listeners)?;
        }
        Ok(Self { listeners, funnel })
    }

    /// Whether the internet reaches a port.
    pub(super) fn is_on_funnel(&self, port: u16) -> bool {
        self.funnel
            .as_ref()
            .is_some_and(|funnel| funnel.ports.contains(&port))
    }

    /// Whether the tailnet does.
    pub(super) fn is_on_tailnet(&self, port: u16) -> bool {
        !(self.is_on_funnel(port) && self.funnel.as_ref().is_some_and(|funnel| funnel.only))
    }

    /// The Secret with the clients of an identity provider.
    pub(super) fn declared_clients(&self) -> Option<&SecretRef> {
        self.listeners.values().find_map(Planned::declared_clients)
    }

    /// Whether any port needs a certificate.
    pub fn needs_certificate(&self) -> bool {
        self.listeners.values().any(Planned::needs_certificate)
    }
}

/// Nothing comes to be on the internet by accident.
fn check(funnel: &Funnel, listeners: &BTreeMap<u16, Planned>) -> Result<(), PlanError> {
    if !funnel.is_locked() && !funnel.unauthenticated {
        return Err(PlanError::Unlocked);
    }
    for port in &funnel.ports {
        match listeners.get(port) {
            None | Some(Planned::Http(_)) => return Err(PlanError::Funnel(*port)),
            // The backend of plain TCP may speak TLS itself.
            Some(Planned::Tcp(_) | Planned::TlsTcp(_)) if funnel.keys.is_some() => {
                return Err(PlanError::NoKeys(*port));
            }
            Some(Planned::IdentityProvider(_)) if funnel.keys.is_some() => {
                return Err(PlanError::IssuerKeys(*port));
            }
            Some(Planned::Https(_) | Planned::Tcp(_) | Planned::TlsTcp(_) | Planned::IdentityProvider(_)) => {
            }
        }
    }
    Ok(())
}

/// The content of an HTTP port for a name that is known as `fqdn` and by the hosts of own certificates.
pub(super) fn site<'a>(
    protocol: &Protocol,
    funnel: Option<Arc<Funnel>>,
    fqdn: &'a str,
    own: impl Iterator<Item = &'a str>,
) -> Site {
    let behaviour = match protocol {
        Protocol::Https(http) | Protocol::Http(http) => Behaviour::Routes {
            // The plan has compiled them already.
            table: Table::compile(&with_domain(&http.routes, fqdn)).unwrap_or_default(),
            identity: http.identity.clone(),
        },
        Protocol::RedirectToHttps { port } => Behaviour::RedirectToHttps { port: *port },
        Protocol::Tcp(_) | Protocol::TlsTerminatedTcp(_) | Protocol::IdentityProvider(_) => {
            Behaviour::Routes {
                table: Table::default(),
                identity: Identity::default(),
            }
        }
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
        funnel,
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

fn forward(index: usize, tcp: &Tcp, funnel: Option<&Arc<Funnel>>) -> Result<Arc<Forward>, PlanError> {
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
            funnel: funnel.cloned(),
        })),
    }
}
