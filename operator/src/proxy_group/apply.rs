//! Does what was planned for a group: first what pods need, then what they serve, the pods last.

use std::collections::BTreeMap;

use aws_lc_rs::rand;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret, Service},
};
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};
use serde_json::json;

use crate::{
    apply::{self as write, ApplyError},
    context::Context,
    proxy_group::plan::Plan,
    record::RELEASED,
};

/// Applies.
///
/// # Errors
/// The first write that failed; what was planned after it is done by the next try.
pub async fn apply(context: &Context, plan: &Plan) -> Result<(), ApplyError> {
    let Plan {
        secrets,
        random,
        release,
        blanks,
        endpoints,
        shards,
        account,
        role,
        binding,
        network_policy,
        services,
        prune_services,
        budget,
        workload,
    } = plan;
    let (client, stores) = (&context.client, &context.stores);
    let namespace = &context.settings.namespace;
    let secret_api = Api::<Secret>::namespaced(client.clone(), namespace);
    let map_api = Api::<ConfigMap>::namespaced(client.clone(), namespace);

    for secret in secrets {
        write::create(&secret_api, secret).await?;
    }
    let (secret, key) = random;
    if stores.secret(&secret.name_any()).is_none() {
        write::create(&secret_api, &with_random_bytes(secret, key)).await?;
    }
    for blank in blanks {
        if stores.config_map(&blank.name_any()).is_none() {
            write::create(&map_api, blank).await?;
        }
    }
    let now = (context.clock)();
    context.applied.apply(client, account, now).await?;
    context.applied.apply(client, role, now).await?;
    context.applied.apply(client, binding, now).await?;
    for map in std::iter::once(endpoints).chain(shards) {
        let current = stores.config_map(&map.name_any());
        write::apply(client, map, current.as_deref()).await?;
    }
    // Only now: a name is out of the configuration before its device is touched.
    for (secret, since) in release {
        let patch = json!({"metadata": {"annotations": {RELEASED: since.to_string()}}});
        write::merge(&secret_api, secret, patch).await?;
    }
    context.applied.apply(client, network_policy, now).await?;
    for service in services {
        let current = stores.service(namespace, &service.name_any());
        write::apply(client, service, current.as_deref()).await?;
    }
    for service in prune_services {
        write::delete(&Api::<Service>::namespaced(client.clone(), namespace), service).await?;
    }
    context.applied.apply(client, budget, now).await?;
    if let Some(workload) = workload {
        let current = stores
            .stateful_sets
            .get(&ObjectRef::new(&workload.name_any()).within(namespace));
        write::apply(client, workload, current.as_deref()).await?;
    }
    Ok(())
}

fn with_random_bytes(secret: &Secret, key: &str) -> Secret {
    let mut bytes = vec![0; 32];
    rand::fill(&mut bytes).expect("the system's random numbers are there since start");
    Secret {
        data: Some(BTreeMap::from([(key.to_owned(), ByteString(bytes))])),
        ..secret.clone()
    }
}
