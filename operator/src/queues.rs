//! What is to be reconciled: one bounded queue per controller.

use k8s_openapi::api::{core::v1::Secret, networking::v1::Ingress};
use kube::runtime::reflector::ObjectRef;
use postern_crds::{IdentityProvider, OIDCClient, ProxyGroup, Tailnet, TailnetIngress, TailnetService};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::triggers::Woken;

/// The controllers take out at once and merge what is equal, so these hardly fill.
const CAPACITY: usize = 1024;

/// The ends to put in.
#[derive(Clone)]
pub struct Queues {
    namespace: String,
    tailnets: Sender<ObjectRef<Tailnet>>,
    proxy_groups: Sender<ObjectRef<ProxyGroup>>,
    tailnet_ingresses: Sender<ObjectRef<TailnetIngress>>,
    tailnet_services: Sender<ObjectRef<TailnetService>>,
    identity_providers: Sender<ObjectRef<IdentityProvider>>,
    oidc_clients: Sender<ObjectRef<OIDCClient>>,
    ingresses: Sender<ObjectRef<Ingress>>,
    devices: Sender<ObjectRef<Secret>>,
}

/// The ends to take out.
pub struct Outlets {
    /// For [`crate::tailnet`].
    pub tailnets: Receiver<ObjectRef<Tailnet>>,
    /// For [`crate::proxy_group`].
    pub proxy_groups: Receiver<ObjectRef<ProxyGroup>>,
    /// For [`crate::tailnet_ingress`].
    pub tailnet_ingresses: Receiver<ObjectRef<TailnetIngress>>,
    /// For [`crate::tailnet_service`].
    pub tailnet_services: Receiver<ObjectRef<TailnetService>>,
    /// For [`crate::identity_provider`].
    pub identity_providers: Receiver<ObjectRef<IdentityProvider>>,
    /// For [`crate::oidc_client`].
    pub oidc_clients: Receiver<ObjectRef<OIDCClient>>,
    /// For [`crate::ingress`].
    pub ingresses: Receiver<ObjectRef<Ingress>>,
    /// For [`crate::device`].
    pub devices: Receiver<ObjectRef<Secret>>,
}

/// Makes the queues.
pub fn queues(namespace: &str) -> (Queues, Outlets) {
    let (tailnets, tailnets_out) = channel(CAPACITY);
    let (proxy_groups, proxy_groups_out) = channel(CAPACITY);
    let (tailnet_ingresses, tailnet_ingresses_out) = channel(CAPACITY);
    let (tailnet_services, tailnet_services_out) = channel(CAPACITY);
    let (identity_providers, identity_providers_out) = channel(CAPACITY);
    let (oidc_clients, oidc_clients_out) = channel(CAPACITY);
    let (ingresses, ingresses_out) = channel(CAPACITY);
    let (devices, devices_out) = channel(CAPACITY);
    (
        Queues {
            namespace: namespace.to_owned(),
            tailnets,
            proxy_groups,
            tailnet_ingresses,
            tailnet_services,
            identity_providers,
            oidc_clients,
            ingresses,
            devices,
        },
        Outlets {
            tailnets: tailnets_out,
            proxy_groups: proxy_groups_out,
            tailnet_ingresses: tailnet_ingresses_out,
            tailnet_services: tailnet_services_out,
            identity_providers: identity_providers_out,
            oidc_clients: oidc_clients_out,
            ingresses: ingresses_out,
            devices: devices_out,
        },
    )
}

impl Queues {
    /// Puts in; waits where a queue is full, since an event that is lost would be missed for minutes.
    pub async fn wake(&self, woken: Vec<Woken>) {
        for key in woken {
            // A closed queue belongs to a controller that has ended, and with it the process.
            let _ = match key {
                Woken::Tailnet(name) => self.tailnets.send(ObjectRef::new(&name)).await.is_ok(),
                Woken::ProxyGroup(name) => self.proxy_groups.send(ObjectRef::new(&name)).await.is_ok(),
                Woken::TailnetIngress { namespace, name } => self
                    .tailnet_ingresses
                    .send(ObjectRef::new(&name).within(&namespace))
                    .await
                    .is_ok(),
                Woken::TailnetService { namespace, name } => self
                    .tailnet_services
                    .send(ObjectRef::new(&name).within(&namespace))
                    .await
                    .is_ok(),
                Woken::IdentityProvider { namespace, name } => self
                    .identity_providers
                    .send(ObjectRef::new(&name).within(&namespace))
                    .await
                    .is_ok(),
                Woken::OidcClient { namespace, name } => self
                    .oidc_clients
                    .send(ObjectRef::new(&name).within(&namespace))
                    .await
                    .is_ok(),
                Woken::Ingress { namespace, name } => self
                    .ingresses
                    .send(ObjectRef::new(&name).within(&namespace))
                    .await
                    .is_ok(),
                Woken::Device(secret) => self
                    .devices
                    .send(ObjectRef::new(&secret).within(&self.namespace))
                    .await
                    .is_ok(),
            };
        }
    }
}
