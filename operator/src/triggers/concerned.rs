//! Who has to do with a group, a provider or a name.

use std::sync::Arc;

use kube::ResourceExt;
use postern_crds::{IdentityProvider, TailnetIngress};

use crate::{
    identity_provider, ingress,
    labels::{ROLE, ROLE_NODE, label},
    oidc_client::dereference::provider_of,
    stores::{Filter, Stores},
    tailnet_ingress, tailnet_service,
    triggers::woken::{Woken, client_key, ingress_key, key, provider_key, service_key},
};

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
pub(super) fn members(stores: &Stores, group: &str) -> Vec<Woken> {
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
pub(super) fn clients(stores: &Stores, provider: &IdentityProvider) -> Vec<Woken> {
    let place = (provider.namespace().unwrap_or_default(), provider.name_any());
    let clients = (stores.oidc_clients).state_filter(|client| provider_of(client) == place);
    clients.iter().map(|client| client_key(client)).collect()
}

pub(super) fn devices(stores: &Stores, group: &str) -> Vec<Woken> {
    stores
        .node_secrets(&Filter::Group(group))
        .iter()
        .map(|record| Woken::Device(record.name_any()))
        .collect()
}

/// Whoever claims a name, and their groups: when one lets it go, another may have it.
pub(super) fn rivals(stores: &Stores, hostname: &str) -> Vec<Woken> {
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

pub(super) fn unique(mut woken: Vec<Woken>) -> Vec<Woken> {
    woken.sort();
    woken.dedup();
    woken
}
