//! TailnetIngress → [`Claim`]: pure, and every problem names its field.

use std::str::FromStr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use postern_crds::{
    Backend, DEFAULT, Identity, IdentityHeaders, IngressRule, Limits, PathType, Scheme, TailnetIngress,
    Timeouts, Tls,
    access::{Access, Principal},
};
use postern_proxy_config::{access as config_access, group as config};

use crate::{
    model::{
        BackendRef, Claim, Hostname, NameSpec, Port, PortProtocol, PortSpec, Problem, Route, TlsRef,
        duplicate_routes, is_tag,
    },
    name::{claim_of, parse},
    tailnet_ingress::funnel::{funnel, quota},
};

/// Translates one object.
pub fn claim(object: &TailnetIngress) -> Claim {
    let spec = &object.spec;
    let mut problems = Vec::new();
    let hostname = hostname(&hostname_text(object), &mut problems);
    problems.extend(bad_tags(&spec.tags));
    let default_access = spec
        .access
        .as_ref()
        .map(|a| access("spec.access", a, &mut problems));
    let mut routes = routes(
        "spec",
        spec.backend.as_ref(),
        &spec.rules,
        default_access.as_ref(),
        &mut problems,
    );
    if spec.backend.is_some() != spec.rules.is_empty() {
        problems.push(Problem::invalid(
            "spec",
            "exactly one of backend and rules must be set",
        ));
    }
    problems.extend(duplicate_routes(&routes));
    let funnel = (spec.funnel.as_ref()).map(|f| funnel(f, spec.backend.is_some(), &mut routes));
    if let Some(wanted) = spec.funnel.as_ref().filter(|wanted| wanted.only) {
        // What isn't to be on the tailnet isn't there while it can't be on the internet either.
        problems.extend(funnel.iter().filter_map(|f| f.as_ref().err()).flatten().cloned());
        if spec.http_redirect && wanted.ports.contains(&443) {
            let message =
                "leads to port 443, which spec.funnel.only takes from the tailnet: take one of them away";
            problems.push(Problem::invalid("spec.httpRedirect", message));
        }
    }
    let mut ports = NameSpec::https_ports(routes.clone(), spec.http_redirect);
    if let Some(Ok(funnel)) = &funnel {
        let more = funnel.config.ports.iter().filter(|port| **port != 443);
        ports.extend(more.map(|port| PortSpec {
            port: *port,
            protocol: PortProtocol::Https(routes.clone()),
        }));
    }

    let name = NameSpec {
        tags: spec.tags.clone(),
        ports,
        identity: identity(spec.identity.as_ref()),
        funnel,
        tls: tls(&spec.tls),
    };
    claim_of(
        object,
        group(object),
        hostname,
        if problems.is_empty() {
            Ok(name)
        } else {
            Err(problems)
        },
        Vec::new(),
    )
}

/// The ProxyGroup that an object names.
pub fn group(object: &TailnetIngress) -> String {
    object
        .spec
        .proxy_group_name
        .clone()
        .unwrap_or_else(|| DEFAULT.into())
}

/// The text that should be a hostname.
pub fn hostname_text(object: &TailnetIngress) -> String {
    object.spec.hostname.clone().unwrap_or_else(|| object.name_any())
}

/// The text of `spec.hostname` as a label.
pub fn hostname(text: &str, problems: &mut Vec<Problem>) -> Option<Hostname> {
    text.parse()
        .inspect_err(|error: &<Hostname as FromStr>::Err| {
            problems.push(Problem::invalid("spec.hostname", error.to_string()));
        })
        .ok()
}

/// Texts that aren't tags.
pub fn bad_tags(tags: &[String]) -> impl Iterator<Item = Problem> {
    (tags.iter().enumerate())
        .filter(|(_, tag)| !is_tag(tag))
        .map(|(i, tag)| {
            Problem::invalid(
                format!("spec.tags[{i}]"),
                format!("{tag:?} is not a tag: use tag:NAME"),
            )
        })
}

/// The identity headers of a spec.
pub fn identity(identity: Option<&Identity>) -> config::Identity {
    let Identity {
        headers,
        app_capabilities,
    } = identity.cloned().unwrap_or_default();
    config::Identity {
        headers: match headers {
            IdentityHeaders::Tailscale => config::IdentityHeaders::Tailscale,
            IdentityHeaders::None => config::IdentityHeaders::None,
        },
        app_capabilities,
    }
}

/// The certificates that a spec brings.
pub fn tls(tls: &[Tls]) -> Vec<TlsRef> {
    (tls.iter().enumerate())
        .map(|(i, tls)| TlsRef {
            field: format!("spec.tls[{i}].secretName"),
            hosts: tls.hosts.iter().map(|h| h.to_ascii_lowercase()).collect(),
            secret: tls.secret_name.clone(),
        })
        .collect()
}

/// Where requests go: all to `backend`, or each as `rules` say, and `everywhere` rules where a rule doesn't say who
/// gets in. `field` is the place of both in the object.
pub fn routes(
    field: &str,
    backend: Option<&Backend>,
    rules: &[IngressRule],
    everywhere: Option<&config_access::Access>,
    problems: &mut Vec<Problem>,
) -> Vec<Route> {
    let short = backend.map(|backend| IngressRule {
        path: None,
        rewrite: None,
        backend: backend.clone(),
        access: None,
        limits: None,
        timeouts: None,
    });
    let mut routes: Vec<Route> = short
        .iter()
        .filter_map(|rule| route(field, rule, problems))
        .collect();
    for (i, rule) in rules.iter().enumerate() {
        routes.extend(route(&format!("{field}.rules[{i}]"), rule, problems));
    }
    for route in &mut routes {
        route.access = route.access.take().or_else(|| everywhere.cloned());
    }
    routes
}

