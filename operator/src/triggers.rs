//! Whom a change concerns. Pure: stores and the changed object in, what to look at again out.

mod concerned;
mod surroundings;
mod woken;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::ResourceExt;
use postern_crds::{
    IdentityProvider, OIDCClient, ProxyClass, ProxyGroup, Tailnet, TailnetIngress, TailnetService,
};

use crate::{
    identity_provider, ingress, oidc_client::dereference::provider_of, stores::Stores, tailnet_ingress,
    tailnet_service,
};
pub use concerned::everything;
use concerned::{clients, members, rivals};
pub use surroundings::{config_map, namespace, pod, secret, service, stateful_set};
pub use woken::Woken;
use woken::{client_key, ingress_key, key, provider_key, service_key};

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

#[cfg(test)]
mod tests;
