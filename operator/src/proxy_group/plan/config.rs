//! Which names a group serves, and how that is written down.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use postern_proxy_config::{
    FORMAT,
    assignment::{ASSIGNMENT_KEY, Assignment},
    endpoints::{ENDPOINTS_KEY, Endpoints},
    group::{Backend, CONFIG_KEY, Name, Owner, Shard, Tailnet},
    names,
};
use serde::Serialize;

use crate::{
    context::Settings,
    labels::{self, HOSTNAME, OWNER, OWNER_UID, ROLE_CERTIFICATE, ROLE_NODE, TAILNET},
    name::judge::{https_routes, issues_certificates, keep_serving, lets_nodes_ask_for_tags},
    proxy_group::{dereference::Inputs, validate::Valid},
    record::TAGS,
};

/// What a group serves.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// By name.
    pub(super) names: BTreeMap<String, Name>,
    /// Names without a record yet.
    pub(super) missing: Vec<Wanted>,
    /// Secrets of records that nobody wants any more.
    pub(super) release: Vec<String>,
}

/// A name that shall have a device.
#[derive(Debug)]
pub(super) struct Wanted {
    hostname: String,
    owner: Owner,
    tags: Vec<String>,
}

pub(super) fn config(inputs: &Inputs, valid: &Valid) -> Config {
    let mut config = Config::default();
    let mut wanted = BTreeSet::new();
    for decided in &inputs.claims {
        // Without our finalizer the object could go unseen and leave its device behind.
        if decided.claim.deleting || !decided.claim.held {
            continue;
        }
        let (key, mut name) = match (&decided.judgement.accepted, &decided.keeps) {
            (Ok(accepted), _) => {
                let mut name = accepted.name.clone();
                if let Some(before) = inputs.before.get(accepted.hostname.as_str()) {
                    keep_serving(&mut name, before);
                }
                (accepted.hostname.to_string(), name)
            }
            (Err(_), Some(kept)) => match inputs.before.get(kept) {
                Some(before) => (kept.clone(), before.clone()),
                None => continue,
            },
            (Err(_), None) => continue,
        };
        wanted.insert((key.clone(), decided.claim.owner.uid.clone()));
        match inputs.records.get(&key) {
            // A device that another object had goes first; this one is made when it is gone.
            Some(record) if record.owner_uid != decided.claim.owner.uid => {}
            Some(record) if record.is_usable() => {
                name.node.state.revision = record.revision();
                if !lets_nodes_ask_for_tags(&valid.tailnet) {
                    // The record keeps them: a device that never reported is found by its name and tags.
                    name.node.tags.clear();
                }
                config.names.insert(key, name);
            }
            Some(_) => {}
            None => config.missing.push(Wanted {
                tags: name.node.tags,
                hostname: key,
                owner: decided.claim.owner.clone(),
            }),
        }
    }
    config.release = (inputs.records.values())
        .filter(|r| r.released.is_none() && !wanted.contains(&(r.hostname.clone(), r.owner_uid.clone())))
        .map(|record| record.secret.clone())
        .collect();
    debug_assert!(
        config.names.values().all(|name| !name.node.hostname.is_empty()),
        "{}",
        valid.group
    );
    config
}

