//! Native Ingress of a class of ours: a front end without conditions.

pub mod status;
pub mod validate;

use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;
use kube::{Api, ResourceExt, runtime::controller::Action};

use crate::{
    context::{Context, Error},
    name,
};

/// Brings one object a step further.
///
/// # Errors
/// When the API server can't be asked or told; faults of the object are Events.
pub async fn reconcile(object: Arc<Ingress>, context: Arc<Context>) -> Result<Action, Error> {
    let ours = context.stores.is_our_ingress(&object);
    if !ours && !name::is_held(&*object) {
        return Ok(Action::await_change());
    }
    let api = Api::<Ingress>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let claim = validate::claim(&object);
    let standing = name::Standing { ours, kept: false };
    let view = name::reconcile(&context, &api, &*object, claim, standing).await?;
    status::tell(&context, &api, &object, &view, ours).await?;
    Ok(name::look_again(&*object, &view))
}
