//! IdentityProvider → [`Claim`]: pure, and every problem names its field.

use kube::ResourceExt;
use postern_crds::{IdentityProvider, IssuerFunnel, Lifetimes, SigningAlgorithm};
use postern_proxy_config::{
    funnel::{Funnel, ISSUER_LIMITS},
    group::{self as config, SecretRef, Signing},
    names,
};

use crate::{
    model::{Claim, FunnelSpec, NameSpec, PortProtocol, PortSpec, Problem},
    name::{claim_of, parse},
    tailnet_ingress::{
        funnel::{per_address, sources},
        validate::{bad_tags, hostname, identity, tls},
    },
};

const HTTPS: u16 = 443;
/// How often keys rotate; it can't be chosen yet.
const ROTATE_AFTER: &str = "90d";
/// Longest name of a ProxyGroup.
const LONGEST_GROUP: usize = 40;

/// Translates one object.
pub fn claim(object: &IdentityProvider) -> Claim {
    let spec = &object.spec;
    let group = group(object);
    let mut problems = Vec::new();
    let hostname = hostname(&hostname_text(object), &mut problems);
    problems.extend(bad_tags(&spec.tags));
    problems.extend(not_yet(object));
    if spec.back_channel.enabled && spec.proxy_group_name.is_some() {
        let message = "needs a ProxyGroup of its own: leave spec.proxyGroupName out";
        problems.push(Problem::invalid("spec.backChannel.enabled", message));
    }
    let mut seconds = |field: &str, text: &str| {
        let seconds = parse::seconds(text).and_then(|seconds| u32::try_from(seconds).ok());
        seconds.filter(|seconds| *seconds > 0).unwrap_or_else(|| {
            let message = format!("{text:?} is not a duration above zero: use one such as 5m, 12h or 30d");
            problems.push(Problem::invalid(field, message));
            0
        })
    };
    let Lifetimes { tokens, refresh } = &spec.lifetimes;
    let registration = &spec.dynamic_registration;
    let documents = hostname
        .as_ref()
        .map(|hostname| names::documents(&group, hostname.as_str()))
        .unwrap_or_default();
    let provider = config::IdentityProvider {
        clients: Some(SecretRef {
            name: names::declared_clients(&documents),
            revision: String::new(),
        }),
        documents,
        signing: match spec.signing.algorithm {
            SigningAlgorithm::Es256 => Signing::Es256,
            SigningAlgorithm::Rs256 => Signing::Rs256,
        },
        token_exchange: spec.token_exchange.enabled,
        back_channel: spec.back_channel.enabled,
        registration_seconds: (registration.enabled)
            .then(|| seconds("spec.dynamicRegistration.expireAfter", &registration.expire_after)),
        token_seconds: seconds("spec.lifetimes.tokens", tokens),
        refresh_seconds: seconds("spec.lifetimes.refresh", refresh),
    };
    let name = NameSpec {
        tags: spec.tags.clone(),
        ports: vec![PortSpec {
            port: HTTPS,
            protocol: PortProtocol::IdentityProvider(provider),
        }],
        identity: identity(None),
        tls: tls(&spec.tls),
        funnel: funnel(&spec.funnel),
    };
    let spec = if problems.is_empty() {
        Ok(name)
    } else {
        Err(problems)
    };
    Claim {
        own_group: object.spec.proxy_group_name.is_none(),
        ..claim_of(object, group, hostname, spec, Vec::new())
    }
}

/// What clients ask, for the internet; which paths these are is the provider's matter.
fn funnel(funnel: &IssuerFunnel) -> Option<Result<FunnelSpec, Vec<Problem>>> {
    let mut problems = Vec::new();
    let sources = sources(&funnel.sources, &mut problems);
    let limits = funnel.limits.as_ref();
    let bounds = limits.and_then(|limits| limits.per_address.as_ref());
    let spec = FunnelSpec {
        config: Funnel {
            ports: [HTTPS].into(),
            // Codes, tokens and clients' secrets are asked for there.
            unauthenticated: sources.is_empty(),
            sources,
            limits: bounds.map_or(ISSUER_LIMITS, per_address),
            ..Funnel::default()
        },
        keys: Vec::new(),
    };
    let result = if problems.is_empty() {
        Ok(spec)
    } else {
        Err(problems)
    };
    funnel.enabled.then_some(result)
}

/// The ProxyGroup that an object names, or one of its own: signing keys share no process with everybody's
/// traffic.
pub fn group(object: &IdentityProvider) -> String {
    object.spec.proxy_group_name.clone().unwrap_or_else(|| {
        let place = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        let hash = place.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        let suffix = format!("-idp-{:08x}", hash & 0xffff_ffff);
        let name = object.name_any().replace('.', "-");
        let start: String = name.chars().take(LONGEST_GROUP - suffix.len()).collect();
        format!("{}{suffix}", start.trim_end_matches('-'))
    })
}

/// The text that should be a hostname.
pub fn hostname_text(object: &IdentityProvider) -> String {
    object.spec.hostname.clone().unwrap_or_else(|| object.name_any())
}

/// What the definition has, and nobody serves.
fn not_yet(object: &IdentityProvider) -> impl Iterator<Item = Problem> {
    let spec = &object.spec;
    [
        (
            "spec.clientIdMetadataDocuments.enabled",
            spec.client_id_metadata_documents.enabled,
        ),
        (
            "spec.signing.rotateAfter",
            spec.signing.rotate_after != ROTATE_AFTER,
        ),
    ]
    .into_iter()
    .filter(|(_, wanted)| *wanted)
    .map(|(field, _)| Problem::invalid(field, "is not served yet: leave it out"))
}

#[cfg(test)]
mod tests;
