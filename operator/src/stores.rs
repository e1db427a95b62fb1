//! What the operator knows of the cluster: one watch and one store per kind.
//!
//! Decisions read these stores and nothing else, so a reconcile costs no list. An event is passed on only
//! after it is in the store: whoever it wakes reads at least that state.

#[cfg(test)]
pub mod fixtures;
mod watches;

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Resource, ResourceExt,
    runtime::reflector::{Lookup, ObjectRef, Store, store::Writer},
};
use postern_crds::{
    INGRESS_CONTROLLER, IdentityProvider, OIDCClient, ProxyClass, ProxyGroup, Tailnet, TailnetIngress,
    TailnetService,
};

use crate::labels::{GROUP, OWNER_UID, ROLE, ROLE_NODE, label};
pub use watches::{Listeners, Readiness, watch};

/// Readers of every store.
#[derive(Clone)]
pub struct Stores {
    /// The operator's namespace.
    pub namespace: String,
    /// All Tailnets.
    pub tailnets: Store<Tailnet>,
    /// All ProxyClasses.
    pub proxy_classes: Store<ProxyClass>,
    /// All ProxyGroups.
    pub proxy_groups: Store<ProxyGroup>,
    /// All TailnetIngresses.
    pub tailnet_ingresses: Store<TailnetIngress>,
    /// All TailnetServices.
    pub tailnet_services: Store<TailnetService>,
    /// All IdentityProviders.
    pub identity_providers: Store<IdentityProvider>,
    /// All OIDCClients.
    pub oidc_clients: Store<OIDCClient>,
    /// All Ingresses, of whatever class.
    pub ingresses: Store<Ingress>,
    /// All IngressClasses.
    pub ingress_classes: Store<IngressClass>,
    /// All Services.
    pub services: Store<Service>,
    /// All namespaces.
    pub namespaces: Store<Namespace>,
    /// Secrets of the operator's namespace.
    pub secrets: Store<Secret>,
    /// ConfigMaps of the operator's namespace that are ours.
    pub config_maps: Store<ConfigMap>,
    /// StatefulSets of the operator's namespace that are ours.
    pub stateful_sets: Store<StatefulSet>,
    /// Pods of the operator's namespace that are ours.
    pub pods: Store<Pod>,
}

/// Writers of every store.
pub struct Writers {
    pub(crate) tailnets: Writer<Tailnet>,
    pub(crate) proxy_classes: Writer<ProxyClass>,
    pub(crate) proxy_groups: Writer<ProxyGroup>,
    pub(crate) tailnet_ingresses: Writer<TailnetIngress>,
    pub(crate) tailnet_services: Writer<TailnetService>,
    pub(crate) identity_providers: Writer<IdentityProvider>,
    pub(crate) oidc_clients: Writer<OIDCClient>,
    pub(crate) ingresses: Writer<Ingress>,
    pub(crate) ingress_classes: Writer<IngressClass>,
    pub(crate) services: Writer<Service>,
    pub(crate) namespaces: Writer<Namespace>,
    pub(crate) secrets: Writer<Secret>,
    pub(crate) config_maps: Writer<ConfigMap>,
    pub(crate) stateful_sets: Writer<StatefulSet>,
    pub(crate) pods: Writer<Pod>,
}

