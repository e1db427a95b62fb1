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
use postern_crds::ProxyGroup;
use postern_proxy_config::{
    FORMAT,
    assignment::{ASSIGNMENT_KEY, Assignment},
    endpoints::{ENDPOINTS_KEY, Endpoints},
    group::{
        Backend, CONFIG_KEY, Host, IdentityProvider, Name, NodeConfig, Owner, Protocol, SecretRef, Service,
        Shard, Tailnet,
    },
    names,
};
use serde::Serialize;

use crate::{
    context::Settings,
    labels::{
        self, HOSTNAME, OWNER, OWNER_UID, ROLE, ROLE_CERTIFICATE, ROLE_CLIENTS, ROLE_DOCUMENT, ROLE_NODE,
        TAILNET,
    },
    model::{ClaimKind, SERVICE_PREFIX},
    name::judge::{backends, issues_certificates, keep_serving, lets_nodes_ask_for_tags},
    proxy_group::{
        dereference::{Decided, Inputs},
        validate::Valid,
    },
    record::TAGS,
};

/// What a group serves.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// Devices by name.
    pub(super) names: BTreeMap<String, Name>,
    /// Services by name.
    pub(super) services: BTreeMap<String, Service>,
    /// Hosts of the Services, by pod.
    pub(super) hosts: BTreeMap<String, Host>,
    /// Names and hosts without a record yet.
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
    certificate: bool,
}

