//! Ingress of our class → [`Claim`]: pure, and every problem names its field.
//!
//! Annotations of two prefixes are read: ours, and those of the Tailscale operator, so that an Ingress can
//! move over as it is. What differs from that operator: `Exact` is exact, and a path said twice is refused.

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressSpec};
use kube::ResourceExt;
use postern_crds::{DEFAULT, conditions::reasons};
use postern_proxy_config::group as config;

use crate::{
    model::{BackendRef, Claim, Hostname, NameSpec, Port, Problem, Route, TlsRef, duplicate_routes, is_tag},
    name::claim_of,
};

const OURS: &str = "postern.dev/";
const UPSTREAM: &str = "tailscale.com/";

const HOSTNAME: &str = "hostname";
const TAGS: &str = "tags";
const PROXY_GROUP: &str = "proxy-group";
const FUNNEL: &str = "funnel";
const HTTP_REDIRECT: &str = "http-redirect";

/// Translates one object.
pub fn claim(object: &Ingress) -> Claim {
    let mut problems = Vec::new();
    let mut warnings = unknown_annotations(object);
    let empty = IngressSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);

    let (hostname_field, hostname_text) = hostname_text(object);
    let hostname = match hostname_text.parse::<Hostname>() {
        Ok(hostname) => Some(hostname),
        Err(error) => {
            problems.push(Problem::invalid(hostname_field, error.to_string()));
            None
        }
    };
    let tags: Vec<String> = annotation(object, TAGS)
        .map(|(_, text)| {
            text.split(',')
                .map(|t| t.trim().to_owned())
                .filter(|t| !t.is_empty())
                .collect()
        })
        .unwrap_or_default();
    if let Some((key, _)) = annotation(object, TAGS) {
        for tag in tags.iter().filter(|t| !is_tag(t)) {
            let message = format!("{tag:?} is not a tag: use tag:NAME, several with commas");
            problems.push(Problem::invalid(annotation_field(&key), message));
        }
    }
    let http_redirect = flag(object, HTTP_REDIRECT, &mut problems);
    if flag(object, FUNNEL, &mut problems) {
        warnings.push(Problem::new(
            reasons::FUNNEL_NEEDS_LOCK,
            annotation_field(&annotation(object, FUNNEL).map(|(key, _)| key).unwrap_or_default()),
            "is not honoured: a name is opened to the internet only with a lock on it, which an Ingress can't carry; \
             it is served on the tailnet alone",
        ));
    }

    let tls: Vec<TlsRef> = (spec.tls.iter().flatten().enumerate())
        .filter_map(|(i, tls)| {
            Some(TlsRef {
                field: format!("spec.tls[{i}].secretName"),
                hosts: tls
                    .hosts
                    .iter()
                    .flatten()
                    .map(|h| h.to_ascii_lowercase())
                    .collect(),
                secret: tls.secret_name.clone().filter(|s| !s.is_empty())?,
            })
        })
        .collect();
    let routes = routes(spec, hostname.as_ref(), &tls, &mut problems, &mut warnings);
    if routes.is_empty() && problems.is_empty() {
        problems.push(Problem::invalid(
            "spec",
            "has no backend that could be served: set defaultBackend or rules",
        ));
    }
    problems.extend(duplicate_routes(&routes));
    let name = NameSpec {
        tags,
        ports: NameSpec::https_ports(routes, http_redirect),
        identity: config::Identity::default(),
        funnel: None,
        tls,
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
        warnings,
    )
}

/// The ProxyGroup that an object names.
pub fn group(object: &Ingress) -> String {
    annotation(object, PROXY_GROUP).map_or_else(|| DEFAULT.into(), |(_, value)| value)
}

/// The text that should be a hostname and the field that it is from: the annotation, else the first label
/// of the first host whose certificate is left to us, else the object's name.
pub fn hostname_text(object: &Ingress) -> (String, String) {
    if let Some((key, value)) = annotation(object, HOSTNAME) {
        return (annotation_field(&key), value);
    }
    let blocks = object
        .spec
        .iter()
        .flat_map(|s| s.tls.iter().flatten())
        .enumerate();
    for (i, block) in blocks {
        let own = block.secret_name.as_ref().is_some_and(|s| !s.is_empty());
        if let Some(host) = block.hosts.iter().flatten().next().filter(|_| !own) {
            let label = host.split('.').next().unwrap_or(host).to_ascii_lowercase();
            return (format!("spec.tls[{i}].hosts[0]"), label);
        }
    }
    ("metadata.name".into(), object.name_any())
}

