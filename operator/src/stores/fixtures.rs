//! Stores that are filled from YAML, for tests.

use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
    networking::v1::{Ingress, IngressClass},
};
use kube::runtime::{reflector::store::Writer, watcher::Event};
use postern_crds::{
    IdentityProvider, OIDCClient, ProxyClass, ProxyGroup, Tailnet, TailnetIngress, TailnetService,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Stores, stores};
use crate::apply::Kind;

/// Stores with the objects of a YAML file of several documents.
pub fn filled(namespace: &str, yaml: &str) -> Stores {
    let (stores, mut writers) = stores(namespace);
    for document in serde_saphyr::from_multiple::<Value>(yaml).unwrap() {
        match document["kind"].as_str().unwrap_or_default() {
            "Tailnet" => put::<Tailnet>(&mut writers.tailnets, document),
            "ProxyClass" => put::<ProxyClass>(&mut writers.proxy_classes, document),
            "ProxyGroup" => put::<ProxyGroup>(&mut writers.proxy_groups, document),
            "TailnetIngress" => put::<TailnetIngress>(&mut writers.tailnet_ingresses, document),
            "TailnetService" => put::<TailnetService>(&mut writers.tailnet_services, document),
            "IdentityProvider" => put::<IdentityProvider>(&mut writers.identity_providers, document),
            "OIDCClient" => put::<OIDCClient>(&mut writers.oidc_clients, document),
            "Ingress" => put::<Ingress>(&mut writers.ingresses, document),
            "IngressClass" => put::<IngressClass>(&mut writers.ingress_classes, document),
            "Service" => put::<Service>(&mut writers.services, document),
            "Namespace" => put::<Namespace>(&mut writers.namespaces, document),
            "Secret" => put::<Secret>(&mut writers.secrets, document),
            "ConfigMap" => put::<ConfigMap>(&mut writers.config_maps, document),
            "Pod" => put::<Pod>(&mut writers.pods, document),
            other => panic!("no store of {other}"),
        }
    }
    stores
}

fn put<K>(writer: &mut Writer<K>, document: Value)
where
    K: Kind + DeserializeOwned + kube::runtime::reflector::Lookup<DynamicType = ()>,
{
    writer.apply_watcher_event(&Event::Apply(serde_json::from_value(document).unwrap()));
}
