//! Reads all that a group's plan is made of, from the stores.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use postern_crds::{ProxyClass, ProxyGroup, Tailnet};
use postern_proxy_config::{
    group::{Host, Name, Service},
    report::Report,
};

use crate::{
    config, identity_provider, ingress,
    labels::{GROUP, ROLE, ROLE_KEYS, ROLE_OWN_CERTIFICATE, is_ours, label},
    model::{Claim, SERVICE_PREFIX},
    name::{
        claims::{self, Claims},
        judge::{self, Judgement},
    },
    record::Record,
    report,
    stores::{Filter, Stores},
    tailnet_ingress, tailnet_service,
};

/// All that a group's plan is made of.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The group.
    pub group: Arc<ProxyGroup>,
    /// Its Tailnet.
    pub tailnet: Option<Arc<Tailnet>>,
    /// Its ProxyClass, if it names one that exists.
    pub class: Option<Arc<ProxyClass>>,
    /// Every claim on a name of the group, decided.
    pub claims: Vec<Decided>,
    /// Devices by name.
    pub records: BTreeMap<String, Record>,
    /// What is configured now.
    pub before: Before,
    /// Secrets that are there, with their resourceVersions.
    pub secrets: BTreeMap<String, String>,
    /// Copies of certificates and keys for this group.
    pub copies: Vec<String>,
    /// Ways in from inside of the cluster.
    pub services: Vec<String>,
    /// What the replicas say.
    pub reports: Vec<Report>,
    /// Its pods.
    pub workload: Option<Arc<StatefulSet>>,
}

/// What is configured now.
#[derive(Debug, Clone, Default)]
pub struct Before {
    /// Device names.
    pub names: BTreeMap<String, Name>,
    /// Services by their name.
    pub services: BTreeMap<String, Service>,
    /// Hosts by their pod.
    pub hosts: BTreeMap<String, Host>,
}

/// A claim and what became of it.
#[derive(Debug, Clone)]
pub struct Decided {
    /// What an object asks for.
    pub claim: Claim,
    /// What became of it.
    pub judgement: Judgement,
    /// After a broken change, the name that the object had before and may keep.
    pub keeps: Option<String>,
}

/// Reads.
pub fn dereference(stores: &Stores, group: &Arc<ProxyGroup>) -> Inputs {
    let name = group.name_any();
    let records: BTreeMap<_, _> = (stores.node_secrets(&Filter::Group(&name)).iter())
        .filter_map(|secret| Record::of(secret))
        .map(|record| (record.hostname.clone(), record))
        .collect();
    let before = configured(stores, &name);
    let owners = Claims::collect(stores);
    let claims = (claims_of(stores, &name).into_iter())
        .map(|claim| {
            let judgement = judge::judge(&claim, &owners, stores);
            let keeps = judgement
                .accepted
                .is_err()
                .then(|| keeps(stores, group, &owners, &claim, &before))
                .flatten();
            Decided {
                claim,
                judgement,
                keeps,
            }
        })
        .collect();
    Inputs {
        tailnet: stores.tailnet(&group.spec.tailnet_ref.name),
        class: (group.spec.proxy_class_name.as_ref())
            .and_then(|class| stores.proxy_classes.get(&ObjectRef::new(class))),
        claims,
        records,
        before,
        copies: copies(stores, &name),
        secrets: stores
            .secrets
            .state()
            .iter()
            .map(|secret| (secret.name_any(), secret.resource_version().unwrap_or_default()))
            .collect(),
        services: (stores.services)
            .state_filter(|service| {
                service.namespace().as_deref() == Some(&stores.namespace)
                    && is_ours(service)
                    && label(service, GROUP) == Some(&name)
            })
            .iter()
            .map(|service| service.name_any())
            .collect(),
        reports: report::reports(stores, &name),
        workload: stores
            .stateful_sets
            .get(&ObjectRef::new(&name).within(&stores.namespace)),
        group: Arc::clone(group),
    }
}

/// Every claim on a name of a group, oldest first.
pub fn claims_of(stores: &Stores, group: &str) -> Vec<Claim> {
    let tailnet_ingresses = (stores.tailnet_ingresses.state().into_iter())
        .filter(|object| tailnet_ingress::validate::group(object) == group)
        .map(|object| tailnet_ingress::validate::claim(&object));
    let ingresses = (stores.our_ingresses().into_iter())
        .filter(|object| ingress::validate::group(object) == group)
        .map(|object| ingress::validate::claim(&object));
    let services = (stores.tailnet_services.state().into_iter())
        .filter(|object| tailnet_service::validate::group(object) == group)
        .map(|object| tailnet_service::validate::claim(&object));
    let providers = (stores.identity_providers.state().into_iter())
        .filter(|object| identity_provider::validate::group(object) == group)
        .map(|object| identity_provider::validate::claim(&object));
    let mut claims: Vec<_> = tailnet_ingresses
        .chain(ingresses)
        .chain(services)
        .chain(providers)
        .collect();
    claims.sort_by(|a, b| (a.created, &a.owner.uid).cmp(&(b.created, &b.owner.uid)));
    claims
}

fn configured(stores: &Stores, group: &str) -> Before {
    let mut before = Before::default();
    for shard in config::shards(stores, group) {
        before.names.extend(shard.names);
        before.services.extend(shard.services);
        before.hosts.extend(shard.hosts);
    }
    before
}

/// A broken change loses nothing: the name goes on as it was, while nobody else has a right to it.
fn keeps(
    stores: &Stores,
    group: &ProxyGroup,
    owners: &Claims,
    claim: &Claim,
    before: &Before,
) -> Option<String> {
    let names = before.names.iter().map(|(key, name)| (key, &name.owner));
    let services = (before.services.iter()).map(|(key, service)| (key, &service.owner));
    let (key, _) = names
        .chain(services)
        .find(|(_, owner)| owner.uid == claim.owner.uid)?;
    let hostname = key.strip_prefix(SERVICE_PREFIX).unwrap_or(key).parse().ok()?;
    let owner = owners.owner(&group.spec.tailnet_ref.name, &hostname);
    let free = owner.is_none_or(|owner| owner.uid == claim.owner.uid);
    let permitted = claims::permit(stores, group, &claim.owner.namespace, &hostname).is_ok();
    (free && permitted).then(|| key.clone())
}

fn copies(stores: &Stores, group: &str) -> Vec<String> {
    let mut copies: Vec<_> = (stores.secrets.state().iter())
        .filter(|secret| {
            matches!(label(&***secret, ROLE), Some(ROLE_OWN_CERTIFICATE | ROLE_KEYS))
                && label(&***secret, GROUP) == Some(group)
        })
        .map(|secret| secret.name_any())
        .collect();
    copies.sort();
    copies
}
