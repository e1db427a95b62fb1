//! `spec.funnel`: which routes are public, and who gets in. Nothing is by accident: what isn't said in full
//! stays on the tailnet, and the object says why. Pure.

use std::num::NonZeroU32;

use ipnet::IpNet;
use postern_crds::{AddressQuota, Funnel, FunnelAuth, Quota, conditions::reasons};
use postern_proxy_config::{
    funnel::{self as config, FunnelLimits},
    group::PathMatch,
};

use crate::model::{FunnelSpec, KeysKind, KeysRef, Problem, Route};

const FIELD: &str = "spec.funnel";

/// Translates it, and marks the routes that are public.
///
/// # Errors
/// Every reason why nothing is public.
pub fn funnel(funnel: &Funnel, short_form: bool, routes: &mut [Route]) -> Result<FunnelSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    if funnel.ports.is_empty() || funnel.ports.iter().any(|port| !config::PORTS.contains(port)) {
        problems.push(invalid(".ports", "Funnel has the ports 443, 8443 and 10000"));
    }
    let public = public(funnel, short_form, routes, &mut problems);
    let keys = keys(funnel.auth.as_ref(), &mut problems);
    let sources = sources(&funnel.sources, &mut problems);
    if funnel.unauthenticated && funnel.auth.is_some() {
        problems.push(invalid(
            ".unauthenticated",
            "contradicts auth: take one of them away",
        ));
    } else if !funnel.unauthenticated && funnel.auth.is_none() && funnel.sources.is_empty() {
        problems.push(Problem::new(
            reasons::FUNNEL_NEEDS_LOCK,
            FIELD,
            "doesn't say who may come in from the internet: name keys (auth) or networks (sources), or say \
             unauthenticated: true where everybody may; until then nothing is public",
        ));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    for (route, public) in routes.iter_mut().zip(public) {
        route.funnel = public;
    }
    let limits = funnel.limits.clone().unwrap_or_default();
    Ok(FunnelSpec {
        config: config::Funnel {
            ports: funnel.ports.iter().copied().collect(),
            only: funnel.only,
            keys: None,
            sources,
            unauthenticated: funnel.unauthenticated,
            limits: FunnelLimits {
                per_key: limits.per_key.as_ref().and_then(quota),
                ..per_address(&limits.per_address.unwrap_or_default())
            },
        },
        keys,
    })
}

/// A quota, unless it bounds nothing.
pub fn quota(quota: &Quota) -> Option<config::Quota> {
    let quota = config::Quota {
        requests_per_minute: quota.requests_per_minute.and_then(NonZeroU32::new),
        concurrent: quota.concurrent.and_then(NonZeroU32::new),
    };
    (quota != config::Quota::default()).then_some(quota)
}

/// Bounds on each address alone.
pub fn per_address(bounds: &AddressQuota) -> FunnelLimits {
    let requests = Quota {
        requests_per_minute: bounds.requests_per_minute,
        concurrent: bounds.concurrent,
    };
    FunnelLimits {
        per_key: None,
        per_address: quota(&requests),
        connections_per_address: bounds.connections.and_then(NonZeroU32::new),
    }
}

/// For each route whether it is named.
fn public(funnel: &Funnel, short_form: bool, routes: &[Route], problems: &mut Vec<Problem>) -> Vec<bool> {
    if funnel.rules.is_empty() {
        if !short_form {
            let message = "has to name the paths of spec.rules that are public";
            problems.push(invalid(".rules", message));
        }
        return vec![short_form; routes.len()];
    }
    let path = |route: &Route| match &route.path {
        PathMatch::Prefix(path) | PathMatch::Exact(path) => path.clone(),
    };
    for (i, named) in funnel.rules.iter().enumerate() {
        if !routes.iter().any(|route| path(route) == *named) {
            problems.push(invalid(
                format!(".rules[{i}]"),
                format!("no rule has the path {named:?}: write it as in spec.rules"),
            ));
        }
    }
    (routes.iter())
        .map(|route| funnel.rules.contains(&path(route)))
        .collect()
}

fn keys(auth: Option<&FunnelAuth>, problems: &mut Vec<Problem>) -> Vec<KeysRef> {
    let Some(FunnelAuth { bearer_keys, basic }) = auth else {
        return Vec::new();
    };
    let given = [
        ("bearerKeys", bearer_keys, KeysKind::Bearer),
        ("basic", basic, KeysKind::Basic),
    ];
    let keys: Vec<KeysRef> = (given.into_iter())
        .filter_map(|(name, from, kind)| {
            Some(KeysRef {
                field: format!("{FIELD}.auth.{name}.secretRef.name"),
                secret: from.as_ref()?.secret_ref.name.clone(),
                kind,
            })
        })
        .collect();
    if keys.is_empty() {
        problems.push(invalid(".auth", "bearerKeys or basic must be set"));
    }
    keys
}

/// Networks that clients have to be in.
pub fn sources(sources: &[String], problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for (i, text) in sources.iter().enumerate() {
        let field = format!(".sources[{i}]");
        match text.parse::<IpNet>() {
            Ok(net) if net.prefix_len() == 0 => {
                let message = "is everybody: leave sources out if that is meant";
                problems.push(invalid(field, message));
            }
            Ok(net) => networks.push(net),
            Err(_) => {
                let message = format!("{text:?} is not a CIDR, such as 192.0.2.0/24");
                problems.push(invalid(field, message));
            }
        }
    }
    networks
}

fn invalid(field: impl AsRef<str>, message: impl Into<String>) -> Problem {
    Problem::invalid(format!("{FIELD}{}", field.as_ref()), message)
}
