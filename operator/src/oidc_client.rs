//! OIDCClient: a client of an IdentityProvider, and the Secret beside the app with all that the app needs.
//!
//! The client's secret stands in that Secret alone. The provider's proxies know its hash, from the object's entry in
//! a Secret of the operator's namespace: this controller writes the entry, and the provider's takes it away when the
//! object is gone. So the object needs no finalizer, and its own Secret goes with it.

pub mod apply;
pub mod dereference;
pub mod plan;
pub mod secret;
pub mod status;
pub mod validate;

use std::{sync::Arc, time::Duration};

use kube::{Api, ResourceExt, runtime::controller::Action};
use postern_crds::OIDCClient;

use crate::context::{Context, Error};
use secret::ClientSecret;

/// How old the news of the app's Secret may be: it can be read, but not watched.
const LOOK: Duration = Duration::from_secs(30);

/// Brings one object a step further.
///
/// # Errors
/// When the API server can't be asked or told; faults of the object are conditions.
pub async fn reconcile(object: Arc<OIDCClient>, context: Arc<Context>) -> Result<Action, Error> {
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let inputs = dereference::dereference(&context, &object).await?;
    let valid = validate::validate(&object, inputs.provider.as_deref(), &inputs.namespace);
    let now = (context.clock)();
    let mut plan = plan::plan(&object, &valid, &inputs, &ClientSecret::generate(), now);
    if let Some(problem) = apply::apply(&context, &object, &plan).await? {
        plan.problem = Some(problem);
    }
    let api = Api::<OIDCClient>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let view = status::View {
        accepted: valid.err(),
        plan: &plan,
        inputs: &inputs,
    };
    status::tell(&context, &api, &object, &view).await?;
    Ok(Action::requeue(LOOK))
}
