//! Before the operator goes for good: devices are deleted, finalizers taken away, and what was made for the
//! proxies is removed. Everybody's own objects stay, to be served again by a later installation.
//!
//! It ends within a bound. What could not be deleted at a coordination server is said, not waited for.

use std::{fmt::Debug, time::Duration};

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount},
        networking::v1::{Ingress, NetworkPolicy},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams};
use postern_crds::{
    IdentityProvider, OIDCClient, ProxyGroup, Tailnet, TailnetIngress, TailnetService,
    conditions::{READY, reasons},
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    apply::{self, Kind, call},
    args::Common,
    conditions::{self, Said},
    context::is_made_by_default,
    device::apply::device_of,
    labels::{
        self, GROUP_FINALIZER, MANAGED_BY, NAME_FINALIZER, POSTERN, ROLE, ROLE_NODE, TAILNET_FINALIZER, label,
    },
    lease::Election,
    name::is_held,
    record::Record,
    runtime,
    tailnet_api::Connections,
    tailnet_service::{apply::withdraw, plan::Made},
};

/// A leader notices within two seconds that the lease is another's, and ends.
const LEADER_ENDS: Duration = Duration::from_secs(6);
const PODS_END: Duration = Duration::from_secs(45);
const LOOK: Duration = Duration::from_millis(500);
const TRIES: u32 = 5;

/// Removes everything but the objects that people made.
///
/// # Errors
/// When the API server can't be told. A device that is left behind is no error: its name is in the log.
pub async fn run(common: Common) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("find the API server")?;
    let mut election = take_over(&common).await?;
    let work = async {
        sleep(LEADER_ENDS).await;
        let cluster = match &common.cluster_id {
            Some(id) => id.clone(),
            None => cluster_id(&client).await?,
        };
        remove(&client, &common.namespace, &cluster).await
    };
    // Helm deletes the Deployment before the lease, which is left as it is, expires.
    tokio::select! {
        biased;
        result = work => result,
        () = election.keep() => anyhow::bail!("another replica has taken the lease: try again"),
    }
}

async fn cluster_id(client: &Client) -> anyhow::Result<String> {
    let api = Api::<Namespace>::all(client.clone());
    let namespace = call::<Namespace, _>("get", "kube-system", api.get("kube-system")).await?;
    namespace
        .metadata
        .uid
        .context("the namespace kube-system has no UID")
}

async fn remove(client: &Client, namespace: &str, cluster: &str) -> anyhow::Result<()> {
    remove_all::<StatefulSet>(client, namespace).await?;
    wait_for_pods(client, namespace).await?;
    remove_devices(client, namespace).await?;
    remove_definitions(client, namespace, cluster).await?;
    let_go(client).await?;
    remove_all::<RoleBinding>(client, namespace).await?;
    remove_all::<Role>(client, namespace).await?;
    remove_all::<ServiceAccount>(client, namespace).await?;
    remove_all::<NetworkPolicy>(client, namespace).await?;
    remove_all::<Service>(client, namespace).await?;
    remove_all::<PodDisruptionBudget>(client, namespace).await?;
    remove_all::<ConfigMap>(client, namespace).await?;
    remove_all::<Secret>(client, namespace).await?;
    tracing::info!("Removed everything that the operator made");
    Ok(())
}

/// Makes the operator's replicas stand still.
async fn take_over(common: &Common) -> anyhow::Result<Election> {
    let api = runtime::lease_api(common).await?;
    let mut election = Election::new(api, format!("uninstall-{}", common.instance));
    let mut tries = 0;
    loop {
        match election.seize().await {
            Ok(()) => return Ok(election),
            // The leader renews every two seconds and may be faster.
            Err(error) if tries < TRIES => {
                tries += 1;
                tracing::debug!(%error, "Failed to take the lease; it is tried again");
                sleep(LOOK).await;
            }
            Err(error) => return Err(error).context("take the lease"),
        }
    }
}

