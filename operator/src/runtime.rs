//! The process: stores, then the lease, then the controllers, and an orderly end.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api, Client,
    runtime::{
        controller::{self, Action},
        reflector::{Lookup, ObjectRef, Store},
    },
};
use parking_lot::Mutex;
use postern_crds::TailnetSpec;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::Receiver,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Admin},
    apply::{Applied, Kind, call},
    args::Common,
    context::{Context, Error, Settings},
    device,
    events::Events,
    identity_provider, ingress, lease,
    metrics::Metrics,
    oidc_client, proxy_group,
    queues::{Outlets, queues},
    stores::{self, Listeners, Readiness, Stores},
    tailnet, tailnet_api, tailnet_ingress,
    tailnet_service::{self, apply::Definitions},
};

/// Reconciles of one controller at a time.
const CONCURRENCY: u16 = 16;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_DOUBLING: u32 = 8;
const START_RETRY: Duration = Duration::from_secs(1);
/// Pods get 30 s.
const END_WITHIN: Duration = Duration::from_secs(20);

/// Runs the controllers until a signal comes or the lease is lost.
///
/// # Errors
/// When the API server can't be reached at all, or the admin port can't be had.
pub async fn run(common: Common) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("find the API server")?;
    let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
    end_on_signal(&tracker, cancel.clone())?;

    let metrics = Metrics::new();
    let readiness = Arc::new(Readiness::default());
    let admin = Admin {
        readiness: Arc::clone(&readiness),
        metrics: Arc::clone(&metrics),
    };
    admin::serve(admin, common.admin_address, &tracker, cancel.clone())
        .await
        .context("serve the admin port")?;

    let settings = settings(&client, &common, &cancel).await?;
    let (stores, writers) = stores::stores(&settings.namespace);
    let (queues, outlets) = queues(&settings.namespace);
    let acting = cancel.child_token();
    let listeners = Listeners {
        stores: stores.clone(),
        queues: queues.clone(),
        readiness: Arc::clone(&readiness),
        metrics: Arc::clone(&metrics),
        cancel: cancel.clone(),
    };
    stores::watch(&tracker, &client, writers, &listeners);
    let context = context(client.clone(), settings, stores, &common.instance, metrics);

    let mut election = lease::Election::new(lease_api(&common).await?, common.instance.clone());
    let controllers = control(&tracker, &context, outlets, &readiness, &acting);
    if election.acquire(&cancel).await {
        tracing::info!(instance = %common.instance, "Acts as the leader");
        context.metrics.leads(true);
        if let Some(spec) = &common.default_tailnet {
            make_default_tailnet(&tracker, &context, &readiness, &acting, spec.clone());
        }
        controllers.start();
        election.hold(&cancel).await;
        // A leader that isn't one any more must not write another byte: the process ends.
        acting.cancel();
    }
    cancel.cancel();
    tracker.close();
    if tokio::time::timeout(END_WITHIN, tracker.wait()).await.is_err() {
        tracing::warn!("Ended with work still under way");
    }
    Ok(())
}

/// Tries until it is done: the definition may be a moment younger than this process.
fn make_default_tailnet(
    tracker: &TaskTracker,
    context: &Arc<Context>,
    readiness: &Arc<Readiness>,
    acting: &CancellationToken,
    spec: TailnetSpec,
) {
    let (context, readiness, acting) = (Arc::clone(context), Arc::clone(readiness), acting.clone());
    tracker.spawn(async move {
        loop {
            if readiness.is_ready() {
                match tailnet::apply::apply_default(&context, &spec).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "Failed to make the default Tailnet")
                    }
                }
            }
            tokio::select! {
                biased;
                () = acting.cancelled() => return,
                () = tokio::time::sleep(START_RETRY) => {}
            }
        }
    });
}

