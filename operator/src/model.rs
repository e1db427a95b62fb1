//! The one model that every front end is translated to. It is what is judged, planned and tested.

use std::str::FromStr;

use jiff::Timestamp;
use postern_crds::DEFAULT;
use postern_proxy_config::{
    access::Access,
    funnel::Funnel,
    group::{Identity, IdentityProvider, Limits, Owner, PathMatch, ProxyProtocol, Scheme, Timeouts},
};

/// What one object asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The object.
    pub owner: Owner,
    /// What the name is.
    pub kind: ClaimKind,
    /// When it was made: the oldest claim to a name has it.
    pub created: Timestamp,
    /// Its generation.
    pub generation: i64,
    /// It is being deleted.
    pub deleting: bool,
    /// It carries our finalizer, so nothing that we make for it can be forgotten.
    pub held: bool,
    /// The ProxyGroup that it names.
    pub group: String,
    /// That group is for this object alone.
    pub own_group: bool,
    /// The name that it claims; absent when the text isn't a name, which `spec` then says.
    pub hostname: Option<Hostname>,
    /// What is to be served, or every reason why that can't be understood.
    pub spec: Result<NameSpec, Vec<Problem>>,
    /// What is ignored, and why.
    pub warnings: Vec<Problem>,
}

impl Claim {
    /// Whether the operator makes the group by itself.
    pub fn group_is_made(&self) -> bool {
        self.own_group || self.group == DEFAULT
    }
}

/// What the name of a Service begins with.
pub const SERVICE_PREFIX: &str = "svc:";

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// A device of its own.
    Device,
    /// A Tailscale Service, whose hosts are all replicas.
    Service,
}

/// What is to be served under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct NameSpec {
    /// Tags of the node or the Service; the Tailnet's when empty.
    pub tags: Vec<String>,
    /// Ports, at least one.
    pub ports: Vec<PortSpec>,
    /// Identity headers.
    pub identity: Identity,
    /// How the internet gets in, or every reason why it doesn't.
    pub funnel: Option<Result<FunnelSpec, Vec<Problem>>>,
    /// Own certificates.
    pub tls: Vec<TlsRef>,
}

/// How the internet gets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunnelSpec {
    /// As proxies are told; its keys are still to be found.
    pub config: Funnel,
    /// Where its keys are.
    pub keys: Vec<KeysRef>,
}

/// A Secret with keys that an object names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysRef {
    /// The field of the object, for messages.
    pub field: String,
    /// The Secret's name, in the object's namespace.
    pub secret: String,
    /// What is in it.
    pub kind: KeysKind,
}

/// What a Secret holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysKind {
    /// Keys by their names.
    Bearer,
    /// Passwords by their users.
    Basic,
}

/// What is to be served on a port.
#[derive(Debug, Clone, PartialEq)]
pub struct PortSpec {
    /// TCP port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: PortProtocol,
}

/// What is spoken on a port.
#[derive(Debug, Clone, PartialEq)]
pub enum PortProtocol {
    /// TLS, then HTTP: routes, at least one.
    Https(Vec<Route>),
    /// HTTP without TLS.
    Http(Vec<Route>),
    /// A redirect to port 443.
    RedirectToHttps,
    /// TLS is ended here, bytes go on.
    Tls(Stream),
    /// Bytes.
    Tcp(Stream),
    /// TLS, then the identity provider.
    IdentityProvider(IdentityProvider),
}

/// Where bytes go.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Where to.
    pub backend: BackendRef,
    /// Announce the caller's address.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Who gets in.
    pub access: Option<Access>,
}

impl NameSpec {
    /// The ports of a device name: HTTPS, and if wished plain HTTP that leads there.
    pub fn https_ports(routes: Vec<Route>, http_redirect: bool) -> Vec<PortSpec> {
        let redirect = http_redirect.then_some(PortSpec {
            port: 80,
            protocol: PortProtocol::RedirectToHttps,
        });
        let https = PortSpec {
            port: 443,
            protocol: PortProtocol::Https(routes),
        };
        std::iter::once(https).chain(redirect).collect()
    }

    /// Where keys of Funnel are.
    pub fn keys(&self) -> &[KeysRef] {
        match &self.funnel {
            Some(Ok(funnel)) => &funnel.keys,
            _ => &[],
        }
    }