async fn wait_for_pods(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let pods = async {
        loop {
            let pods = ours::<Pod>(client, namespace).await?;
            if !pods.iter().any(|pod| label(pod, labels::GROUP).is_some()) {
                return anyhow::Ok(());
            }
            sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(PODS_END, pods).await {
        Ok(result) => result,
        Err(_) => {
            tracing::warn!("Proxies are still there; their devices are deleted all the same");
            Ok(())
        }
    }
}

async fn remove_devices(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let tailnets = list(&Api::<Tailnet>::all(client.clone()), &ListParams::default()).await?;
    let secrets = ours::<Secret>(client, namespace).await?;
    let connections = Connections::default();
    for record in secrets
        .iter()
        .filter(|s| label(*s, ROLE) == Some(ROLE_NODE))
        .filter_map(Record::of)
    {
        let tailnet = tailnets
            .iter()
            .find(|tailnet| tailnet.name_any() == record.tailnet);
        let copy = labels::credentials(&record.tailnet);
        let credentials = secrets.iter().find(|secret| secret.name_any() == copy);
        let deleted = match (tailnet, credentials) {
            (Some(tailnet), Some(credentials)) => {
                let api = connections.api(&record.tailnet, tailnet, credentials);
                api.delete(&device_of(&record))
                    .await
                    .map_err(|error| error.to_string())
            }
            _ => Ok(false),
        };
        let (hostname, id) = (&record.hostname, &record.node_id);
        match deleted {
            Ok(true) => tracing::info!(%hostname, node.id = id, "Deleted a device"),
            Ok(false) => {
                tracing::warn!(%hostname, node.id = id, "A device stays: no API of its server is known")
            }
            Err(error) => tracing::warn!(%hostname, node.id = id, %error, "A device stays: remove it there"),
        }
    }
    Ok(())
}

/// Takes our part of every Service's definition away.
async fn remove_definitions(client: &Client, namespace: &str, cluster: &str) -> anyhow::Result<()> {
    let tailnets = list(&Api::<Tailnet>::all(client.clone()), &ListParams::default()).await?;
    let secrets = ours::<Secret>(client, namespace).await?;
    let connections = Connections::default();
    for object in list(
        &Api::<TailnetService>::all(client.clone()),
        &ListParams::default(),
    )
    .await?
    {
        let status = object.status.unwrap_or_default();
        let (Some(tailnet_name), Some(service)) = (status.tailnet, status.service) else {
            continue;
        };
        let tailnet = tailnets.iter().find(|tailnet| tailnet.name_any() == tailnet_name);
        let copy = labels::credentials(&tailnet_name);
        let credentials = secrets.iter().find(|secret| secret.name_any() == copy);
        let withdrawn = match (tailnet, credentials) {
            (Some(tailnet), Some(credentials)) => {
                let api = connections.api(&tailnet_name, tailnet, credentials);
                let made = Made {
                    tailnet: tailnet_name.clone(),
                    service: service.clone(),
                };
                withdraw(&api, &made, cluster)
                    .await
                    .map_err(|error| error.to_string())
            }
            _ => Ok(false),
        };
        match withdrawn {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(
                    service,
                    tailnet = tailnet_name,
                    "A Service stays defined: no API is known"
                )
            }
            Err(error) => {
                tracing::warn!(service, tailnet = tailnet_name, %error, "A Service stays defined: remove it there")
            }
        }
    }
    Ok(())
}

/// Takes our finalizers away, and says that nobody serves the objects.
async fn let_go(client: &Client) -> anyhow::Result<()> {
    let said = Said::no(
        READY,
        reasons::UNINSTALLED,
        "the operator was uninstalled: nobody serves this object",
    );
    let_go_of::<TailnetIngress>(client, &said, |object| {
        object.status.clone().unwrap_or_default().conditions
    })
    .await?;
    let_go_of::<TailnetService>(client, &said, |object| {
        object.status.clone().unwrap_or_default().conditions
    })
    .await?;
    let_go_of::<IdentityProvider>(client, &said, |object| {
        object.status.clone().unwrap_or_default().conditions
    })
    .await?;
    let_go_of::<OIDCClient>(client, &said, |object| {
        object.status.clone().unwrap_or_default().conditions
    })
    .await?;
    for object in list(&Api::<Ingress>::all(client.clone()), &ListParams::default()).await? {
        if is_held(&object) {
            let api = Api::<Ingress>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
            apply::status(&api, &object.name_any(), &json!({"loadBalancer": {}})).await?;
            release(&api, &object, NAME_FINALIZER).await?;
        }
    }
    let groups = Api::<ProxyGroup>::all(client.clone());
    for group in list(&groups, &ListParams::default()).await? {
        release(&groups, &group, GROUP_FINALIZER).await?;
        if is_made_by_default(&group) {
            apply::delete(&groups, &group.name_any()).await?;
        }
    }
    let tailnets = Api::<Tailnet>::all(client.clone());
    for tailnet in list(&tailnets, &ListParams::default()).await? {
        release(&tailnets, &tailnet, TAILNET_FINALIZER).await?;
        if is_made_by_default(&tailnet) {
            apply::delete(&tailnets, &tailnet.name_any()).await?;
        }
    }
    Ok(())
}

/// The same for all objects of a kind that has conditions.
async fn let_go_of<K>(
    client: &Client,
    said: &Said,
    conditions: fn(&K) -> Vec<Condition>,
) -> anyhow::Result<()>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    for object in list(&Api::<K>::all(client.clone()), &ListParams::default()).await? {
        let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
        let generation = object.meta().generation.unwrap_or_default();
        let before = conditions(&object);
        let conditions = conditions::merge(&before, std::slice::from_ref(said), generation, Timestamp::now());
        apply::status(&api, &object.name_any(), &json!({"conditions": conditions})).await?;
        release(&api, &object, NAME_FINALIZER).await?;
    }
    Ok(())
}

/// Takes a finalizer away; the object may have changed since it was read.
async fn release<K: Kind>(api: &Api<K>, object: &K, finalizer: &str) -> anyhow::Result<()> {
    let mut object = object.clone();
    for _ in 0..TRIES {
        match apply::finalizer(api, &object, finalizer, false).await {
            Err(error) if error.is_status(409) => {
                let name = object.name_any();
                match call::<K, _>("get", &name, api.get_opt(&name)).await? {
                    Some(newer) => object = newer,
                    None => return Ok(()),
                }
            }
            result => return Ok(result?),
        }
    }
    anyhow::bail!(
        "take the finalizer {finalizer} from {}: it keeps changing",
        object.name_any()
    )
}

async fn remove_all<K>(client: &Client, namespace: &str) -> anyhow::Result<()>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    // The chart's own objects carry another value of the label.
    for object in ours::<K>(client, namespace).await? {
        apply::delete(&api, &object.name_any()).await?;
    }
    Ok(())
}

async fn ours<K>(client: &Client, namespace: &str) -> anyhow::Result<Vec<K>>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    list(
        &api,
        &ListParams::default().labels(&format!("{MANAGED_BY}={POSTERN}")),
    )
    .await
}

async fn list<K: Kind + Debug>(api: &Api<K>, params: &ListParams) -> anyhow::Result<Vec<K>> {
    Ok(call::<K, _>("list", "all", api.list(params)).await?.items)
}
