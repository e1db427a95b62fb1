//! What the front ends share: an object's claim is judged, its Secrets are copied, its status is told.
//!
//! A front end brings its translation (`validate.rs`) and its way to tell a status (`status.rs`); the steps
//! between are here.

pub mod apply;
pub mod backends;
pub mod claims;
pub mod dereference;
pub mod judge;
pub mod keys;
pub mod parse;
pub mod plan;
pub mod status;

use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, Resource, ResourceExt, runtime::controller::Action};
use postern_proxy_config::group::Owner;

use crate::{
    apply::Kind,
    context::{self, Context, Error},
    labels::{NAME_FINALIZER, ROLE_KEYS, ROLE_OWN_CERTIFICATE},
    model::{Claim, ClaimKind, Hostname, NameSpec, Problem},
    record::Record,
    report,
    stores::{Filter, Stores},
};
use claims::Claims;
use status::View;

/// How old a copy of a renewed certificate or a changed key may be.
const COPIES: Duration = Duration::from_secs(30);

/// What a front end knows about an object that its claim doesn't say.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// It is of ours still: an Ingress may have changed its class.
    pub ours: bool,
    /// Something beside devices has to go before the object may.
    pub kept: bool,
}

/// The steps that front ends share: reads, judges, plans and applies, and returns what there is to say.
///
/// # Errors
/// When the API server can't be asked or told.
pub async fn reconcile<K: Kind>(
    context: &Context,
    api: &Api<K>,
    object: &K,
    claim: Claim,
    standing: Standing,
) -> Result<View, Error> {
    let stores = &context.stores;
    let certificates = dereference::certificates(context, &claim).await?;
    let keys = dereference::keys(context, &claim).await?;
    let mut judgement = judge::judge(&claim, &Claims::collect(stores), stores);
    let records = records(stores, &claim.owner.uid);
    let plan = plan::plan(plan::Inputs {
        namespace: &context.settings.namespace,
        claim: &claim,
        ours: standing.ours,
        judgement: &judgement,
        certificates,
        keys,
        copies: ([ROLE_OWN_CERTIFICATE, ROLE_KEYS].iter())
            .flat_map(|role| stores.secrets_of_owner(role, &claim.owner.uid))
            .map(|secret| secret.name_any())
            .collect(),
        kept: standing.kept || !records.is_empty(),
        has_group: stores.proxy_group(&claim.group).is_some(),
    });
    apply::apply(context, api, object, &plan).await?;

    judgement.unresolved.extend(plan.problems);
    let reports = report::reports(stores, &claim.group);
    // After a broken change of the name, the name that it had before is what serves.
    let wanted = claim.hostname.as_ref().map(Hostname::as_str);
    let record = (records
        .iter()
        .find(|record| Some(record.hostname.as_str()) == wanted))
    .or_else(|| records.iter().find(|record| record.released.is_none()))
    .cloned();
    let name = record.as_ref().map(|record| record.hostname.as_str()).or(wanted);
    Ok(View {
        report: name.and_then(|name| report::of_name(&reports, name, &claim.owner.uid)),
        refused: report::refused(&reports),
        claim,
        judgement,
        record,
    })
}

/// Secrets of other namespaces can be read but not watched, so they are looked at often.
pub fn look_again<K: Resource>(object: &K, view: &View) -> Action {
    match &view.claim.spec {
        Ok(spec) if !spec.tls.is_empty() || !spec.keys().is_empty() => Action::requeue(COPIES),
        _ => context::look_again(object),
    }
}

fn records(stores: &Stores, uid: &str) -> Vec<Record> {
    stores
        .node_secrets(&Filter::Owner(uid))
        .iter()
        .filter_map(|secret| Record::of(secret))
        .collect()
}

/// A claim with what every object's metadata says.
pub fn claim_of<K>(
    object: &K,
    group: String,
    hostname: Option<Hostname>,
    spec: Result<NameSpec, Vec<Problem>>,
    warnings: Vec<Problem>,
) -> Claim
where
    K: Resource<DynamicType = ()>,
{
    Claim {
        owner: owner_of(object),
        kind: ClaimKind::Device,
        created: created(object),
        generation: object.meta().generation.unwrap_or_default(),
        deleting: object.meta().deletion_timestamp.is_some(),
        held: is_held(object),
        group,
        own_group: false,
        hostname,
        spec,
        warnings,
    }
}

/// An object as reports and messages name it.
pub fn owner_of<K: Resource<DynamicType = ()>>(object: &K) -> Owner {
    Owner {
        kind: K::kind(&()).into_owned(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
    }
}

/// When an object was made.
pub fn created<K: Resource>(object: &K) -> Timestamp {
    object
        .meta()
        .creation_timestamp
        .as_ref()
        .map(|t| t.0)
        .unwrap_or_default()
}

/// Whether an object carries our finalizer.
pub fn is_held<K: Resource>(object: &K) -> bool {
    object
        .meta()
        .finalizers
        .iter()
        .flatten()
        .any(|f| f == NAME_FINALIZER)
}