    /// Whether a port redirects to HTTPS.
    pub fn redirects(&self) -> bool {
        self.ports
            .iter()
            .any(|port| port.protocol == PortProtocol::RedirectToHttps)
    }

    /// Whether a port needs a certificate.
    pub fn needs_certificate(&self) -> bool {
        (self.ports.iter()).any(|port| {
            matches!(
                port.protocol,
                PortProtocol::Https(_) | PortProtocol::Tls(_) | PortProtocol::IdentityProvider(_)
            )
        })
    }

    /// Every route.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.ports.iter().flat_map(|port| match &port.protocol {
            PortProtocol::Https(routes) | PortProtocol::Http(routes) => routes.as_slice(),
            PortProtocol::RedirectToHttps
            | PortProtocol::Tls(_)
            | PortProtocol::Tcp(_)
            | PortProtocol::IdentityProvider(_) => &[],
        })
    }
}

/// Requests of a host and path.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// A host; every host of the name when absent.
    pub host: Option<String>,
    /// Which paths.
    pub path: PathMatch,
    /// Replaces the matched prefix.
    pub replace_prefix: Option<String>,
    /// Where to.
    pub backend: BackendRef,
    /// Who gets in from the tailnet.
    pub access: Option<Access>,
    /// The internet reaches it too.
    pub funnel: bool,
    /// Bounds.
    pub limits: Limits,
    /// Times.
    pub timeouts: Timeouts,
}

/// A Service that an object names.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendRef {
    /// The field of the object, for messages.
    pub field: String,
    /// The Service's name, in the object's namespace.
    pub service: String,
    /// Its port.
    pub port: Port,
    /// How to speak to it; absent: told by the Service's port.
    pub scheme: Option<Scheme>,
}

/// A Service's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// A Secret with a certificate that an object names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRef {
    /// The field of the object, for messages.
    pub field: String,
    /// Names that it is for.
    pub hosts: Vec<String>,
    /// The Secret's name, in the object's namespace.
    pub secret: String,
}

/// Something that keeps an object, or a part of it, from being served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// One of [`postern_crds::conditions::reasons`].
    pub reason: &'static str,
    /// The field, such as `spec.rules[1].backend.service.port`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem with a field.
    pub fn new(reason: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason,
            field: field.into(),
            message: message.into(),
        }
    }

    /// A field that can't be understood.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(postern_crds::conditions::reasons::INVALID, field, message)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// A device name, or that of a Service without `svc:`: one DNS label in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(String);

impl Hostname {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Hostname {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text isn't one DNS label.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a DNS label: use 1 to 63 lower case letters, digits and '-', without the tailnet's suffix"
)]
pub struct NotALabel(String);

impl FromStr for Hostname {
    type Err = NotALabel;

    fn from_str(s: &str) -> Result<Self, NotALabel> {
        let fits = (1..=63).contains(&s.len())
            && !s.starts_with('-')
            && !s.ends_with('-')
            && s.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(s.to_owned()))
        } else {
            Err(NotALabel(s.to_owned()))
        }
    }
}

/// Whether a text is a tag as the coordination server knows it.
pub fn is_tag(text: &str) -> bool {
    text.strip_prefix("tag:").is_some_and(|name| {
        name.len() <= 60
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// Finds routes that can't be told apart: later ones would never be reached.
pub fn duplicate_routes(routes: &[Route]) -> Vec<Problem> {
    let mut seen = std::collections::HashMap::new();
    routes
        .iter()
        .filter_map(|route| {
            let key = (route.host.clone(), format!("{:?}", route.path));
            let first = seen.insert(key, route.backend.field.clone())?;
            let message = format!("has the same host and path as {first}: keep one of them");
            Some(Problem::invalid(route.backend.field.clone(), message))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_are_single_labels() {
        for good in ["a", "grafana", "a-1", "0"] {
            assert!(good.parse::<Hostname>().is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "A", "a.b", "-a", "a-", "a_b", "ä", long.as_str()] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_named() {
        assert!(is_tag("tag:k8s") && is_tag("tag:A-1"));
        assert!(!is_tag("k8s") && !is_tag("tag:") && !is_tag("tag:1") && !is_tag("tag:a b"));
    }
}