/// Makes empty stores.
pub fn stores(namespace: &str) -> (Stores, Writers) {
    let writers = Writers {
        tailnets: Writer::default(),
        proxy_classes: Writer::default(),
        proxy_groups: Writer::default(),
        tailnet_ingresses: Writer::default(),
        tailnet_services: Writer::default(),
        identity_providers: Writer::default(),
        oidc_clients: Writer::default(),
        ingresses: Writer::default(),
        ingress_classes: Writer::default(),
        services: Writer::default(),
        namespaces: Writer::default(),
        secrets: Writer::default(),
        config_maps: Writer::default(),
        stateful_sets: Writer::default(),
        pods: Writer::default(),
    };
    let stores = Stores {
        namespace: namespace.to_owned(),
        tailnets: writers.tailnets.as_reader(),
        proxy_classes: writers.proxy_classes.as_reader(),
        proxy_groups: writers.proxy_groups.as_reader(),
        tailnet_ingresses: writers.tailnet_ingresses.as_reader(),
        tailnet_services: writers.tailnet_services.as_reader(),
        identity_providers: writers.identity_providers.as_reader(),
        oidc_clients: writers.oidc_clients.as_reader(),
        ingresses: writers.ingresses.as_reader(),
        ingress_classes: writers.ingress_classes.as_reader(),
        services: writers.services.as_reader(),
        namespaces: writers.namespaces.as_reader(),
        secrets: writers.secrets.as_reader(),
        config_maps: writers.config_maps.as_reader(),
        stateful_sets: writers.stateful_sets.as_reader(),
        pods: writers.pods.as_reader(),
    };
    (stores, writers)
}

impl Stores {
    /// A Tailnet.
    pub fn tailnet(&self, name: &str) -> Option<Arc<Tailnet>> {
        self.tailnets.get(&ObjectRef::new(name))
    }

    /// A ProxyGroup.
    pub fn proxy_group(&self, name: &str) -> Option<Arc<ProxyGroup>> {
        self.proxy_groups.get(&ObjectRef::new(name))
    }

    /// A Secret of the operator's namespace.
    pub fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.secrets.get(&ObjectRef::new(name).within(&self.namespace))
    }

    /// One of our ConfigMaps.
    pub fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps
            .get(&ObjectRef::new(name).within(&self.namespace))
    }

    /// A Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&ObjectRef::new(name).within(namespace))
    }

    /// Labels of a namespace.
    pub fn namespace_labels(&self, name: &str) -> std::collections::BTreeMap<String, String> {
        (self.namespaces.get(&ObjectRef::new(name)))
            .and_then(|namespace| namespace.metadata.labels.clone())
            .unwrap_or_default()
    }

    /// Whether an Ingress is of a class of ours.
    pub fn is_our_ingress(&self, ingress: &Ingress) -> bool {
        (ingress.spec.as_ref())
            .and_then(|spec| spec.ingress_class_name.as_deref())
            .and_then(|class| self.ingress_classes.get(&ObjectRef::new(class)))
            .and_then(|class| class.spec.as_ref()?.controller.clone())
            .is_some_and(|controller| controller == INGRESS_CONTROLLER)
    }

    /// Ingresses of a class of ours.
    pub fn our_ingresses(&self) -> Vec<Arc<Ingress>> {
        self.ingresses
            .state_filter(|ingress| self.is_our_ingress(ingress))
    }

    /// The Secrets that record devices, of a group or an object.
    pub fn node_secrets(&self, filter: &Filter<'_>) -> Vec<Arc<Secret>> {
        self.secrets.state_filter(|secret| {
            label(secret, ROLE) == Some(ROLE_NODE)
                && match filter {
                    Filter::Group(group) => label(secret, GROUP) == Some(group),
                    Filter::Owner(uid) => label(secret, OWNER_UID) == Some(uid),
                }
        })
    }

    /// Secrets of a role that were made for an object.
    pub fn secrets_of_owner(&self, role: &str, uid: &str) -> Vec<Arc<Secret>> {
        self.secrets
            .state_filter(|secret| label(secret, ROLE) == Some(role) && label(secret, OWNER_UID) == Some(uid))
    }
}

/// Which records.
#[derive(Debug, Clone, Copy)]
pub enum Filter<'a> {
    /// Of a ProxyGroup.
    Group(&'a str),
    /// Of an object, by UID.
    Owner(&'a str),
}

/// The key of an object in a store.
pub fn key_of<K>(object: &K) -> ObjectRef<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()>,
{
    let key = ObjectRef::new(&ResourceExt::name_any(object));
    match ResourceExt::namespace(object) {
        Some(namespace) => key.within(&namespace),
        None => key,
    }
}