/// The shared context.
pub fn context(
    client: Client,
    settings: Settings,
    stores: Stores,
    instance: &str,
    metrics: Arc<Metrics>,
) -> Arc<Context> {
    Arc::new(Context {
        events: Events::new(client.clone(), instance),
        client,
        stores,
        settings,
        metrics,
        tailnets: tailnet_api::Connections::default(),
        applied: Applied::default(),
        definitions: Definitions::default(),
        clock: Timestamp::now,
    })
}

/// What the command line says, with the cluster's identity.
///
/// # Errors
/// When the process is to end before the API server tells it.
async fn settings(client: &Client, common: &Common, cancel: &CancellationToken) -> anyhow::Result<Settings> {
    let cluster_id = match &common.cluster_id {
        Some(id) => id.clone(),
        None => cluster_id(client, cancel)
            .await
            .context("ended before the API server answered")?,
    };
    Ok(Settings {
        namespace: common.namespace.clone(),
        cluster_id,
        proxy_image: common.image.clone(),
        pull_policy: common.pull_policy.clone(),
        proxy_log: common.proxy_log.clone(),
    })
}

/// Waits for the API server: a process that ended instead would be started later and later.
async fn cluster_id(client: &Client, cancel: &CancellationToken) -> Option<String> {
    let namespaces = Api::<Namespace>::all(client.clone());
    loop {
        match call::<Namespace, _>("get", "kube-system", namespaces.get("kube-system")).await {
            Ok(namespace) => return namespace.metadata.uid,
            Err(error) => tracing::warn!(error = %chain(&error), "The API server doesn't answer yet"),
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return None,
            () = tokio::time::sleep(START_RETRY) => {}
        }
    }
}

/// A client of its own for the lease: the usual one repeats a call for minutes.
///
/// # Errors
/// When there is no configuration of a client.
pub async fn lease_api(common: &Common) -> anyhow::Result<Api<Lease>> {
    let mut config = kube::Config::infer().await.context("find the API server")?;
    config.default_retry = false;
    let client = Client::try_from(config).context("make a client for the lease")?;
    Ok(Api::namespaced(client, &common.namespace))
}

/// Starts the controllers, once it is said.
struct Gate(CancellationToken);

impl Gate {
    fn start(self) {
        self.0.cancel();
    }
}

fn control(
    tracker: &TaskTracker,
    context: &Arc<Context>,
    outlets: Outlets,
    readiness: &Arc<Readiness>,
    acting: &CancellationToken,
) -> Gate {
    let Outlets {
        tailnets,
        proxy_groups,
        tailnet_ingresses,
        tailnet_services,
        identity_providers,
        oidc_clients,
        ingresses,
        devices,
    } = outlets;
    let gate = CancellationToken::new();
    let stores = &context.stores;
    let c = Control {
        tracker,
        context,
        gate: &gate,
        readiness,
        acting,
    };
    c.run("tailnet", stores.tailnets.clone(), tailnets, tailnet::reconcile);
    c.run(
        "proxy_group",
        stores.proxy_groups.clone(),
        proxy_groups,
        proxy_group::reconcile,
    );
    c.run(
        "tailnet_ingress",
        stores.tailnet_ingresses.clone(),
        tailnet_ingresses,
        tailnet_ingress::reconcile,
    );
    c.run(
        "tailnet_service",
        stores.tailnet_services.clone(),
        tailnet_services,
        tailnet_service::reconcile,
    );
    c.run(
        "identity_provider",
        stores.identity_providers.clone(),
        identity_providers,
        identity_provider::reconcile,
    );
    c.run(
        "oidc_client",
        stores.oidc_clients.clone(),
        oidc_clients,
        oidc_client::reconcile,
    );
    c.run("ingress", stores.ingresses.clone(), ingresses, ingress::reconcile);
    c.run("device", stores.secrets.clone(), devices, device::reconcile);
    Gate(gate)
}

struct Control<'a> {
    tracker: &'a TaskTracker,
    context: &'a Arc<Context>,
    gate: &'a CancellationToken,
    readiness: &'a Arc<Readiness>,
    acting: &'a CancellationToken,
}

