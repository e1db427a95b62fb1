//! What a group's pods may do: read and fill objects by name, and nothing else.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use postern_proxy_config::names;

use super::config::{self, Config};
use crate::{
    context::Settings,
    labels::account,
    proxy_group::{dereference::Inputs, validate::Valid},
};

pub(super) fn role(
    valid: &Valid,
    inputs: &Inputs,
    config: &Config,
    meta: &dyn Fn(String) -> ObjectMeta,
) -> Role {
    let group = &valid.group;
    let pods = || (0..valid.replicas).map(|ordinal| names::pod(group, ordinal));
    // Names on their way to be served or out are included, else a proxy could be asked for what it may not.
    let mut filled = BTreeSet::from([names::acme_account(group)]);
    filled.extend(inputs.records.values().map(|record| record.secret.clone()));
    filled.extend(
        inputs
            .records
            .keys()
            .map(|hostname| names::certificate(group, hostname)),
    );
    filled.extend(config.names.values().map(|name| name.node.state.name.clone()));
    filled.extend(
        (config.services.values()).filter_map(|service| Some(service.certificate.as_ref()?.name.clone())),
    );
    let mut read = BTreeSet::from([names::replica_link(group)]);
    let mut documents = Vec::new();
    for (_, provider) in config::providers(config) {
        let document = |key: &str| names::document(&provider.documents, key);
        filled.insert(document(names::SECRET_DOCUMENT));
        documents.extend(names::open_documents().map(|key| document(&key)));
        read.extend(provider.clients.iter().map(|clients| clients.name.clone()));
    }
    read.extend(inputs.copies.iter().cloned());

    let mut watched: Vec<_> = (0..names::SHARDS)
        .map(|shard| names::shard(group, shard))
        .collect();
    watched.extend([names::endpoints(group), names::assignment(group)]);
    let written: Vec<_> = pods().map(|pod| names::report(&pod)).chain(documents).collect();
    Role {
        metadata: meta(account(group)),
        rules: Some(vec![
            rule("secrets", filled.into_iter().collect(), &["get", "patch"]),
            rule("secrets", read.into_iter().collect(), &["get"]),
            rule("configmaps", watched, &["get", "list", "watch"]),
            rule("configmaps", written, &["get", "patch"]),
        ]),
    }
}

pub(super) fn binding(settings: &Settings, group: &str, meta: &dyn Fn(String) -> ObjectMeta) -> RoleBinding {
    RoleBinding {
        metadata: meta(account(group)),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "Role".into(),
            name: account(group),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: account(group),
            namespace: Some(settings.namespace.clone()),
            ..Subject::default()
        }]),
    }
}

fn rule(resource: &str, names: Vec<String>, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec![resource.into()]),
        resource_names: Some(names),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}
