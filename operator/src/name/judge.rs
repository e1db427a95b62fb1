//! Claim + what the cluster holds → what is served, or why not. Pure: it reads stores and nothing else.

use std::collections::BTreeSet;

use kube::ResourceExt;
use postern_crds::{DEFAULT, Tailnet, conditions::reasons};
use postern_proxy_config::{
    group::{
        Backend, Http, Listener, Name, NodeConfig, OwnCertificate, PathMatch, Protocol, Route, SecretRef,
    },
    names,
};

use crate::{
    labels::{GROUP, HOSTNAME, ROLE_OWN_CERTIFICATE, SOURCE, annotation, is_ours, label, own_certificate},
    model::{Claim, Hostname, NameSpec, Problem},
    name::{
        backends,
        claims::{self, Claims},
    },
    stores::Stores,
};

const HTTPS: u16 = 443;
const HTTP: u16 = 80;

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
    /// The device name.
    pub hostname: Hostname,
    /// Its configuration. Revisions of the node's Secret are the group's to fill in.
    pub name: Name,
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
        if claim.group == DEFAULT {
            return Err(Problem::new(
                reasons::PENDING,
                "",
                "ProxyGroup default is being made",
            ));
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
    claims::permit(stores, &group, &claim.owner.namespace, &hostname)?;
    let tags = tags(spec, &tailnet, &group.spec.allowed_tags, &group.name_any())?;
    if let Some(owner) = claims.owner(&tailnet_name, &hostname)
        && owner.uid != claim.owner.uid
    {
        let message = format!(
            "the name {hostname} belongs to the older {} {}/{}: choose another, or delete that one",
            owner.kind, owner.namespace, owner.name
        );
        return Err(Problem::new(reasons::NAME_TAKEN, "spec.hostname", message));
    }

    unclaimed(stores, &claim.group, &hostname)?;
    let issued = issues_certificates(&tailnet);
    let certificates = certificates(claim, spec, &hostname, stores);
    if !issued && certificates.is_empty() {
        unresolved.push(Problem::new(
            reasons::CERTIFICATE_REQUIRED,
            "spec.tls",
            "this coordination server issues no certificates: name a Secret with one",
        ));
    }
    let name = Name {
        owner: claim.owner.clone(),
        generation: claim.generation,
        node: NodeConfig {
            hostname: hostname.to_string(),
            tags,
            state: SecretRef {
                name: names::node_state(&claim.group, hostname.as_str()),
                revision: String::new(),
            },
            certificate: issued.then(|| SecretRef {
                name: names::certificate(&claim.group, hostname.as_str()),
                revision: String::new(),
            }),
        },
        listeners: listeners(claim, spec, stores, unresolved),
        // Funnel wants a lock, which no front end can say yet.
        funnel: BTreeSet::new(),
        certificates,
    };
    Ok(Accepted {
        tailnet: tailnet_name,
        hostname,
        name,
    })
}

/// Names of Secrets are made of two names, so another's could be met; it is never written over.
fn unclaimed(stores: &Stores, group: &str, hostname: &Hostname) -> Result<(), Problem> {
    let host = hostname.as_str();
    for name in [names::node_state(group, host), names::certificate(group, host)] {
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

/// Headscale has no `set-dns`, without which no certificate can be issued for its names.
pub fn issues_certificates(tailnet: &Tailnet) -> bool {
    tailnet.spec.credentials.headscale_api_key.is_none()
}

fn all_of(problems: &[Problem]) -> Problem {
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

fn listeners(
    claim: &Claim,
    spec: &NameSpec,
    stores: &Stores,
    unresolved: &mut Vec<Problem>,
) -> Vec<Listener> {
    let routes = (spec.routes.iter())
        .map(|route| Route {
            host: route.host.clone(),
            path: route.path.clone(),
            replace_prefix: route.replace_prefix.clone(),
            backend: backends::resolve(stores, &claim.owner.namespace, &route.backend).unwrap_or_else(
                |problem| {
                    let reason = problem.to_string();
                    unresolved.push(problem);
                    Backend::Unavailable { reason }
                },
            ),
            access: route.access.clone(),
            limits: route.limits.clone(),
            timeouts: route.timeouts.clone(),
        })
        .collect();
    let https = Protocol::Https(Http {
        routes,
        identity: spec.identity.clone(),
    });
    let mut listeners = vec![Listener {
        port: HTTPS,
        protocol: https,
    }];
    if spec.http_redirect {
        listeners.push(Listener {
            port: HTTP,
            protocol: Protocol::RedirectToHttps { port: HTTPS },
        });
    }
    listeners
}

/// Puts the backend that a route had before in the place of one that can't be used: what served goes on
/// serving, and the object's condition says why the new one doesn't.
pub fn keep_serving(name: &mut Name, before: &Name) {
    let served: Vec<(Option<String>, PathMatch, Backend)> = https_routes(before)
        .filter(|route| matches!(route.backend, Backend::Service { .. }))
        .map(|route| (route.host.clone(), route.path.clone(), route.backend.clone()))
        .collect();
    for listener in &mut name.listeners {
        let Protocol::Https(http) = &mut listener.protocol else {
            continue;
        };
        for route in &mut http.routes {
            if !matches!(route.backend, Backend::Unavailable { .. }) {
                continue;
            }
            if let Some((.., backend)) = served
                .iter()
                .find(|(host, path, _)| *host == route.host && *path == route.path)
            {
                route.backend = backend.clone();
            }
        }
    }
}

/// Every route of a name.
pub fn https_routes(name: &Name) -> impl Iterator<Item = &Route> {
    name.listeners
        .iter()
        .flat_map(|listener| match &listener.protocol {
            Protocol::Https(http) | Protocol::Http(http) => http.routes.as_slice(),
            Protocol::RedirectToHttps { .. } | Protocol::Tcp(_) | Protocol::TlsTerminatedTcp(_) => &[],
        })
}
