//! TailnetIngress: a front end with conditions.

pub mod funnel;
pub mod status;
pub mod validate;

use std::sync::Arc;

use kube::{Api, ResourceExt, runtime::controller::Action};
use postern_crds::TailnetIngress;

use crate::{
    context::{Context, Error},
    name,
};

/// Brings one object a step further.
///
/// # Errors
/// When the API server can't be asked or told; faults of the object are conditions.
pub async fn reconcile(object: Arc<TailnetIngress>, context: Arc<Context>) -> Result<Action, Error> {
    let api =
        Api::<TailnetIngress>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let claim = validate::claim(&object);
    let standing = name::Standing {
        ours: true,
        kept: false,
    };
    let view = name::reconcile(&context, &api, &*object, claim, standing).await?;
    status::tell(&context, &api, &object, &view).await?;
    Ok(name::look_again(&*object, &view))
}
