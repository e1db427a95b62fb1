//! Whom a change concerns. Pure: stores and the changed object in, what to look at again out.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
    networking::v1::{Ingress, IngressClass},
};
use kube::ResourceExt;
use postern_crds::{
    IdentityProvider, OIDCClient, ProxyClass, ProxyGroup, Tailnet, TailnetIngress, TailnetService,
};

use crate::{
    identity_provider, ingress,
    labels::{
        self, GROUP, HOSTNAME, OWNER, OWNER_UID, ROLE, ROLE_CLIENTS, ROLE_CREDENTIALS, ROLE_DOCUMENT,
        ROLE_KEYS, ROLE_NODE, ROLE_OWN_CERTIFICATE, annotation, label,
    },
    oidc_client::dereference::provider_of,
    stores::{Filter, Stores},
    tailnet, tailnet_ingress, tailnet_service,
};

/// Something to look at again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Woken {
    /// By name.
    Tailnet(String),
    /// By name.
    ProxyGroup(String),
    /// By namespace and name.
    TailnetIngress {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By namespace and name.
    TailnetService {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By namespace and name.
    IdentityProvider {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By namespace and name.
    OidcClient {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By namespace and name.
    Ingress {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By the name of its record.
    Device(String),
}

pub fn tailnet(stores: &Stores, object: &Tailnet) -> Vec<Woken> {
    let name = object.name_any();
    let mut woken = vec![Woken::Tailnet(name.clone())];
    for group in stores
        .proxy_groups
        .state_filter(|group| group.spec.tailnet_ref.name == name)
    {
        woken.push(Woken::ProxyGroup(group.name_any()));
        woken.extend(members(stores, &group.name_any()));
    }
    woken
}

pub fn proxy_class(stores: &Stores, object: &ProxyClass) -> Vec<Woken> {
    let name = Some(object.name_any());
    let users = stores
        .proxy_groups
        .state_filter(|group| group.spec.proxy_class_name == name);
    users
        .iter()
        .map(|group| Woken::ProxyGroup(group.name_any()))
        .collect()
}

pub fn proxy_group(stores: &Stores, object: &ProxyGroup) -> Vec<Woken> {
    let name = object.name_any();
    let mut woken = vec![
        Woken::ProxyGroup(name.clone()),
        Woken::Tailnet(object.spec.tailnet_ref.name.clone()),
    ];
    woken.extend(members(stores, &name));
    woken
}

pub fn tailnet_ingress(stores: &Stores, object: &TailnetIngress) -> Vec<Woken> {
    let mut woken = vec![
        key(object),
        Woken::ProxyGroup(tailnet_ingress::validate::group(object)),
    ];
    woken.extend(rivals(stores, &tailnet_ingress::validate::hostname_text(object)));
    woken
}

pub fn tailnet_service(stores: &Stores, object: &TailnetService) -> Vec<Woken> {
    let mut woken = vec![
        service_key(object),
        Woken::ProxyGroup(tailnet_service::validate::group(object)),
    ];
    woken.extend(rivals(stores, &tailnet_service::validate::label_text(object)));
    woken
}

pub fn identity_provider(stores: &Stores, object: &IdentityProvider) -> Vec<Woken> {
    let mut woken = vec![
        provider_key(object),
        Woken::ProxyGroup(identity_provider::validate::group(object)),
    ];
    woken.extend(rivals(
        stores,
        &identity_provider::validate::hostname_text(object),
    ));
    woken.extend(clients(stores, object));
    woken
}

/// The provider counts its clients, and lets go of those that are gone.
pub fn oidc_client(_: &Stores, object: &OIDCClient) -> Vec<Woken> {
    let (namespace, name) = provider_of(object);
    vec![client_key(object), Woken::IdentityProvider { namespace, name }]
}

pub fn ingress(stores: &Stores, object: &Ingress) -> Vec<Woken> {
    let mut woken = vec![
        ingress_key(object),
        Woken::ProxyGroup(ingress::validate::group(object)),
    ];
    woken.extend(rivals(stores, &ingress::validate::hostname_text(object).1));
    woken
}

pub fn ingress_class(stores: &Stores, object: &IngressClass) -> Vec<Woken> {
    let class = Some(object.name_any());
    let users = stores.ingresses.state_filter(|ingress| {
        ingress
            .spec
            .as_ref()
            .and_then(|spec| spec.ingress_class_name.clone())
            == class
    });
    users
        .iter()
        .flat_map(|ingress| {
            [
                ingress_key(ingress),
                Woken::ProxyGroup(ingress::validate::group(ingress)),
            ]
        })
        .collect()
}

/// Backends are of the same namespace, and an object may wait for one that isn't there yet.
pub fn service(stores: &Stores, object: &Service) -> Vec<Woken> {
    let namespace = object.namespace();
    let mut woken = Vec::new();
    for user in stores
        .tailnet_ingresses
        .state_filter(|user| user.namespace() == namespace)
    {
        woken.extend([
            key(&user),
            Woken::ProxyGroup(tailnet_ingress::validate::group(&user)),
        ]);
    }
    for user in stores
        .tailnet_services
        .state_filter(|user| user.namespace() == namespace)
    {
        woken.extend([
            service_key(&user),
            Woken::ProxyGroup(tailnet_service::validate::group(&user)),
        ]);
    }
    for user in stores
        .our_ingresses()
        .iter()
        .filter(|user| user.namespace() == namespace)
    {
        woken.extend([
            ingress_key(user),
            Woken::ProxyGroup(ingress::validate::group(user)),
        ]);
    }
    unique(woken)
}

pub fn namespace(stores: &Stores, object: &Namespace) -> Vec<Woken> {
    // Its labels matter where a group selects by them.
    let selecting = stores
        .proxy_groups
        .state_filter(|group| group.spec.allowed_namespaces.selector.is_some());
    let name = object.name_any();
    let of_clients =
        (stores.oidc_clients).state_filter(|client| client.namespace().as_deref() == Some(&name));
    let groups = selecting.iter().flat_map(|group| {
        let group = group.name_any();
        let mut woken: Vec<_> = (members(stores, &group).into_iter())
            .filter(|woken| match woken {
                Woken::TailnetIngress { namespace, .. }
                | Woken::TailnetService { namespace, .. }
                | Woken::IdentityProvider { namespace, .. }
                | Woken::OidcClient { namespace, .. }
                | Woken::Ingress { namespace, .. } => *namespace == name,
                Woken::Tailnet(_) | Woken::ProxyGroup(_) | Woken::Device(_) => false,
            })
            .collect();
        woken.push(Woken::ProxyGroup(group));
        woken
    });
    // A provider may select by them too.
    groups
        .chain(of_clients.iter().map(|client| client_key(client)))
        .collect()
}

pub fn secret(stores: &Stores, object: &Secret) -> Vec<Woken> {
    let group = || label(object, GROUP).map(|group| Woken::ProxyGroup(group.to_owned()));
    match label(object, ROLE) {
        Some(ROLE_NODE) => {
            let mut woken = vec![Woken::Device(object.name_any())];
            woken.extend(group());
            woken.extend(owner(object));
            woken.extend(rivals(stores, label(object, HOSTNAME).unwrap_or_default()));
            woken
        }
        Some(ROLE_OWN_CERTIFICATE | ROLE_KEYS) => owner(object).into_iter().chain(group()).collect(),
        // Devices may wait for a key that is taken, and definitions for a client that may make them.
        Some(ROLE_CREDENTIALS) => (stores.tailnets.state().iter())
            .filter(|known| labels::credentials(&known.name_any()) == object.name_any())
            .flat_map(|known| tailnet(stores, known))
            .collect(),
        // What it holds is news to the proxies, which the group tells them.
        Some(ROLE_CLIENTS) => {
            let uid = label(object, OWNER_UID);
            let providers = stores
                .identity_providers
                .state_filter(|provider| provider.metadata.uid.as_deref() == uid);
            let mut woken = Vec::from_iter(group());
            for provider in providers {
                woken.push(provider_key(&provider));
                woken.extend(clients(stores, &provider));
            }
            woken
        }
        // Logins change them, which is no business of ours.
        Some(ROLE_DOCUMENT) => Vec::new(),
        Some(_) => group().into_iter().collect(),
        None => {
            let name = object.name_any();
            let users = stores
                .tailnets
                .state_filter(|tailnet| tailnet::dereference::names(tailnet).contains(&name));
            users
                .iter()
                .map(|tailnet| Woken::Tailnet(tailnet.name_any()))
                .collect()
        }
    }
}

/// Configuration that somebody else changed concerns its group; a report also all that it speaks of.
pub fn config_map(stores: &Stores, object: &ConfigMap) -> Vec<Woken> {
    let Some(group) = label(object, GROUP).filter(|_| label(object, ROLE) != Some(ROLE_DOCUMENT)) else {
        return Vec::new();
    };
    let mut woken = vec![Woken::ProxyGroup(group.to_owned())];
    if object.name_any().ends_with("-report") {
        woken.extend(members(stores, group));
        woken.extend(
            stores
                .proxy_group(group)
                .map(|g| Woken::Tailnet(g.spec.tailnet_ref.name.clone())),
        );
    } else {
        // A device waits until its name is out of the configuration.
        woken.extend(devices(stores, group));
    }
    woken
}

pub fn stateful_set(_: &Stores, object: &StatefulSet) -> Vec<Woken> {
    label(object, GROUP)
        .map(|group| Woken::ProxyGroup(group.to_owned()))
        .into_iter()
        .collect()
}

/// A device may go when its pod is gone.
pub fn pod(stores: &Stores, object: &Pod) -> Vec<Woken> {
    label(object, GROUP)
        .map(|group| devices(stores, group))
        .unwrap_or_default()
}

/// All there is.
pub fn everything(stores: &Stores) -> Vec<Woken> {
    let mut woken: Vec<_> = stores
        .tailnets
        .state()
        .iter()
        .map(|t| Woken::Tailnet(t.name_any()))
        .collect();
    woken.extend(
        stores
            .proxy_groups
            .state()
            .iter()
            .map(|g| Woken::ProxyGroup(g.name_any())),
    );
    woken.extend(stores.tailnet_ingresses.state().iter().map(|object| key(object)));
    woken.extend(
        stores
            .tailnet_services
            .state()
            .iter()
            .map(|object| service_key(object)),
    );
    let providers = stores.identity_providers.state();
    woken.extend(providers.iter().map(|object| provider_key(object)));
    let oidc_clients = stores.oidc_clients.state();
    woken.extend(oidc_clients.iter().map(|object| client_key(object)));
    woken.extend(stores.ingresses.state().iter().map(|object| ingress_key(object)));
    let records = stores
        .secrets
        .state_filter(|secret| label(secret, ROLE) == Some(ROLE_NODE));
    woken.extend(records.iter().map(|record| Woken::Device(record.name_any())));
    woken
}

/// Everything that a group serves.
fn members(stores: &Stores, group: &str) -> Vec<Woken> {
    let tailnet_ingresses = stores
        .tailnet_ingresses
        .state_filter(|object| tailnet_ingress::validate::group(object) == group);
    let mut woken: Vec<_> = tailnet_ingresses.iter().map(|object| key(object)).collect();
    let services = stores
        .tailnet_services
        .state_filter(|object| tailnet_service::validate::group(object) == group);
    woken.extend(services.iter().map(|object| service_key(object)));
    let providers = stores
        .identity_providers
        .state_filter(|object| identity_provider::validate::group(object) == group);
    for provider in &providers {
        woken.push(provider_key(provider));
        woken.extend(clients(stores, provider));
    }
    woken.extend(
        (stores.our_ingresses().iter())
            .filter(|object| ingress::validate::group(object) == group)
            .map(|object| ingress_key(object)),
    );
    woken.extend(devices(stores, group));
    woken
}

/// Whoever wants to be a provider's client.
fn clients(stores: &Stores, provider: &IdentityProvider) -> Vec<Woken> {
    let place = (provider.namespace().unwrap_or_default(), provider.name_any());
    let clients = (stores.oidc_clients).state_filter(|client| provider_of(client) == place);
    clients.iter().map(|client| client_key(client)).collect()
}

fn devices(stores: &Stores, group: &str) -> Vec<Woken> {
    stores
        .node_secrets(&Filter::Group(group))
        .iter()
        .map(|record| Woken::Device(record.name_any()))
        .collect()
}

/// Whoever claims a name, and their groups: when one lets it go, another may have it.
fn rivals(stores: &Stores, hostname: &str) -> Vec<Woken> {
    let tailnet_ingresses: Vec<Arc<TailnetIngress>> = stores
        .tailnet_ingresses
        .state_filter(|object| tailnet_ingress::validate::hostname_text(object) == hostname);
    let mut woken: Vec<_> = (tailnet_ingresses.iter())
        .flat_map(|object| {
            [
                key(object),
                Woken::ProxyGroup(tailnet_ingress::validate::group(object)),
            ]
        })
        .collect();
    let services = stores
        .tailnet_services
        .state_filter(|object| tailnet_service::validate::label_text(object) == hostname);
    woken.extend(services.iter().flat_map(|object| {
        [
            service_key(object),
            Woken::ProxyGroup(tailnet_service::validate::group(object)),
        ]
    }));
    let providers = stores
        .identity_providers
        .state_filter(|object| identity_provider::validate::hostname_text(object) == hostname);
    woken.extend(providers.iter().flat_map(|object| {
        [
            provider_key(object),
            Woken::ProxyGroup(identity_provider::validate::group(object)),
        ]
    }));
    woken.extend(
        (stores.our_ingresses().iter())
            .filter(|object| ingress::validate::hostname_text(object).1 == hostname)
            .flat_map(|object| {
                [
                    ingress_key(object),
                    Woken::ProxyGroup(ingress::validate::group(object)),
                ]
            }),
    );
    unique(woken)
}

/// The object that a Secret was made for.
fn owner(secret: &Secret) -> Option<Woken> {
    let mut parts = annotation(secret, OWNER)?.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?.to_owned(), parts.next()?.to_owned());
    match kind {
        "TailnetIngress" => Some(Woken::TailnetIngress { namespace, name }),
        "TailnetService" => Some(Woken::TailnetService { namespace, name }),
        "IdentityProvider" => Some(Woken::IdentityProvider { namespace, name }),
        "Ingress" => Some(Woken::Ingress { namespace, name }),
        _ => None,
    }
}

fn key(object: &TailnetIngress) -> Woken {
    Woken::TailnetIngress {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

fn service_key(object: &TailnetService) -> Woken {
    Woken::TailnetService {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

fn provider_key(object: &IdentityProvider) -> Woken {
    Woken::IdentityProvider {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

fn client_key(object: &OIDCClient) -> Woken {
    Woken::OidcClient {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

fn ingress_key(object: &Ingress) -> Woken {
    Woken::Ingress {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

fn unique(mut woken: Vec<Woken>) -> Vec<Woken> {
    woken.sort();
    woken.dedup();
    woken
}

#[cfg(test)]
mod tests;
