//! Does what was planned for one client: first the app's Secret, then what the provider knows of it.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Resource, ResourceExt};
use postern_crds::OIDCClient;
use serde_json::json;

use crate::{
    apply::{self, ApplyError},
    context::Context,
    labels::{MANAGED_BY, POSTERN, ROLE_CLIENTS},
    model::Problem,
    oidc_client::plan::{AppSecret, Plan, not_writable},
};

/// Applies; the problem is what the namespace doesn't let the operator do.
///
/// # Errors
/// The first write that failed; what was planned after it is done by the next try.
pub async fn apply(
    context: &Context,
    object: &OIDCClient,
    plan: &Plan,
) -> Result<Option<Problem>, ApplyError> {
    let Plan {
        secret,
        entry,
        remove,
        problem: _,
        waits: _,
    } = plan;
    let here = Api::<Secret>::namespaced(context.client.clone(), &context.settings.namespace);
    let id = object.uid().unwrap_or_default();
    for place in remove {
        let nothing = json!({"data": {&id: null}});
        apply::merge(&here, place, nothing).await?;
    }
    if let Some(secret) = secret {
        match write(context, object, secret).await {
            Ok(()) => {}
            // Nobody knows the secret: there is no use in telling its hash.
            Err(error) if error.is_status(403) => return Ok(Some(not_writable())),
            Err(error) => return Err(error),
        }
    }
    if let Some(entry) = entry.as_ref().filter(|entry| entry.write) {
        let json = json!({"data": {&id: ByteString(entry.client.json())}});
        apply::merge(&here, &entry.place, json).await?;
    }
    Ok(None)
}

/// Made, or changed where it is still the one that was read: another's is never written over.
async fn write(context: &Context, object: &OIDCClient, secret: &AppSecret) -> Result<(), ApplyError> {
    let namespace = object.namespace().unwrap_or_default();
    let api = Api::<Secret>::namespaced(context.client.clone(), &namespace);
    let values: BTreeMap<_, _> = (secret.entries())
        .map(|(key, value)| (key, value.map(|text| ByteString(text.as_bytes().to_vec()))))
        .collect();
    if let Some((uid, version)) = &secret.change {
        let patch = json!({"metadata": {"uid": uid, "resourceVersion": version}, "data": values});
        return apply::merge(&api, &secret.name, patch).await;
    }
    let made = Secret {
        metadata: ObjectMeta {
            name: Some(secret.name.clone()),
            namespace: Some(namespace),
            labels: Some(BTreeMap::from([(MANAGED_BY.into(), POSTERN.into())])),
            owner_references: Some(vec![OwnerReference {
                api_version: OIDCClient::api_version(&()).into_owned(),
                kind: OIDCClient::kind(&()).into_owned(),
                name: object.name_any(),
                uid: object.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        data: Some(
            (values.into_iter())
                .filter_map(|(key, value)| Some((key.to_owned(), value?)))
                .collect(),
        ),
        ..Secret::default()
    };
    apply::create(&api, &made).await
}

/// Takes the entries of objects that are gone away from a provider's clients.
///
/// # Errors
/// When it can't be written.
pub async fn sweep(context: &Context, provider_uid: &str) -> Result<(), ApplyError> {
    let here = Api::<Secret>::namespaced(context.client.clone(), &context.settings.namespace);
    let objects = context.stores.oidc_clients.state();
    let is_there = |id: &str| {
        (objects.iter())
            .filter(|object| object.metadata.deletion_timestamp.is_none())
            .any(|object| object.metadata.uid.as_deref() == Some(id))
    };
    for secret in context.stores.secrets_of_owner(ROLE_CLIENTS, provider_uid) {
        let gone: BTreeMap<_, Option<ByteString>> = (secret.data.iter().flatten())
            .filter(|(id, _)| !is_there(id))
            .map(|(id, _)| (id, None))
            .collect();
        if !gone.is_empty() {
            apply::merge(&here, &secret.name_any(), json!({"data": gone})).await?;
        }
    }
    Ok(())
}
