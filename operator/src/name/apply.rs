//! Does what was planned for one object.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use crate::{
    apply::{self, ApplyError, Kind},
    context::Context,
    labels::{NAME_FINALIZER, is_ours},
    name::plan::NamePlan,
};

/// Applies.
///
/// # Errors
/// The first write that failed; what was planned after it is done by the next try.
pub async fn apply<K: Kind>(
    context: &Context,
    api: &Api<K>,
    object: &K,
    plan: &NamePlan,
) -> Result<(), ApplyError> {
    let NamePlan {
        make_group,
        finalizer,
        copies,
        prune,
        problems: _,
    } = plan;
    if let Some(group) = make_group {
        apply::create(&Api::all(context.client.clone()), group).await?;
    }
    if *finalizer == Some(true) {
        apply::finalizer(api, object, NAME_FINALIZER, true).await?;
    }
    for copy in copies {
        let current = context.stores.secret(&copy.name_any());
        if current.as_ref().is_none_or(|current| is_ours(&**current)) {
            apply::apply(&context.client, copy, current.as_deref()).await?;
        }
    }
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &context.settings.namespace);
    for name in prune {
        apply::delete(&secrets, name).await?;
    }
    if *finalizer == Some(false) {
        apply::finalizer(api, object, NAME_FINALIZER, false).await?;
    }
    Ok(())
}