/// A rule; `field` is its place in the object.
pub fn route(field: &str, rule: &IngressRule, problems: &mut Vec<Problem>) -> Option<Route> {
    let before = problems.len();
    let path = match &rule.path {
        None => config::PathMatch::Prefix("/".into()),
        Some(path) => {
            if !path.value.starts_with('/') {
                problems.push(Problem::invalid(
                    format!("{field}.path.value"),
                    "must begin with '/'",
                ));
            }
            match path.type_ {
                PathType::Prefix => config::PathMatch::Prefix(path.value.clone()),
                PathType::Exact => config::PathMatch::Exact(path.value.clone()),
            }
        }
    };
    let replace_prefix = rule.rewrite.as_ref().and_then(|r| r.replace_prefix.clone());
    if replace_prefix.is_some() && matches!(path, config::PathMatch::Exact(_)) {
        let message = "needs path.type Prefix: an exact path has no prefix to replace";
        problems.push(Problem::invalid(
            format!("{field}.rewrite.replacePrefix"),
            message,
        ));
    }
    let access = rule
        .access
        .as_ref()
        .map(|a| access(&format!("{field}.access"), a, problems));
    let limits = limits(field, rule.limits.as_ref(), problems);
    let timeouts = timeouts(field, rule.timeouts.as_ref(), problems);
    let backend = backend(&format!("{field}.backend.service"), &rule.backend, problems)?;
    (problems.len() == before).then_some(Route {
        host: None,
        path,
        replace_prefix,
        backend,
        access,
        funnel: false,
        limits,
        timeouts,
    })
}

/// A Service that is named; `field` is its place in the object.
pub fn backend(field: &str, backend: &Backend, problems: &mut Vec<Problem>) -> Option<BackendRef> {
    let port = match &backend.service.port {
        IntOrString::Int(number) => match u16::try_from(*number) {
            Ok(number) if number > 0 => Port::Number(number),
            _ => {
                problems.push(Problem::invalid(
                    format!("{field}.port"),
                    "must be between 1 and 65535",
                ));
                return None;
            }
        },
        IntOrString::String(name) => Port::Name(name.clone()),
    };
    Some(BackendRef {
        field: field.to_owned(),
        service: backend.service.name.clone(),
        port,
        scheme: backend.scheme.map(|scheme| match scheme {
            Scheme::Http => config::Scheme::Http,
            Scheme::H2c => config::Scheme::H2c,
            Scheme::Https => config::Scheme::Https,
            Scheme::HttpsInsecure => config::Scheme::HttpsInsecure,
        }),
    })
}

/// Who gets in; `field` is its place in the object.
pub fn access(field: &str, access: &Access, problems: &mut Vec<Problem>) -> config_access::Access {
    let allow = access.allow.iter().enumerate().filter_map(|(i, principal)| {
        let field = format!("{field}.allow[{i}]");
        match one_principal(principal) {
            Ok(principal) => Some(principal),
            Err(message) => {
                problems.push(Problem::invalid(field, message));
                None
            }
        }
    });
    config_access::Access {
        allow: allow.collect(),
    }
}

fn one_principal(principal: &Principal) -> Result<config_access::Principal, String> {
    use config_access::Principal as P;
    let Principal {
        user,
        group,
        tag,
        capability,
        source,
    } = principal;
    match (user, group, tag, capability, source) {
        (Some(user), None, None, None, None) => Ok(P::User(user.clone())),
        (None, Some(group), None, None, None) => Ok(P::Group(group.clone())),
        (None, None, Some(tag), None, None) => Ok(P::Tag(tag.clone())),
        (None, None, None, Some(capability), None) => Ok(P::Capability(capability.clone())),
        (None, None, None, None, Some(source)) => match source.parse::<IpNet>() {
            Ok(net) => Ok(P::Source(net)),
            Err(_) => Err(format!("{source:?} is not a CIDR, such as 100.64.0.0/10")),
        },
        _ => Err("exactly one of user, group, tag, capability and source must be set".into()),
    }
}

fn limits(field: &str, limits: Option<&Limits>, problems: &mut Vec<Problem>) -> config::Limits {
    let per_user = limits.and_then(|l| l.per_user.as_ref()).and_then(quota);
    let Some(quantity) = limits.and_then(|l| l.body_bytes.as_ref()) else {
        return config::Limits {
            body_bytes: None,
            per_user,
        };
    };
    let bytes = match quantity {
        IntOrString::Int(bytes) => u64::try_from(*bytes).ok(),
        IntOrString::String(text) => parse::bytes(text),
    };
    if bytes.is_none() {
        let message = format!("{quantity:?} is not a size: use a number of bytes or a quantity such as 8Mi");
        problems.push(Problem::invalid(format!("{field}.limits.bodyBytes"), message));
    }
    config::Limits {
        body_bytes: bytes,
        per_user,
    }
}

fn timeouts(field: &str, timeouts: Option<&Timeouts>, problems: &mut Vec<Problem>) -> config::Timeouts {
    let mut result = config::Timeouts::default();
    let Some(Timeouts {
        connect,
        response,
        idle,
    }) = timeouts
    else {
        return result;
    };
    for (name, text, target) in [
        ("connect", connect, &mut result.connect_ms),
        ("response", response, &mut result.response_ms),
        ("idle", idle, &mut result.idle_ms),
    ] {
        let Some(text) = text else { continue };
        match parse::milliseconds(text) {
            Some(ms) if ms > 0 => *target = ms,
            _ => problems.push(Problem::invalid(
                format!("{field}.timeouts.{name}"),
                format!("{text:?} is not a duration above zero: use one such as 500ms, 10s, 5m or 1h"),
            )),
        }
    }
    result
}

#[cfg(test)]
mod tests;