pub(super) fn config(settings: &Settings, inputs: &Inputs, valid: &Valid) -> Config {
    let mut config = Config::default();
    let mut wanted = BTreeSet::new();
    for decided in &inputs.claims {
        // Without our finalizer the object could go unseen and leave its device behind.
        if decided.claim.deleting || !decided.claim.held {
            continue;
        }
        match decided.claim.kind {
            ClaimKind::Service => config.services.extend(service(decided, inputs)),
            ClaimKind::Device => {
                if let Some((key, mut name)) = name(decided, inputs) {
                    newest_clients(&mut name, inputs);
                    config.place(inputs, valid, &mut wanted, key, name);
                }
            }
        }
    }
    if !config.services.is_empty() {
        for ordinal in 0..valid.replicas {
            config.host(settings, inputs, valid, &mut wanted, ordinal);
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

impl Config {
    fn place(
        &mut self,
        inputs: &Inputs,
        valid: &Valid,
        wanted: &mut BTreeSet<(String, String)>,
        key: String,
        mut name: Name,
    ) {
        wanted.insert((key.clone(), name.owner.uid.clone()));
        match usable(inputs, valid, &key, &name.owner, &mut name.node) {
            Standing::Usable => {
                self.names.insert(key, name);
            }
            Standing::NotYet => {}
            Standing::Missing => self.missing.push(Wanted {
                tags: name.node.tags,
                hostname: key,
                owner: name.owner,
                certificate: issues_certificates(&valid.tailnet),
            }),
        }
    }

    /// A replica's own node: the coordination service takes tagged ones alone as hosts.
    fn host(
        &mut self,
        settings: &Settings,
        inputs: &Inputs,
        valid: &Valid,
        wanted: &mut BTreeSet<(String, String)>,
        ordinal: u32,
    ) {
        let hostname = labels::host(&valid.group, ordinal, &settings.cluster_id);
        let owner = Owner {
            kind: <ProxyGroup as kube::Resource>::kind(&()).into_owned(),
            namespace: String::new(),
            name: valid.group.clone(),
            uid: valid.uid.clone(),
        };
        let mut node = NodeConfig {
            hostname: hostname.clone(),
            tags: valid.tailnet.spec.tags.clone(),
            state: SecretRef {
                name: names::node_state(&valid.group, &hostname),
                revision: String::new(),
            },
            certificate: None,
        };
        wanted.insert((hostname.clone(), owner.uid.clone()));
        match usable(inputs, valid, &hostname, &owner, &mut node) {
            Standing::Usable => {
                self.hosts
                    .insert(names::pod(&valid.group, ordinal), Host { owner, node });
            }
            Standing::NotYet => {}
            Standing::Missing => self.missing.push(Wanted {
                hostname,
                owner,
                tags: node.tags,
                certificate: false,
            }),
        }
    }
}

/// Whether a node can be started.
enum Standing {
    /// With its record.
    Usable,
    /// Its record isn't ready.
    NotYet,
    /// It has no record.
    Missing,
}

/// Fills in what the record of a node says.
fn usable(inputs: &Inputs, valid: &Valid, hostname: &str, owner: &Owner, node: &mut NodeConfig) -> Standing {
    match inputs.records.get(hostname) {
        None => Standing::Missing,
        // A device that another object had goes first; this one is made when it is gone.
        Some(record) if record.owner_uid != owner.uid => Standing::NotYet,
        Some(record) if record.is_usable() => {
            node.state.revision = record.revision();
            if !lets_nodes_ask_for_tags(&valid.tailnet) {
                // The record keeps them: a device that never reported is found by its name and tags.
                node.tags.clear();
            }
            Standing::Usable
        }
        Some(_) => Standing::NotYet,
    }
}

/// What a device name serves; after a broken change what it served before.
fn name(decided: &Decided, inputs: &Inputs) -> Option<(String, Name)> {
    let claim = &decided.claim;
    let Ok(accepted) = &decided.judgement.accepted else {
        let kept = decided.keeps.as_ref()?;
        return Some((kept.clone(), inputs.before.names.get(kept)?.clone()));
    };
    let key = accepted.hostname.to_string();
    let mut listeners = accepted.listeners.clone();
    if let Some(before) = inputs.before.names.get(&key) {
        keep_serving(&mut listeners, &before.listeners);
    }
    let secret = |name: String| SecretRef {
        name,
        revision: String::new(),
    };
    let name = Name {
        owner: claim.owner.clone(),
        generation: claim.generation,
        node: NodeConfig {
            hostname: key.clone(),
            tags: accepted.tags.clone(),
            state: secret(names::node_state(&claim.group, &key)),
            certificate: accepted.certificate.clone().map(secret),
        },
        listeners,
        funnel: accepted.funnel.clone(),
        certificates: accepted.certificates.clone(),
    };
    Some((key, name))
}

/// The proxies read their clients again when the Secret has changed.
fn newest_clients(name: &mut Name, inputs: &Inputs) {
    for listener in &mut name.listeners {
        if let Protocol::IdentityProvider(provider) = &mut listener.protocol
            && let Some(clients) = &mut provider.clients
        {
            clients.revision = inputs.secrets.get(&clients.name).cloned().unwrap_or_default();
        }
    }
}

/// What a Service serves; after a broken change what it served before.
fn service(decided: &Decided, inputs: &Inputs) -> Option<(String, Service)> {
    let claim = &decided.claim;
    let Ok(accepted) = &decided.judgement.accepted else {
        let kept = decided.keeps.as_ref()?;
        return Some((kept.clone(), inputs.before.services.get(kept)?.clone()));
    };
    let key = format!("{SERVICE_PREFIX}{}", accepted.hostname);
    let mut listeners = accepted.listeners.clone();
    if let Some(before) = inputs.before.services.get(&key) {
        keep_serving(&mut listeners, &before.listeners);
    }
    let service = Service {
        owner: claim.owner.clone(),
        generation: claim.generation,
        listeners,
        // The replicas that wait for it read it as soon as the one that gets it has put it there.
        certificate: accepted.certificate.clone().map(|name| SecretRef {
            revision: inputs.secrets.get(&name).cloned().unwrap_or_default(),
            name,
        }),
        certificates: accepted.certificates.clone(),
    };
    Some((key, service))
}

/// The Secrets of a name: its record, and where its certificate will be. Empty, since the proxy may only
/// fill what is there.
pub(super) fn secrets(settings: &Settings, valid: &Valid, wanted: &Wanted) -> Vec<Secret> {
    let Wanted {
        hostname,
        owner,
        tags,
        certificate,
    } = wanted;
    let name = names::node_state(&valid.group, hostname);
    let mut metadata = made_for(settings, valid, ROLE_NODE, name, hostname, owner);
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(TAGS.into(), tags.join(","));
    let mut secrets = vec![Secret {
        metadata,
        ..Secret::default()
    }];
    if *certificate {
        let name = names::certificate(&valid.group, hostname);
        secrets.push(certificate_secret(settings, valid, name, hostname, owner));
    }
    secrets
}

/// Where the certificates of Services will be, one for all replicas.
pub(super) fn service_certificates(settings: &Settings, valid: &Valid, config: &Config) -> Vec<Secret> {
    (config.services.iter())
        .filter_map(|(key, service)| {
            let name = service.certificate.as_ref()?.name.clone();
            let label = key.strip_prefix(SERVICE_PREFIX).unwrap_or(key);
            Some(certificate_secret(settings, valid, name, label, &service.owner))
        })
        .collect()
}

/// The type `kubernetes.io/tls` wants both of its keys, even empty.
fn certificate_secret(
    settings: &Settings,
    valid: &Valid,
    name: String,
    hostname: &str,
    owner: &Owner,
) -> Secret {
    let empty = || ByteString(Vec::new());
    Secret {
        metadata: made_for(settings, valid, ROLE_CERTIFICATE, name, hostname, owner),
        type_: Some("kubernetes.io/tls".into()),
        data: Some(BTreeMap::from([
            ("tls.crt".into(), empty()),
            ("tls.key".into(), empty()),
        ])),
        ..Secret::default()
    }
}

/// Metadata of something that was made for a name of an object.
fn made_for(
    settings: &Settings,
    valid: &Valid,
    role: &str,
    name: String,
    hostname: &str,
    owner: &Owner,
) -> ObjectMeta {
    let mut meta = labels::group_meta(&settings.namespace, &valid.group, role, name);
    let labels = meta.labels.get_or_insert_default();
    labels.insert(HOSTNAME.into(), hostname.to_owned());
    labels.insert(OWNER_UID.into(), owner.uid.clone());
    labels.insert(TAILNET.into(), valid.tailnet.name_any());
    meta.annotations = Some(BTreeMap::from([(
        OWNER.to_owned(),
        format!("{}/{}/{}", owner.kind, owner.namespace, owner.name),
    )]));
    meta
}

pub(super) fn shards(valid: &Valid, config: &Config, meta: &dyn Fn(String) -> ObjectMeta) -> Vec<ConfigMap> {
    let spec = &valid.tailnet.spec;
    let name = |i| names::shard(&valid.group, i);
    let empty = Shard {
        format: FORMAT,
        tailnet: Tailnet {
            control_url: spec.login_server.clone(),
            ca_bundle: spec.ca_bundle.clone(),
            acme_directory: spec.acme_directory.clone(),
            derp_only: spec.derp_only,
        },
        names: BTreeMap::new(),
        services: BTreeMap::new(),
        hosts: BTreeMap::new(),
    };
    let mut shards = vec![empty; names::SHARDS];
    for (key, name) in &config.names {
        shards[names::shard_of(key)]
            .names
            .insert(key.clone(), name.clone());
    }
    for (key, service) in &config.services {
        let shard = &mut shards[names::shard_of(key)];
        shard.services.insert(key.clone(), service.clone());
    }
    for (pod, host) in &config.hosts {
        shards[names::shard_of(pod)]
            .hosts
            .insert(pod.clone(), host.clone());
    }
    (shards.iter().enumerate())
        .map(|(i, shard)| json_map(meta(name(i)), CONFIG_KEY, shard))
        .collect()
}

pub(super) fn endpoints(
    group: &str,
    config: &Config,
    meta: &dyn Fn(String) -> ObjectMeta,
    addresses: &dyn Fn(&str) -> Vec<SocketAddr>,
) -> ConfigMap {
    let names = config.names.values().map(|name| &name.listeners);
    let services = config.services.values().map(|service| &service.listeners);
    let backends = (names.chain(services).flat_map(|listeners| backends(listeners)))
        .filter_map(|backend| match backend {
            Backend::Service { key, .. } => Some((key.clone(), addresses(key))),
            Backend::Address { .. }
            | Backend::Unix { .. }
            | Backend::Files { .. }
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

/// Where identity providers keep what they have to: empty, for the proxies to fill; and where the clients of objects
/// will be.
pub(super) fn documents(
    config: &Config,
    meta: &dyn Fn(String) -> ObjectMeta,
) -> (Vec<ConfigMap>, Vec<Secret>) {
    let mut documents = (Vec::new(), Vec::new());
    for (name, provider) in providers(config) {
        let meta = |role: &str, object: String| {
            let mut metadata = meta(object);
            let labels = metadata.labels.get_or_insert_default();
            labels.insert(ROLE.into(), role.into());
            labels.insert(OWNER_UID.into(), name.owner.uid.clone());
            metadata
        };
        let document = |key: &str| meta(ROLE_DOCUMENT, names::document(&provider.documents, key));
        documents.0.extend(names::open_documents().map(|key| ConfigMap {
            metadata: document(&key),
            ..ConfigMap::default()
        }));
        let secret = |metadata: ObjectMeta| Secret {
            metadata,
            ..Secret::default()
        };
        documents.1.push(secret(document(names::SECRET_DOCUMENT)));
        let clients = provider.clients.iter();
        documents
            .1
            .extend(clients.map(|clients| secret(meta(ROLE_CLIENTS, clients.name.clone()))));
    }
    documents
}

/// Every identity provider with its name.
pub(super) fn providers(config: &Config) -> impl Iterator<Item = (&Name, &IdentityProvider)> {
    config.names.values().flat_map(|name| {
        name.listeners
            .iter()
            .filter_map(move |listener| match &listener.protocol {
                Protocol::IdentityProvider(provider) => Some((name, provider)),
                _ => None,
            })
    })
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
