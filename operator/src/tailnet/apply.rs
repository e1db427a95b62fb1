//! Does what was planned for a Tailnet.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, ResourceExt};
use postern_crds::{DEFAULT, Tailnet, TailnetSpec};

use crate::{
    apply::{self, ApplyError},
    context::Context,
    labels::{MADE_BY_DEFAULT, TAILNET_FINALIZER, is_ours},
    tailnet::plan::Plan,
};

/// Applies.
///
/// # Errors
/// The first write that failed.
pub async fn apply(
    context: &Context,
    api: &Api<Tailnet>,
    tailnet: &Tailnet,
    plan: &Plan,
) -> Result<(), ApplyError> {
    let Plan {
        finalizer,
        copy,
        prune,
    } = plan;
    if *finalizer == Some(true) {
        apply::finalizer(api, tailnet, TAILNET_FINALIZER, true).await?;
    }
    if let Some(copy) = copy {
        let current = context.stores.secret(&copy.name_any());
        if current.as_ref().is_none_or(|current| is_ours(&**current)) {
            apply::apply(&context.client, copy, current.as_deref()).await?;
        }
    }
    if let Some(name) = prune {
        let secrets = Api::<Secret>::namespaced(context.client.clone(), &context.settings.namespace);
        apply::delete(&secrets, name).await?;
    }
    if *finalizer == Some(false) {
        apply::finalizer(api, tailnet, TAILNET_FINALIZER, false).await?;
    }
    Ok(())
}

/// Makes the Tailnet `default` that the installation describes, or brings it up to date.
///
/// # Errors
/// When the API server doesn't take it.
pub async fn apply_default(context: &Context, spec: &TailnetSpec) -> Result<(), ApplyError> {
    let tailnet = Tailnet {
        metadata: ObjectMeta {
            name: Some(DEFAULT.into()),
            annotations: Some(BTreeMap::from([(MADE_BY_DEFAULT.into(), "true".into())])),
            ..ObjectMeta::default()
        },
        spec: spec.clone(),
        status: None,
    };
    let current = context.stores.tailnet(DEFAULT);
    apply::apply_to(&Api::all(context.client.clone()), &tailnet, current.as_deref()).await
}