impl Control<'_> {
    fn run<K, F>(
        &self,
        name: &'static str,
        store: Store<K>,
        queue: Receiver<ObjectRef<K>>,
        reconcile: fn(Arc<K>, Arc<Context>) -> F,
    ) where
        K: Kind + Lookup<DynamicType = ()>,
        F: Future<Output = Result<Action, Error>> + Send + 'static,
    {
        let (context, acting) = (Arc::clone(self.context), self.acting.clone());
        let (gate, readiness) = (self.gate.clone(), Arc::clone(self.readiness));
        self.tracker.spawn(async move {
            let failures = Arc::new(Failures::default());
            let counted = Arc::clone(&failures);
            let measured = move |object: Arc<K>, context: Arc<Context>| {
                let (failures, key) = (Arc::clone(&counted), stores::key_of(&*object));
                Box::pin(async move {
                    let started = Instant::now();
                    let result = reconcile(object, Arc::clone(&context)).await;
                    let category = result.as_ref().err().map(Error::category);
                    context.metrics.reconciled(name, started.elapsed().as_secs_f64(), category);
                    if result.is_ok() {
                        failures.forget(&key);
                    }
                    result
                })
            };
            let retry = move |object: Arc<K>, error: &Error, _: Arc<Context>| {
                let key = stores::key_of(&*object);
                let pause = failures.count(&key);
                tracing::warn!(controller = name, object = %key, error = %chain(error), ?pause, "A reconcile failed");
                Action::requeue(pause)
            };
            let queue = queue_stream(queue, gate, readiness, acting.clone());
            let config = controller::Config::default().concurrency(CONCURRENCY);
            let results = controller::applier(measured, retry, context, store, queue, config);
            let drive = results.for_each(|_| std::future::ready(()));
            tokio::select! {
                biased;
                () = acting.cancelled() => {}
                () = drive => {}
            }
        });
    }
}

/// Lets nothing through before this process leads and its stores are filled: a plan that is made of half of
/// the objects would take the other half away.
fn queue_stream<K>(
    queue: Receiver<ObjectRef<K>>,
    gate: CancellationToken,
    readiness: Arc<Readiness>,
    acting: CancellationToken,
) -> impl Stream<Item = Result<ObjectRef<K>, Infallible>>
where
    K: Lookup<DynamicType = ()> + 'static,
{
    let held = (queue, gate, readiness, HashSet::<ObjectRef<K>>::new(), false);
    stream::unfold(
        held,
        |(mut queue, gate, readiness, mut waiting, mut open)| async move {
            loop {
                if open {
                    if let Some(key) = waiting.iter().next().cloned() {
                        waiting.remove(&key);
                        return Some((Ok(key), (queue, gate, readiness, waiting, open)));
                    }
                    let key = queue.recv().await?;
                    return Some((Ok(key), (queue, gate, readiness, waiting, open)));
                }
                if gate.is_cancelled() && readiness.is_ready() {
                    open = true;
                    continue;
                }
                tokio::select! {
                    biased;
                    key = queue.recv() => {
                        waiting.insert(key?);
                    }
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        },
    )
    .take_until(async move { acting.cancelled().await })
    .boxed()
}

/// How often each object has failed in a row.
struct Failures<K: Lookup<DynamicType = ()> + 'static>(Mutex<HashMap<ObjectRef<K>, u32>>);

impl<K: Lookup<DynamicType = ()> + 'static> Default for Failures<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Lookup<DynamicType = ()> + 'static> Failures<K>
where
    ObjectRef<K>: Hash + Eq + Clone,
{
    fn count(&self, key: &ObjectRef<K>) -> Duration {
        let mut all = self.0.lock();
        let count = all.entry(key.clone()).or_default();
        let pause = FIRST_RETRY * 2_u32.pow((*count).min(LAST_DOUBLING));
        *count += 1;
        pause
    }

    fn forget(&self, key: &ObjectRef<K>) {
        self.0.lock().remove(key);
    }
}

/// An error with all of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn end_on_signal(tracker: &TaskTracker, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tracker.spawn(async move {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    });
    Ok(())
}