fn routes(
    spec: &IngressSpec,
    hostname: Option<&Hostname>,
    tls: &[TlsRef],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Vec<Route> {
    let mut routes = Vec::new();
    for (i, rule) in spec.rules.iter().flatten().enumerate() {
        let field = format!("spec.rules[{i}]");
        let host = match host(rule.host.as_deref(), hostname, tls) {
            Ok(host) => host,
            Err(message) => {
                warnings.push(Problem::new(
                    reasons::IGNORED_RULE,
                    format!("{field}.host"),
                    message,
                ));
                continue;
            }
        };
        let Some(http) = &rule.http else {
            warnings.push(Problem::new(
                reasons::IGNORED_RULE,
                field,
                "has no http part, so it serves nothing",
            ));
            continue;
        };
        for (j, path) in http.paths.iter().enumerate() {
            routes.extend(path_route(
                &format!("{field}.http.paths[{j}]"),
                host.clone(),
                path,
                problems,
            ));
        }
    }
    if let Some(default) = &spec.default_backend {
        let root =
            |r: &Route| r.host.is_none() && matches!(&r.path, config::PathMatch::Prefix(p) if p == "/");
        // A rule for everything says the same more precisely.
        if !routes.iter().any(root) {
            routes.extend(
                backend("spec.defaultBackend", default, problems)
                    .map(|backend| plain_route(None, config::PathMatch::Prefix("/".into()), backend)),
            );
        }
    }
    routes
}

/// Which host a rule is for: every host of the name, or one of an own certificate.
fn host(host: Option<&str>, hostname: Option<&Hostname>, tls: &[TlsRef]) -> Result<Option<String>, String> {
    let Some(host) = host.filter(|h| !h.is_empty()) else {
        return Ok(None);
    };
    let host = host.to_ascii_lowercase();
    let covers = |pattern: &String| match pattern.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => *pattern == host,
    };
    if tls.iter().flat_map(|t| &t.hosts).any(covers) {
        return Ok(Some(host));
    }
    let label = host.split('.').next().unwrap_or(&host);
    if hostname.is_some_and(|h| h.as_str() == label) {
        return Ok(None);
    }
    Err(format!(
        "{host:?} is not served: neither the device name nor in spec.tls with a secretName of its own"
    ))
}

fn path_route(
    field: &str,
    host: Option<String>,
    path: &HTTPIngressPath,
    problems: &mut Vec<Problem>,
) -> Option<Route> {
    let text = path
        .path
        .clone()
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| "/".into());
    if !text.starts_with('/') {
        problems.push(Problem::invalid(format!("{field}.path"), "must begin with '/'"));
        return None;
    }
    let path_match = match path.path_type.as_str() {
        "Exact" => config::PathMatch::Exact(text),
        "Prefix" | "ImplementationSpecific" => config::PathMatch::Prefix(text),
        other => {
            let message = format!("{other:?} is unknown: use Prefix or Exact");
            problems.push(Problem::invalid(format!("{field}.pathType"), message));
            return None;
        }
    };
    Some(plain_route(
        host,
        path_match,
        backend(&format!("{field}.backend"), &path.backend, problems)?,
    ))
}

fn plain_route(host: Option<String>, path: config::PathMatch, backend: BackendRef) -> Route {
    Route {
        host,
        path,
        replace_prefix: None,
        backend,
        access: None,
        funnel: false,
        limits: config::Limits::default(),
        timeouts: config::Timeouts::default(),
    }
}

fn backend(field: &str, backend: &IngressBackend, problems: &mut Vec<Problem>) -> Option<BackendRef> {
    let Some(service) = &backend.service else {
        let message = "only a Service can be a backend: set service instead of resource";
        problems.push(Problem::new(reasons::UNSUPPORTED_BACKEND, field, message));
        return None;
    };
    let port = service
        .port
        .as_ref()
        .and_then(|port| match (&port.name, port.number) {
            (Some(name), _) if !name.is_empty() => Some(Port::Name(name.clone())),
            (_, Some(number)) => u16::try_from(number).ok().filter(|n| *n > 0).map(Port::Number),
            _ => None,
        });
    let Some(port) = port else {
        problems.push(Problem::invalid(
            format!("{field}.service.port"),
            "needs a number or a name",
        ));
        return None;
    };
    Some(BackendRef {
        field: format!("{field}.service"),
        service: service.name.clone(),
        port,
        scheme: None,
    })
}

/// Reads an annotation; our prefix is stronger.
fn annotation(object: &Ingress, name: &str) -> Option<(String, String)> {
    [OURS, UPSTREAM].iter().find_map(|prefix| {
        let key = format!("{prefix}{name}");
        let value = object.annotations().get(&key)?.trim().to_owned();
        (!value.is_empty()).then_some((key, value))
    })
}

fn flag(object: &Ingress, name: &str, problems: &mut Vec<Problem>) -> bool {
    match annotation(object, name) {
        None => false,
        Some((key, value)) => value.parse().unwrap_or_else(|_| {
            problems.push(Problem::invalid(
                annotation_field(&key),
                format!("{value:?} is neither true nor false"),
            ));
            false
        }),
    }
}

fn annotation_field(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

fn unknown_annotations(object: &Ingress) -> Vec<Problem> {
    let known = [HOSTNAME, TAGS, PROXY_GROUP, FUNNEL, HTTP_REDIRECT];
    (object.annotations().keys())
        .filter(|key| {
            let name = key.strip_prefix(OURS).or_else(|| key.strip_prefix(UPSTREAM));
            name.is_some_and(|name| !known.contains(&name))
        })
        .map(|key| {
            let message = format!("is not known and has no effect; known are {}", known.join(", "));
            Problem::new(reasons::IGNORED_ANNOTATION, annotation_field(key), message)
        })
        .collect()
}

#[cfg(test)]
mod tests;
