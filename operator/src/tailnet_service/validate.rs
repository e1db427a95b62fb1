//! TailnetService → [`Claim`]: pure, and every problem names its field.

use std::collections::BTreeSet;

use kube::ResourceExt;
use postern_crds::{DEFAULT, ProxyProtocol, ServiceProtocol, TailnetService, TailnetServicePort};
use postern_proxy_config::{access::Access, group as config};

use crate::{
    model::{
        Claim, ClaimKind, Hostname, NameSpec, PortProtocol, PortSpec, Problem, Route, SERVICE_PREFIX, Stream,
        duplicate_routes,
    },
    name::claim_of,
    tailnet_ingress::validate::{access, backend, bad_tags, identity, routes, tls},
};

const HTTPS: u16 = 443;
const HTTP: u16 = 80;

/// Translates one object.
pub fn claim(object: &TailnetService) -> Claim {
    let spec = &object.spec;
    let mut problems = Vec::new();
    let text = service_text(object);
    let label = text.strip_prefix(SERVICE_PREFIX).map(str::parse::<Hostname>);
    let label = match label {
        Some(Ok(label)) => Some(label),
        Some(Err(error)) => {
            problems.push(Problem::invalid("spec.service", format!("{text:?}: {error}")));
            None
        }
        None => {
            let message = format!("{text:?} doesn't begin with svc:");
            problems.push(Problem::invalid("spec.service", message));
            None
        }
    };
    problems.extend(bad_tags(&spec.tags));
    let everywhere = (spec.access.as_ref()).map(|rules| access("spec.access", rules, &mut problems));
    let mut ports = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, port) in spec.ports.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        if !seen.insert(port.port) {
            let message = format!("{} is there already: a port has one protocol", port.port);
            problems.push(Problem::invalid(format!("{field}.port"), message));
        }
        ports.extend(port_spec(&field, port, everywhere.as_ref(), &mut problems));
    }
    if spec.ports.is_empty() {
        problems.push(Problem::invalid("spec.ports", "must name at least one port"));
    }
    if spec.http_redirect {
        ports.extend(redirect(&ports, &mut problems));
    }
    let name = NameSpec {
        tags: spec.tags.clone(),
        ports,
        identity: identity(spec.identity.as_ref()),
        // The coordination service offers it for devices alone.
        funnel: None,
        tls: tls(&spec.tls),
    };
    let spec = if problems.is_empty() {
        Ok(name)
    } else {
        Err(problems)
    };
    Claim {
        kind: ClaimKind::Service,
        ..claim_of(object, group(object), label, spec, Vec::new())
    }
}

/// The ProxyGroup that an object names.
pub fn group(object: &TailnetService) -> String {
    object
        .spec
        .proxy_group_name
        .clone()
        .unwrap_or_else(|| DEFAULT.into())
}

/// The text that should be the name of a Service.
pub fn service_text(object: &TailnetService) -> String {
    object
        .spec
        .service
        .clone()
        .unwrap_or_else(|| format!("{SERVICE_PREFIX}{}", object.name_any()))
}

/// The text that should be its label: a tailnet has one namespace for the names of devices and Services.
pub fn label_text(object: &TailnetService) -> String {
    let text = service_text(object);
    text.strip_prefix(SERVICE_PREFIX).unwrap_or(&text).to_owned()
}

fn port_spec(
    field: &str,
    port: &TailnetServicePort,
    everywhere: Option<&Access>,
    problems: &mut Vec<Problem>,
) -> Option<PortSpec> {
    let before = problems.len();
    let number = u16::try_from(port.port).ok().filter(|number| *number > 0);
    if number.is_none() {
        problems.push(Problem::invalid(
            format!("{field}.port"),
            "must be between 1 and 65535",
        ));
    }
    if port.backend.is_some() != port.rules.is_empty() {
        problems.push(Problem::invalid(
            field,
            "exactly one of backend and rules must be set",
        ));
    }
    let allowed = (port.access.as_ref())
        .map(|rules| access(&format!("{field}.access"), rules, problems))
        .or_else(|| everywhere.cloned());
    let protocol = match port.protocol {
        ServiceProtocol::Https => PortProtocol::Https(requests(field, port, allowed.as_ref(), problems)),
        ServiceProtocol::Http => PortProtocol::Http(requests(field, port, allowed.as_ref(), problems)),
        ServiceProtocol::Tls => PortProtocol::Tls(stream(field, port, allowed, problems)?),
        ServiceProtocol::Tcp => PortProtocol::Tcp(stream(field, port, allowed, problems)?),
    };
    (problems.len() == before).then_some(PortSpec {
        port: number?,
        protocol,
    })
}

fn requests(
    field: &str,
    port: &TailnetServicePort,
    allowed: Option<&Access>,
    problems: &mut Vec<Problem>,
) -> Vec<Route> {
    if port.proxy_protocol.is_some() {
        problems.push(Problem::invalid(
            format!("{field}.proxyProtocol"),
            "needs protocol TCP or TLS: over HTTP the caller is told in headers",
        ));
    }
    let routes = routes(field, port.backend.as_ref(), &port.rules, allowed, problems);
    problems.extend(duplicate_routes(&routes));
    routes
}

fn stream(
    field: &str,
    port: &TailnetServicePort,
    access: Option<Access>,
    problems: &mut Vec<Problem>,
) -> Option<Stream> {
    if !port.rules.is_empty() {
        problems.push(Problem::invalid(
            format!("{field}.rules"),
            "need protocol HTTPS or HTTP: of bytes nobody knows a path",
        ));
    }
    let target = port.backend.as_ref()?;
    if target.scheme.is_some() {
        problems.push(Problem::invalid(
            format!("{field}.backend.scheme"),
            "needs protocol HTTPS or HTTP: bytes go on as they are",
        ));
    }
    Some(Stream {
        backend: backend(&format!("{field}.backend.service"), target, problems)?,
        proxy_protocol: port.proxy_protocol.map(|version| match version {
            ProxyProtocol::V1 => config::ProxyProtocol::V1,
            ProxyProtocol::V2 => config::ProxyProtocol::V2,
        }),
        access,
    })
}

fn redirect(ports: &[PortSpec], problems: &mut Vec<Problem>) -> Option<PortSpec> {
    let mut refuse = |message: &str| problems.push(Problem::invalid("spec.httpRedirect", message));
    let leads = |port: &PortSpec| port.port == HTTPS && matches!(port.protocol, PortProtocol::Https(_));
    if !ports.iter().any(leads) {
        refuse("needs a port 443 with protocol HTTPS to lead to");
        return None;
    }
    if ports.iter().any(|port| port.port == HTTP) {
        refuse("port 80 is in spec.ports already");
        return None;
    }
    Some(PortSpec {
        port: HTTP,
        protocol: PortProtocol::RedirectToHttps,
    })
}

#[cfg(test)]
mod tests;
