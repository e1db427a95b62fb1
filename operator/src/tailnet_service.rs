//! TailnetService: a name that every replica of a group serves at once, defined at the coordination service.
//!
//! The definition is recorded in the object's status before it is made, and goes before the finalizer does.
//! What the hosts do, they report; the group's plan gives each replica its node.

pub mod apply;
pub mod dereference;
pub mod plan;
pub mod status;
pub mod validate;

use std::sync::Arc;

use kube::{Api, ResourceExt, runtime::controller::Action};
use postern_crds::TailnetService;

use crate::{
    context::{Context, Error},
    name,
};

/// Brings one object a step further.
///
/// # Errors
/// When the API server or the coordination service can't be asked or told; faults of the object are
/// conditions.
pub async fn reconcile(object: Arc<TailnetService>, context: Arc<Context>) -> Result<Action, Error> {
    let api =
        Api::<TailnetService>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let claim = validate::claim(&object);
    let inputs = dereference::dereference(&context, &object, &claim, (context.clock)());
    let step = plan::plan(&inputs);
    let outcome = apply::apply(&context, &api, &object, &inputs, &step).await?;
    let standing = name::Standing {
        ours: true,
        kept: outcome.made.is_some() || !inputs.certificates.is_empty(),
    };
    let view = name::reconcile(&context, &api, &*object, claim, standing).await?;
    status::tell(&context, &api, &object, &view, &inputs, &outcome).await?;
    match (outcome.defined, step) {
        (Err(apply::Undefined::Failed(error)), _) => Err(error.into()),
        (_, plan::Step::Wait(time)) => Ok(Action::requeue(time)),
        _ => Ok(name::look_again(&*object, &view)),
    }
}
