//! Claim + what the cluster holds → what is served, or why not. Pure: it reads stores and nothing else.

use kube::ResourceExt;
use postern_crds::{Tailnet, conditions::reasons};
use postern_proxy_config::{
    funnel::Funnel,
    group::{Backend, Http, Listener, OwnCertificate, PathMatch, Protocol, Route, SecretRef, Tcp},
    names,
};

use crate::{
    labels::{
        GROUP, HOSTNAME, ROLE_KEYS, ROLE_OWN_CERTIFICATE, SOURCE, annotation, is_ours, label, own_certificate,
    },
    model::{self, BackendRef, Claim, ClaimKind, Hostname, NameSpec, PortProtocol, Problem, Stream},
    name::{
        backends,
        claims::{self, Claims},
    },
    stores::Stores,
};

const HTTPS: u16 = 443;

/// What became of a claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// What is to be served, or the one reason why the claim as a whole can't be.
    pub accepted: Result<Accepted, Problem>,
    /// Parts of it that can't be served.
    pub unresolved: Vec<Problem>,
}

/// A claim that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The Tailnet's name.
    pub tailnet: String,
    /// The device name, or the Service's without `svc:`.
    pub hostname: Hostname,
    /// Tags of the node or the Service.
    pub tags: Vec<String>,
    /// What is served on which port.
    pub listeners: Vec<Listener>,
    /// The Secret for the certificate that is issued; absent where none is, or none is needed.
    pub certificate: Option<String>,
    /// The certificates that the object brings, as far as they have been copied.
    pub certificates: Vec<OwnCertificate>,
    /// How the internet gets in.
    pub funnel: Option<Funnel>,
}

/// Decides about one claim.
pub fn judge(claim: &Claim, claims: &Claims, stores: &Stores) -> Judgement {
    let mut unresolved = Vec::new();
    let accepted = accept(claim, claims, stores, &mut unresolved);
    Judgement { accepted, unresolved }
}

fn accept(
    claim: &Claim,
    claims: &Claims,
    stores: &Stores,
    unresolved: &mut Vec<Problem>,
) -> Result<Accepted, Problem> {
    let spec = claim.spec.as_ref().map_err(|problems| all_of(problems))?;
    let hostname = claim
        .hostname
        .clone()
        .ok_or_else(|| Problem::invalid("spec.hostname", "is not a DNS label"))?;
    let Some(group) = stores.proxy_group(&claim.group) else {
        if claim.group_is_made() {
            let message = format!("ProxyGroup {} is being made", claim.group);
            return Err(Problem::new(reasons::PENDING, "", message));
        }
        let message = format!(
            "ProxyGroup {} doesn't exist: make it, or name another",
            claim.group
        );
        return Err(Problem::new(reasons::PROXY_GROUP_NOT_FOUND, "", message));
    };
    let tailnet_name = group.spec.tailnet_ref.name.clone();
    let Some(tailnet) = stores.tailnet(&tailnet_name) else {
        let message = format!("Tailnet {tailnet_name} doesn't exist: make it, with its credentials");
        return Err(Problem::new(reasons::TAILNET_NOT_FOUND, "", message));
    };
    let kind = claim.kind;
    if kind == ClaimKind::Service && !offers_services(&tailnet) {
        let message = format!(
            "the coordination server of Tailnet {tailnet_name} has no API of Services, which takes an OAuth client \
             (spec.credentials.oauthClient); Headscale has none: use a TailnetIngress there"
        );
        return Err(Problem::new(reasons::SERVICES_UNAVAILABLE, "", message));
    }
    claims::permit(stores, &group, &claim.owner.namespace, &hostname)?;
    let tags = tags(spec, &tailnet, &group.spec.allowed_tags, &group.name_any())?;
    if let Some(owner) = claims.owner(&tailnet_name, &hostname)
        && owner.uid != claim.owner.uid
    {
        let message = format!(
            "the name {hostname} belongs to the older {} {}/{}: choose another, or delete that one",
            owner.kind, owner.namespace, owner.name
        );
        let field = match kind {
            ClaimKind::Device => "spec.hostname",
            ClaimKind::Service => "spec.service",
        };
        return Err(Problem::new(reasons::NAME_TAKEN, field, message));
    }

    unclaimed(stores, claim, &hostname)?;
    // A device has its certificate's Secret even before a port needs it: its record is made once.
    let needed = kind == ClaimKind::Device || spec.needs_certificate();
    let issued = issues_certificates(&tailnet) && needed;
    let certificates = certificates(claim, spec, &hostname, stores);
    if needed && !issued && certificates.is_empty() {
        unresolved.push(Problem::new(
            reasons::CERTIFICATE_REQUIRED,
            "spec.tls",
            "this coordination server issues no certificates: name a Secret with one",
        ));
    }
    Ok(Accepted {
        tailnet: tailnet_name,
        tags,
        listeners: listeners(claim, spec, stores, unresolved),
        certificate: issued.then(|| certificate_secret(claim, &hostname)),
        certificates,
        funnel: funnel(claim, spec, &hostname, stores),
        hostname,
    })
}

