//! The watches that fill the stores, and whom an event wakes.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{Lookup, store::Writer},
        watcher::{self, Event},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Stores, Writers};
use crate::{
    apply::Kind,
    labels::{MANAGED_BY, POSTERN},
    metrics::Metrics,
    queues::Queues,
    triggers::{self, Woken},
};

/// How many kinds are watched.
const WATCHES: usize = 15;

/// Counts the watches whose first list is in its store.
#[derive(Default)]
pub struct Readiness(AtomicUsize);

impl Readiness {
    /// Whether every store is filled.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire) >= WATCHES
    }
}

/// Whom the watches tell.
#[derive(Clone)]
pub struct Listeners {
    /// Readers of the stores, for looking up whom an event concerns.
    pub stores: Stores,
    /// Where the woken go.
    pub queues: Queues,
    /// Counts the watches that are ready.
    pub readiness: std::sync::Arc<Readiness>,
    /// Counts errors.
    pub metrics: std::sync::Arc<Metrics>,
    /// Ends the watches.
    pub cancel: CancellationToken,
}

/// Starts every watch.
pub fn watch(tracker: &TaskTracker, client: &Client, writers: Writers, listeners: &Listeners) {
    let Writers {
        tailnets,
        proxy_classes,
        proxy_groups,
        tailnet_ingresses,
        tailnet_services,
        identity_providers,
        oidc_clients,
        ingresses,
        ingress_classes,
        services,
        namespaces,
        secrets,
        config_maps,
        stateful_sets,
        pods,
    } = writers;
    let everything = watcher::Config::default;
    let ours = || watcher::Config::default().labels(&format!("{MANAGED_BY}={POSTERN}"));
    // Helm keeps each release in a Secret of up to 1 MiB.
    let no_releases = watcher::Config::default().fields("type!=helm.sh/release.v1");
    let w = Watch {
        tracker,
        client,
        listeners,
    };
    w.all(tailnets, everything(), triggers::tailnet);
    w.all(proxy_classes, everything(), triggers::proxy_class);
    w.all(proxy_groups, everything(), triggers::proxy_group);
    w.all(tailnet_ingresses, everything(), triggers::tailnet_ingress);
    w.all(tailnet_services, everything(), triggers::tailnet_service);
    w.all(identity_providers, everything(), triggers::identity_provider);
    w.all(oidc_clients, everything(), triggers::oidc_client);
    w.all(ingresses, everything(), triggers::ingress);
    w.all(ingress_classes, everything(), triggers::ingress_class);
    w.all(services, everything(), triggers::service);
    w.all(namespaces, everything(), triggers::namespace);
    w.here::<Secret>(secrets, no_releases, triggers::secret);
    w.here::<ConfigMap>(config_maps, ours(), triggers::config_map);
    w.here(stateful_sets, ours(), triggers::stateful_set);
    w.here(pods, ours(), triggers::pod);
}

struct Watch<'a> {
    tracker: &'a TaskTracker,
    client: &'a Client,
    listeners: &'a Listeners,
}

impl Watch<'_> {
    /// The whole cluster.
    fn all<K>(&self, writer: Writer<K>, config: watcher::Config, wake: fn(&Stores, &K) -> Vec<Woken>)
    where
        K: Kind + Lookup<DynamicType = ()>,
    {
        self.start(Api::all(self.client.clone()), writer, config, wake);
    }

    /// The operator's namespace.
    fn here<K>(&self, writer: Writer<K>, config: watcher::Config, wake: fn(&Stores, &K) -> Vec<Woken>)
    where
        K: Kind + Lookup<DynamicType = ()> + Resource<Scope = NamespaceResourceScope>,
    {
        let api = Api::namespaced(self.client.clone(), &self.listeners.stores.namespace);
        self.start(api, writer, config, wake);
    }

    fn start<K>(
        &self,
        api: Api<K>,
        writer: Writer<K>,
        config: watcher::Config,
        wake: fn(&Stores, &K) -> Vec<Woken>,
    ) where
        K: Kind + Lookup<DynamicType = ()>,
    {
        let listeners = self.listeners.clone();
        self.tracker.spawn(async move {
            let cancel = listeners.cancel.clone();
            let run = fill(api, writer, config, wake, listeners);
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = run => {}
            }
        });
    }
}

async fn fill<K>(
    api: Api<K>,
    writer: Writer<K>,
    config: watcher::Config,
    wake: fn(&Stores, &K) -> Vec<Woken>,
    listeners: Listeners,
) where
    K: Kind + Lookup<DynamicType = ()>,
{
    let Listeners {
        stores,
        queues,
        readiness,
        metrics,
        ..
    } = listeners;
    let kind = <K as Resource>::kind(&());
    let events = watcher::watcher(api, config)
        .default_backoff()
        // Close to half of an object's metadata, and nobody here reads it.
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .inspect_err(|error| {
            metrics.watch_error(&kind);
            tracing::warn!(%error, %kind, "A watch failed; it starts again");
        })
        .filter_map(|event| std::future::ready(event.ok()));
    let mut events = std::pin::pin!(events);
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Event::Apply(object) | Event::Delete(object) => queues.wake(wake(&stores, &object)).await,
            // Only when the list is whole does the store show it.
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => {
                if !listed {
                    listed = true;
                    readiness.0.fetch_add(1, Ordering::AcqRel);
                }
                // What went while the watch was away has no event of its own.
                queues.wake(triggers::everything(&stores)).await;
            }
        }
    }
}
