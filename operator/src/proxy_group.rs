//! ProxyGroup: the one writer of what a group's proxies serve, and of the pods that do it.

pub mod apply;
pub mod dereference;
pub mod plan;
pub mod status;
pub mod validate;

use std::sync::Arc;

use kube::{Api, ResourceExt, runtime::controller::Action};
use postern_crds::ProxyGroup;

use crate::{
    apply as write,
    context::{Context, Error, is_made_by_default, look_again},
    labels::GROUP_FINALIZER,
    name::backends,
};

/// Brings one group a step further.
///
/// # Errors
/// When the API server can't be told; faults of the object are conditions.
pub async fn reconcile(group: Arc<ProxyGroup>, context: Arc<Context>) -> Result<Action, Error> {
    let api = Api::<ProxyGroup>::all(context.client.clone());
    let inputs = dereference::dereference(&context.stores, &group);
    let deleting = group.metadata.deletion_timestamp.is_some();
    let unused = inputs.claims.is_empty() && inputs.records.is_empty();
    if unused && deleting {
        write::finalizer(&api, &*group, GROUP_FINALIZER, false).await?;
        return Ok(Action::await_change());
    }
    if unused && is_made_by_default(&*group) {
        write::delete(&api, &group.name_any()).await?;
        return Ok(Action::await_change());
    }
    if !deleting {
        write::finalizer(&api, &*group, GROUP_FINALIZER, true).await?;
    }

    let valid = validate::validate(&inputs);
    if let Ok(valid) = &valid {
        let addresses = |key: &str| backends::addresses(&context.stores, key);
        let plan = plan::plan(&context.settings, &inputs, valid, (context.clock)(), &addresses);
        apply::apply(&context, &plan).await?;
    }
    status::tell(&context, &api, &inputs, valid.as_ref()).await?;
    Ok(look_again(&*group))
}
