//! Does what was planned for a Tailnet.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use postern_crds::Tailnet;

use crate::{
    apply::{self, ApplyError},
    context::Context,
    labels::{TAILNET_FINALIZER, is_ours},
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
