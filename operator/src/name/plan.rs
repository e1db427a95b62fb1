//! What has to be done for one object itself. Pure; the group plans what is served.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use postern_crds::{DEFAULT, conditions::reasons};
use postern_proxy_config::names;

use crate::{
    labels::{self, OWNER, OWNER_UID, ROLE_OWN_CERTIFICATE, SOURCE},
    model::{Claim, Problem},
    name::{dereference::Found, judge::Judgement, keys},
};

const KEYS: [&str; 2] = ["tls.crt", "tls.key"];

/// What the plan is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The operator's namespace.
    pub namespace: &'a str,
    /// The object's claim.
    pub claim: &'a Claim,
    /// The object is of ours still: an Ingress may have changed its class.
    pub ours: bool,
    /// What became of the claim.
    pub judgement: &'a Judgement,
    /// Its certificates.
    pub certificates: Vec<Found>,
    /// Its keys.
    pub keys: Vec<keys::Found>,
    /// Copies that exist.
    pub copies: Vec<String>,
    /// A device is recorded for it, or something else is still to go.
    pub kept: bool,
    /// The ProxyGroup `default` exists.
    pub has_default_group: bool,
}

/// What has to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NamePlan {
    /// Make the ProxyGroup `default`.
    pub make_default_group: bool,
    /// Set (true) or take away (false) the finalizer.
    pub finalizer: Option<bool>,
    /// Copies to apply.
    pub copies: Vec<Secret>,
    /// Copies to delete.
    pub prune: Vec<String>,
    /// Certificates and keys that can't be used.
    pub problems: Vec<Problem>,
}

/// Plans.
pub fn plan(inputs: Inputs<'_>) -> NamePlan {
    let Inputs {
        namespace,
        claim,
        ours,
        judgement,
        certificates,
        keys,
        copies,
        kept,
        has_default_group,
    } = inputs;
    if claim.deleting || !ours {
        // The finalizer stays until the last device is gone: its record tells, not the object.
        let done = claim.held && !kept;
        return NamePlan {
            finalizer: done.then_some(false),
            prune: copies,
            ..NamePlan::default()
        };
    }
    let mut plan = NamePlan {
        make_default_group: claim.group == DEFAULT && !has_default_group && claim.spec.is_ok(),
        finalizer: (!claim.held && judgement.accepted.is_ok()).then_some(true),
        ..NamePlan::default()
    };
    if judgement.accepted.is_ok()
        && let Some(hostname) = &claim.hostname
    {
        for (tls, secret) in certificates {
            let name = labels::own_certificate(&claim.group, hostname.as_str(), &tls.secret);
            match secret.and_then(|secret| copy(namespace, claim, &name, &tls.field, &secret)) {
                Ok(copy) => plan.copies.push(copy),
                Err(problem) => plan.problems.push(problem),
            }
            plan.prune.push(name);
        }
        if !keys.is_empty() {
            let (copy, problems) = keys::copy(namespace, claim, hostname, keys);
            plan.copies.extend(copy);
            plan.problems.extend(problems);
            plan.prune.push(names::keys(&claim.group, hostname.as_str()));
        }
        let named = std::mem::take(&mut plan.prune);
        plan.prune = copies.into_iter().filter(|copy| !named.contains(copy)).collect();
    }
    plan
}

fn copy(namespace: &str, claim: &Claim, name: &str, field: &str, source: &Secret) -> Result<Secret, Problem> {
    let data = source.data.clone().unwrap_or_default();
    let missing = KEYS
        .iter()
        .find(|key| data.get(**key).is_none_or(|value| value.0.is_empty()));
    if let Some(key) = missing {
        let message = format!(
            "Secret {} lacks {key}: it must be of type kubernetes.io/tls",
            source.name_any()
        );
        return Err(Problem::new(reasons::INVALID_SECRET, field, message));
    }
    let mut metadata = labels::group_meta(namespace, &claim.group, ROLE_OWN_CERTIFICATE, name.to_owned());
    metadata
        .labels
        .get_or_insert_default()
        .insert(OWNER_UID.into(), claim.owner.uid.clone());
    let revision = source.resource_version().unwrap_or_default();
    let owner = format!(
        "{}/{}/{}",
        claim.owner.kind, claim.owner.namespace, claim.owner.name
    );
    metadata.annotations = Some(BTreeMap::from([(OWNER.into(), owner), (SOURCE.into(), revision)]));
    Ok(Secret {
        metadata,
        type_: Some("kubernetes.io/tls".into()),
        data: Some(
            data.into_iter()
                .filter(|(key, _)| KEYS.contains(&key.as_str()))
                .collect(),
        ),
        ..Secret::default()
    })
}

#[cfg(test)]
mod tests;
