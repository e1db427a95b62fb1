//! What a group's proxies serve, and every object that makes them. Pure: the golden files are in `tests/`.

mod access;
mod config;
mod workload;

use std::net::SocketAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use postern_crds::ProxyGroup;
use postern_proxy_config::names;
use serde::Serialize;

use crate::{
    context::Settings,
    labels::{self, ROLE_GROUP},
    proxy_group::{dereference::Inputs, validate::Valid},
};

/// Everything of a group. `apply` takes it apart field by field, so that nothing can be forgotten.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Made when absent, never overwritten: the proxies write into them.
    pub secrets: Vec<Secret>,
    /// Made when absent, with 32 random bytes under this key.
    pub random: (Secret, &'static str),
    /// Records whose device nobody wants any more, with the time from which on.
    pub release: Vec<(String, Timestamp)>,
    /// Made when absent, never overwritten: the proxies write into them.
    pub blanks: Vec<ConfigMap>,
    /// Where backends are.
    pub endpoints: ConfigMap,
    /// What is served.
    pub shards: Vec<ConfigMap>,
    /// Who the pods are.
    pub account: ServiceAccount,
    /// What they may do.
    pub role: Role,
    /// That it is they.
    pub binding: RoleBinding,
    /// Who reaches the pods.
    pub network_policy: NetworkPolicy,
    /// Ways in from inside of the cluster.
    pub services: Vec<Service>,
    /// Such ways that nobody wants any more.
    pub prune_services: Vec<String>,
    /// How many may be missing.
    pub budget: PodDisruptionBudget,
    /// The pods; absent when they have to stay as they are.
    pub workload: Option<StatefulSet>,
}

/// Plans a group.
pub fn plan(
    settings: &Settings,
    inputs: &Inputs,
    valid: &Valid,
    now: Timestamp,
    addresses: &dyn Fn(&str) -> Vec<SocketAddr>,
) -> Plan {
    let group = &valid.group;
    let meta = |name: String| owned_meta(settings, valid, name);
    let config = config::config(settings, inputs, valid);
    let replica_link = names::replica_link(group);
    let acme_account = names::acme_account(group);

    let mut secrets = vec![Secret {
        metadata: meta(acme_account),
        ..Secret::default()
    }];
    secrets.extend(
        config
            .missing
            .iter()
            .flat_map(|wanted| config::secrets(settings, valid, wanted)),
    );
    secrets.extend(config::service_certificates(settings, valid, &config));
    let services: Vec<_> = config::providers(&config)
        .filter(|(_, provider)| provider.back_channel)
        .map(|_| workload::back_channel(group, meta(names::back_channel(group))))
        .collect();
    let (open_documents, secret_documents) = config::documents(&config, &meta);
    secrets.extend(secret_documents);
    secrets.retain(|secret| {
        let name = secret.metadata.name.as_ref();
        name.is_some_and(|name| !inputs.secrets.contains_key(name))
    });
    Plan {
        secrets,
        random: (
            Secret {
                metadata: meta(replica_link),
                ..Secret::default()
            },
            postern_proxy_config::assignment::REPLICA_LINK_SECRET_KEY,
        ),
        release: (config.release.iter())
            .map(|secret| (secret.clone(), now))
            .collect(),
        blanks: [config::blanks(valid, &meta), open_documents].concat(),
        endpoints: config::endpoints(group, &config, &meta, addresses),
        shards: config::shards(valid, &config, &meta),
        account: ServiceAccount {
            metadata: meta(labels::account(group)),
            ..ServiceAccount::default()
        },
        role: access::role(valid, inputs, &config, &meta),
        binding: access::binding(settings, group, &meta),
        prune_services: (inputs.services.iter())
            .filter(|name| {
                !services
                    .iter()
                    .any(|service| service.metadata.name.as_ref() == Some(name))
            })
            .cloned()
            .collect(),
        network_policy: workload::network_policy(group, !services.is_empty(), &meta),
        services,
        budget: workload::budget(group, &meta),
        workload: (valid.template.as_ref().ok())
            .map(|template| workload::stateful_set(settings, valid, template.as_ref(), &meta)),
    }
}

/// Metadata of what goes with the group. Devices don't: their records outlive everything else.
fn owned_meta(settings: &Settings, valid: &Valid, name: String) -> ObjectMeta {
    let mut meta = labels::group_meta(&settings.namespace, &valid.group, ROLE_GROUP, name);
    meta.owner_references = Some(vec![OwnerReference {
        api_version: <ProxyGroup as kube::Resource>::api_version(&()).into_owned(),
        kind: <ProxyGroup as kube::Resource>::kind(&()).into_owned(),
        name: valid.group.clone(),
        uid: valid.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    meta
}

#[cfg(test)]
mod tests;
