//! Does what was planned for one object.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, ResourceExt};
use postern_crds::{DEFAULT, ProxyGroup, ProxyGroupSpec};

use crate::{
    apply::{self, ApplyError, Kind},
    context::Context,
    labels::{MADE_BY_DEFAULT, MANAGED_BY, NAME_FINALIZER, POSTERN, is_ours},
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
        make_default_group,
        finalizer,
        copies,
        prune,
        problems: _,
    } = plan;
    if *make_default_group {
        apply::create(&Api::all(context.client.clone()), &default_group()).await?;
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

/// The ProxyGroup for objects that name none.
fn default_group() -> ProxyGroup {
    ProxyGroup {
        metadata: ObjectMeta {
            name: Some(DEFAULT.into()),
            labels: Some(BTreeMap::from([(MANAGED_BY.into(), POSTERN.into())])),
            annotations: Some(BTreeMap::from([(MADE_BY_DEFAULT.into(), "true".into())])),
            ..ObjectMeta::default()
        },
        spec: ProxyGroupSpec::default(),
        status: None,
    }
}