/// The Secret for the certificate that is issued for a claim's name.
pub fn certificate_secret(claim: &Claim, hostname: &Hostname) -> String {
    match claim.kind {
        ClaimKind::Device => names::certificate(&claim.group, hostname.as_str()),
        ClaimKind::Service => names::service_certificate(&claim.group, hostname.as_str()),
    }
}

/// Names of Secrets are made of two names, so another's could be met; it is never written over.
fn unclaimed(stores: &Stores, claim: &Claim, hostname: &Hostname) -> Result<(), Problem> {
    let (group, host) = (claim.group.as_str(), hostname.as_str());
    let state = (claim.kind == ClaimKind::Device).then(|| names::node_state(group, host));
    for name in state.into_iter().chain([certificate_secret(claim, hostname)]) {
        let Some(secret) = stores.secret(&name) else {
            continue;
        };
        let made_for = (label(&*secret, GROUP), label(&*secret, HOSTNAME));
        if !is_ours(&*secret) || made_for != (Some(group), Some(host)) {
            let message = format!(
                "Secret {name} in the operator's namespace was made for something else: delete it or choose another name"
            );
            return Err(Problem::new(reasons::SECRET_NOT_OWNED, "", message));
        }
    }
    Ok(())
}

/// Headscale turns away a node that comes with an auth key and asks for tags: it has those of the key.
pub fn lets_nodes_ask_for_tags(tailnet: &Tailnet) -> bool {
    tailnet.spec.credentials.headscale_api_key.is_none()
}

/// Whether the coordination server has Services: only Tailscale's API defines them.
pub fn offers_services(tailnet: &Tailnet) -> bool {
    tailnet.spec.credentials.oauth_client.is_some()
}

/// Headscale has no `set-dns`, without which no certificate can be issued for its names.
pub fn issues_certificates(tailnet: &Tailnet) -> bool {
    tailnet.spec.credentials.headscale_api_key.is_none()
}

/// Several problems as one.
pub(crate) fn all_of(problems: &[Problem]) -> Problem {
    match problems {
        [one] => one.clone(),
        several => {
            let reason = several.first().map_or(reasons::INVALID, |p| p.reason);
            let texts: Vec<_> = several.iter().map(ToString::to_string).collect();
            Problem::new(reason, "", texts.join("; "))
        }
    }
}

fn tags(spec: &NameSpec, tailnet: &Tailnet, allowed: &[String], group: &str) -> Result<Vec<String>, Problem> {
    if spec.tags.is_empty() {
        return Ok(tailnet.spec.tags.clone());
    }
    match spec
        .tags
        .iter()
        .find(|tag| !allowed.contains(tag) && !tailnet.spec.tags.contains(tag))
    {
        None => Ok(spec.tags.clone()),
        Some(tag) => Err(Problem::new(
            reasons::NOT_ALLOWED,
            "spec.tags",
            format!("ProxyGroup {group} doesn't allow the tag {tag} (spec.allowedTags)"),
        )),
    }
}

fn certificates(claim: &Claim, spec: &NameSpec, hostname: &Hostname, stores: &Stores) -> Vec<OwnCertificate> {
    let copies = stores.secrets_of_owner(ROLE_OWN_CERTIFICATE, &claim.owner.uid);
    (spec.tls.iter())
        .filter_map(|tls| {
            let name = own_certificate(&claim.group, hostname.as_str(), &tls.secret);
            let copy = copies.iter().find(|copy| copy.name_any() == name)?;
            let revision = annotation(&**copy, SOURCE).unwrap_or_default().to_owned();
            Some(OwnCertificate {
                hosts: tls.hosts.clone(),
                secret: SecretRef { name, revision },
            })
        })
        .collect()
}

/// While its keys aren't copied, nobody has one.
fn funnel(claim: &Claim, spec: &NameSpec, hostname: &Hostname, stores: &Stores) -> Option<Funnel> {
    let Some(Ok(funnel)) = &spec.funnel else {
        return None;
    };
    let keys = (!funnel.keys.is_empty()).then(|| {
        let name = names::keys(&claim.group, hostname.as_str());
        let copies = stores.secrets_of_owner(ROLE_KEYS, &claim.owner.uid);
        let copy = copies.iter().find(|copy| copy.name_any() == name);
        let revision = copy
            .and_then(|copy| annotation(&**copy, SOURCE))
            .unwrap_or_default();
        SecretRef {
            name,
            revision: revision.to_owned(),
        }
    });
    Some(Funnel {
        keys,
        ..funnel.config.clone()
    })
}

