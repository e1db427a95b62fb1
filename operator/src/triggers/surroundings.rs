//! Changes of Kubernetes' own objects: backends, namespaces, and what the operator made.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
};
use kube::ResourceExt;

use crate::{
    ingress,
    labels::{
        self, GROUP, HOSTNAME, OWNER, OWNER_UID, ROLE, ROLE_CLIENTS, ROLE_CREDENTIALS, ROLE_DOCUMENT,
        ROLE_KEYS, ROLE_NODE, ROLE_OWN_CERTIFICATE, annotation, label,
    },
    stores::Stores,
    tailnet, tailnet_ingress, tailnet_service,
    triggers::{
        self,
        concerned::{clients, devices, members, rivals, unique},
        woken::{Woken, client_key, ingress_key, key, provider_key, service_key},
    },
};

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
            .flat_map(|known| triggers::tailnet(stores, known))
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