/// The Secrets of a name: its record, and where its certificate will be. Empty, since the proxy may only
/// fill what is there; the type `kubernetes.io/tls` wants both of its keys even so.
pub(super) fn secrets(settings: &Settings, valid: &Valid, wanted: &Wanted) -> Vec<Secret> {
    let Wanted {
        hostname,
        owner,
        tags,
    } = wanted;
    let meta = |role: &str, name: String| {
        let mut meta = labels::group_meta(&settings.namespace, &valid.group, role, name);
        let labels = meta.labels.get_or_insert_default();
        labels.insert(HOSTNAME.into(), hostname.clone());
        labels.insert(OWNER_UID.into(), owner.uid.clone());
        labels.insert(TAILNET.into(), valid.tailnet.name_any());
        meta.annotations = Some(BTreeMap::from([(
            OWNER.to_owned(),
            format!("{}/{}/{}", owner.kind, owner.namespace, owner.name),
        )]));
        meta
    };
    let mut node = meta(ROLE_NODE, names::node_state(&valid.group, hostname));
    node.annotations
        .get_or_insert_default()
        .insert(TAGS.into(), tags.join(","));
    let mut secrets = vec![Secret {
        metadata: node,
        ..Secret::default()
    }];
    if issues_certificates(&valid.tailnet) {
        let empty = || ByteString(Vec::new());
        secrets.push(Secret {
            metadata: meta(ROLE_CERTIFICATE, names::certificate(&valid.group, hostname)),
            type_: Some("kubernetes.io/tls".into()),
            data: Some(BTreeMap::from([
                ("tls.crt".into(), empty()),
                ("tls.key".into(), empty()),
            ])),
            ..Secret::default()
        });
    }
    secrets
}

pub(super) fn shards(
    valid: &Valid,
    all: &BTreeMap<String, Name>,
    meta: &dyn Fn(String) -> ObjectMeta,
) -> Vec<ConfigMap> {
    let spec = &valid.tailnet.spec;
    let name = |i| names::shard(&valid.group, i);
    let mut shards = vec![BTreeMap::new(); names::SHARDS];
    for (key, name) in all {
        shards[names::shard_of(key)].insert(key.clone(), name.clone());
    }
    (shards.into_iter().enumerate())
        .map(|(i, names)| {
            let shard = Shard {
                format: FORMAT,
                tailnet: Tailnet {
                    control_url: spec.login_server.clone(),
                    ca_bundle: spec.ca_bundle.clone(),
                    acme_directory: spec.acme_directory.clone(),
                    derp_only: spec.derp_only,
                },
                names,
            };
            json_map(meta(name(i)), CONFIG_KEY, &shard)
        })
        .collect()
}

pub(super) fn endpoints(
    group: &str,
    all: &BTreeMap<String, Name>,
    meta: &dyn Fn(String) -> ObjectMeta,
    addresses: &dyn Fn(&str) -> Vec<SocketAddr>,
) -> ConfigMap {
    let backends = (all.values().flat_map(https_routes))
        .filter_map(|route| match &route.backend {
            Backend::Service { key, .. } => Some((key.clone(), addresses(key))),
            Backend::Address { .. }
            | Backend::Unix { .. }
            | Backend::Text { .. }
            | Backend::Redirect { .. }
            | Backend::Unavailable { .. } => None,
        })
        .collect();
    json_map(
        meta(names::endpoints(group)),
        ENDPOINTS_KEY,
        &Endpoints {
            format: FORMAT,
            backends,
        },
    )
}

/// What the replicas write: `create` can't be bound to names, so they find everything made.
pub(super) fn blanks(valid: &Valid, meta: &dyn Fn(String) -> ObjectMeta) -> Vec<ConfigMap> {
    let assignment = Assignment {
        format: FORMAT,
        ..Assignment::default()
    };
    let reports = (0..valid.replicas).map(|ordinal| ConfigMap {
        metadata: meta(names::report(&names::pod(&valid.group, ordinal))),
        ..ConfigMap::default()
    });
    std::iter::once(json_map(
        meta(names::assignment(&valid.group)),
        ASSIGNMENT_KEY,
        &assignment,
    ))
    .chain(reports)
    .collect()
}

fn json_map(metadata: ObjectMeta, key: &str, value: &impl Serialize) -> ConfigMap {
    let json =
        serde_json::to_string(value).expect("our own types have string keys and no failing serialisers");
    ConfigMap {
        metadata,
        data: Some(BTreeMap::from([(key.to_owned(), json)])),
        ..ConfigMap::default()
    }
}