fn listeners(
    claim: &Claim,
    spec: &NameSpec,
    stores: &Stores,
    unresolved: &mut Vec<Problem>,
) -> Vec<Listener> {
    let mut resolve = |backend: &BackendRef| {
        backends::resolve(stores, &claim.owner.namespace, backend).unwrap_or_else(|problem| {
            let reason = problem.to_string();
            unresolved.push(problem);
            Backend::Unavailable { reason }
        })
    };
    (spec.ports.iter())
        .map(|port| Listener {
            port: port.port,
            protocol: match &port.protocol {
                PortProtocol::Https(routes) => Protocol::Https(http(routes, spec, &mut resolve)),
                PortProtocol::Http(routes) => Protocol::Http(http(routes, spec, &mut resolve)),
                PortProtocol::RedirectToHttps => Protocol::RedirectToHttps { port: HTTPS },
                PortProtocol::Tls(stream) => Protocol::TlsTerminatedTcp(tcp(stream, &mut resolve)),
                PortProtocol::Tcp(stream) => Protocol::Tcp(tcp(stream, &mut resolve)),
                PortProtocol::IdentityProvider(provider) => Protocol::IdentityProvider(provider.clone()),
            },
        })
        .collect()
}

fn http(routes: &[model::Route], spec: &NameSpec, resolve: &mut impl FnMut(&BackendRef) -> Backend) -> Http {
    let routes = (routes.iter())
        .map(|route| Route {
            host: route.host.clone(),
            path: route.path.clone(),
            replace_prefix: route.replace_prefix.clone(),
            backend: resolve(&route.backend),
            app_capabilities: None,
            access: route.access.clone(),
            funnel: route.funnel,
            limits: route.limits.clone(),
            timeouts: route.timeouts.clone(),
        })
        .collect();
    Http {
        routes,
        identity: spec.identity.clone(),
    }
}

fn tcp(stream: &Stream, resolve: &mut impl FnMut(&BackendRef) -> Backend) -> Tcp {
    Tcp {
        backend: resolve(&stream.backend),
        proxy_protocol: stream.proxy_protocol,
        access: stream.access.clone(),
    }
}

/// Puts the backend that a route or port had before in the place of one that can't be used: what served goes
/// on serving, and the object's condition says why the new one doesn't.
pub fn keep_serving(listeners: &mut [Listener], before: &[Listener]) {
    type Place = (u16, Option<String>, Option<PathMatch>);
    let mut served: Vec<(Place, Backend)> = Vec::new();
    for listener in before {
        match &listener.protocol {
            Protocol::Https(http) | Protocol::Http(http) => served.extend(http.routes.iter().map(|route| {
                let place = (listener.port, route.host.clone(), Some(route.path.clone()));
                (place, route.backend.clone())
            })),
            Protocol::Tcp(tcp) | Protocol::TlsTerminatedTcp(tcp) => {
                served.push(((listener.port, None, None), tcp.backend.clone()));
            }
            Protocol::RedirectToHttps { .. } | Protocol::IdentityProvider(_) => {}
        }
    }
    let keep = |backend: &mut Backend, place: &Place| {
        if matches!(backend, Backend::Unavailable { .. })
            && let Some((_, before)) =
                (served.iter()).find(|(at, before)| at == place && matches!(before, Backend::Service { .. }))
        {
            *backend = before.clone();
        }
    };
    for listener in listeners {
        let port = listener.port;
        match &mut listener.protocol {
            Protocol::Https(http) | Protocol::Http(http) => {
                for route in &mut http.routes {
                    let place = (port, route.host.clone(), Some(route.path.clone()));
                    keep(&mut route.backend, &place);
                }
            }
            Protocol::Tcp(tcp) | Protocol::TlsTerminatedTcp(tcp) => {
                keep(&mut tcp.backend, &(port, None, None));
            }
            Protocol::RedirectToHttps { .. } | Protocol::IdentityProvider(_) => {}
        }
    }
}

/// Every backend of some ports.
pub fn backends(listeners: &[Listener]) -> impl Iterator<Item = &Backend> {
    listeners.iter().flat_map(|listener| match &listener.protocol {
        Protocol::Https(http) | Protocol::Http(http) => {
            http.routes.iter().map(|route| &route.backend).collect()
        }
        Protocol::Tcp(tcp) | Protocol::TlsTerminatedTcp(tcp) => vec![&tcp.backend],
        Protocol::RedirectToHttps { .. } | Protocol::IdentityProvider(_) => Vec::new(),
    })
}
