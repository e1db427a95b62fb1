//! Does a device's next step.

use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::Api;
use postern_crds::conditions::reasons;
use postern_proxy_config::names::{self, AUTH_KEY};
use serde_json::{Value, json};

use crate::{
    apply as write,
    context::{Context, Error},
    device::{dereference::Inputs, plan::Step},
    events::Remark,
    record::{KEY_ID, KEY_REVISION, KEY_SOURCE, KEY_TIME, NODE_ID, PROBLEM, Record},
    tailnet_api::{self, DeviceRef},
};

/// Length that Tailscale allows for a key's description.
const DESCRIPTION_LIMIT: usize = 50;

/// Applies.
///
/// # Errors
/// When the API server or the coordination server's API can't be told; the record then says why.
pub async fn apply(context: &Context, inputs: &Inputs, step: &Step) -> Result<(), Error> {
    let result = match step {
        Step::Nothing | Step::Wait(_) => Ok(()),
        Step::Mint => mint(context, inputs).await,
        Step::PutReusable => put_reusable(context, inputs).await,
        Step::ClearKey => patch(context, &inputs.record, json!({"data": {AUTH_KEY: null}})).await,
        Step::NoteNode { id, old } => note(context, inputs, id, old.as_deref()).await,
        Step::Remove { give_up } => remove(context, inputs, *give_up).await,
    };
    if let Err(Error::Tailnet(error)) = &result {
        let problem = error.to_string();
        if inputs.record.problem.as_ref() != Some(&problem) {
            annotate(context, &inputs.record, json!({PROBLEM: problem})).await?;
        }
    }
    result
}

async fn mint(context: &Context, inputs: &Inputs) -> Result<(), Error> {
    let Some(api) = &inputs.api else { return Ok(()) };
    // Which cluster a key is for, as far as a description's characters go.
    let mut description = format!(
        "postern {} {}",
        context.settings.cluster_id, inputs.record.hostname
    );
    description.truncate(DESCRIPTION_LIMIT);
    let Some(key) = api.mint(&inputs.record.tags, &description).await? else {
        return Ok(());
    };
    tracing::info!(hostname = %inputs.record.hostname, key.id = %key.id, "Made an auth key");
    put(context, inputs, key.key.expose(), json!({KEY_ID: key.id})).await
}

async fn put_reusable(context: &Context, inputs: &Inputs) -> Result<(), Error> {
    let Some((key, source)) = &inputs.reusable else {
        return Ok(());
    };
    put(context, inputs, key.expose(), json!({KEY_SOURCE: source})).await
}

async fn put(context: &Context, inputs: &Inputs, key: &str, mut annotations: Value) -> Result<(), Error> {
    annotations[KEY_REVISION] = json!((inputs.record.key_revision + 1).to_string());
    annotations[KEY_TIME] = json!(inputs.now.to_string());
    annotations[PROBLEM] = Value::Null;
    let fields = json!({"stringData": {AUTH_KEY: key}, "metadata": {"annotations": annotations}});
    patch(context, &inputs.record, fields).await
}

async fn note(context: &Context, inputs: &Inputs, id: &str, old: Option<&str>) -> Result<(), Error> {
    if let (Some(old), Some(api)) = (old, &inputs.api) {
        let device = DeviceRef {
            id: Some(old.to_owned()),
            ..device_of(&inputs.record)
        };
        match api.delete(&device).await {
            // What isn't ours, or can't be deleted by anybody, must not keep the new one from being noted.
            Ok(_) | Err(tailnet_api::Error::OtherDevice { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    annotate(context, &inputs.record, json!({NODE_ID: id, PROBLEM: null})).await
}

async fn remove(context: &Context, inputs: &Inputs, give_up: bool) -> Result<(), Error> {
    let record = &inputs.record;
    if let Some(api) = &inputs.api {
        // Without ever a key there can't be a device.
        if record.key_revision > 0 || record.node_id.is_some() || record.has_state {
            let left = match delete(api, record).await {
                Ok(true) => None,
                Ok(false) => Some("no API of the coordination server is known".to_owned()),
                Err(error @ tailnet_api::Error::OtherDevice { .. }) => Some(error.to_string()),
                Err(error @ tailnet_api::Error::Refused { .. }) if give_up => Some(error.to_string()),
                Err(error) => return Err(error.into()),
            };
            if let Some(why) = left {
                say_left(context, record, &why).await;
            } else {
                tracing::info!(hostname = %record.hostname, node.id = record.node_id, "Deleted a device");
            }
        }
    }
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &context.settings.namespace);
    write::delete(&secrets, &names::certificate(&record.group, &record.hostname)).await?;
    // The record last: as long as it is there, somebody looks after the device.
    write::delete(&secrets, &record.secret).await?;
    Ok(())
}

async fn delete(api: &tailnet_api::Api, record: &Record) -> Result<bool, tailnet_api::Error> {
    if let Some(key) = record.key_id.as_ref().filter(|_| record.has_key) {
        api.revoke(key).await?;
    }
    api.delete(&device_of(record)).await
}

/// How a recorded device is found.
pub fn device_of(record: &Record) -> DeviceRef {
    DeviceRef {
        id: record.node_id.clone(),
        hostname: record.hostname.clone(),
        tags: record.tags.clone(),
    }
}

async fn say_left(context: &Context, record: &Record, why: &str) {
    tracing::warn!(hostname = %record.hostname, node.id = record.node_id, why, "A device is left behind");
    let mut parts = record.owner.splitn(3, '/').map(str::to_owned);
    let (kind, namespace, name) = (parts.next(), parts.next(), parts.next());
    let reference = ObjectReference {
        api_version: Some(
            if kind.as_deref() == Some("Ingress") {
                "networking.k8s.io/v1"
            } else {
                "postern.dev/v1alpha1"
            }
            .into(),
        ),
        kind,
        namespace,
        name,
        uid: Some(record.owner_uid.clone()),
        ..ObjectReference::default()
    };
    let id = record
        .node_id
        .as_ref()
        .map(|id| format!(" ({id})"))
        .unwrap_or_default();
    let remark = Remark {
        topic: "device".into(),
        warning: true,
        reason: reasons::DEVICE_LEFT.into(),
        note: format!(
            "the machine {}{id} stays on the coordination server, remove it there: {why}",
            record.hostname
        ),
    };
    context.events.say(&reference, &[remark]).await;
}

async fn annotate(context: &Context, record: &Record, annotations: Value) -> Result<(), Error> {
    patch(context, record, json!({"metadata": {"annotations": annotations}})).await
}

async fn patch(context: &Context, record: &Record, fields: Value) -> Result<(), Error> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &context.settings.namespace);
    write::merge(&secrets, &record.secret, fields)
        .await
        .map_err(Error::from)
}

#[cfg(test)]
mod tests;
