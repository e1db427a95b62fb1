//! What has to be done for one object itself. Pure; the group plans what is served.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::ResourceExt;
use postern_crds::{AllowedNamespaces, NamespacesFrom, ProxyGroup, ProxyGroupSpec, conditions::reasons};
use postern_proxy_config::names;

use crate::{
    labels::{self, MADE_BY_DEFAULT, MANAGED_BY, OWNER, OWNER_UID, POSTERN, ROLE_OWN_CERTIFICATE, SOURCE},
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
    /// Its ProxyGroup exists.
    pub has_group: bool,
}

/// What has to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NamePlan {
    /// The ProxyGroup to make.
    pub make_group: Option<ProxyGroup>,
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
        has_group,
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
        make_group: (claim.group_is_made() && !has_group && claim.spec.is_ok()).then(|| group(claim)),
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

/// The group for objects that name none, or for this one alone.
fn group(claim: &Claim) -> ProxyGroup {
    let own = || AllowedNamespaces {
        from: NamespacesFrom::Selector,
        selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(
                "kubernetes.io/metadata.name".into(),
                claim.owner.namespace.clone(),
            )])),
            ..LabelSelector::default()
        }),
    };
    ProxyGroup {
        metadata: ObjectMeta {
            name: Some(claim.group.clone()),
            labels: Some(BTreeMap::from([(MANAGED_BY.into(), POSTERN.into())])),
            annotations: Some(BTreeMap::from([(MADE_BY_DEFAULT.into(), "true".into())])),
            ..ObjectMeta::default()
        },
        spec: ProxyGroupSpec {
            allowed_namespaces: if claim.own_group {
                own()
            } else {
                AllowedNamespaces::default()
            },
            ..ProxyGroupSpec::default()
        },
        status: None,
    }
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
