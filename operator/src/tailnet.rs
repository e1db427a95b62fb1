//! Tailnet: whether its credentials work, and a copy of them that outlives it until the last device is gone.

pub mod apply;
pub mod dereference;
pub mod plan;
pub mod status;
pub mod validate;

use std::sync::Arc;

use kube::{Api, ResourceExt, runtime::controller::Action};
use postern_crds::Tailnet;

use crate::context::{Context, Error, look_again};

/// Brings one Tailnet a step further.
///
/// # Errors
/// When the API server can't be told; what is wrong with the Tailnet is a condition.
pub async fn reconcile(tailnet: Arc<Tailnet>, context: Arc<Context>) -> Result<Action, Error> {
    let api = Api::<Tailnet>::all(context.client.clone());
    let inputs = dereference::dereference(&context.stores, &tailnet);
    let valid = validate::validate(&inputs);
    let plan = plan::plan(&context.settings.namespace, &inputs, valid.as_ref().ok());
    apply::apply(&context, &api, &tailnet, &plan).await?;
    if plan.finalizer == Some(false) {
        return Ok(Action::await_change());
    }
    let probe = match context
        .stores
        .secret(&crate::labels::credentials(&tailnet.name_any()))
    {
        Some(copy) => {
            let api = context.tailnets.api(&tailnet.name_any(), &tailnet, &copy);
            Some(status::Probe {
                credentials: api.probe().await,
                services: api.probe_services().await,
            })
        }
        None => None,
    };
    status::tell(&context, &api, &inputs, valid.as_ref(), probe).await?;
    Ok(look_again(&*tailnet))
}
