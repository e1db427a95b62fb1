//! Devices: every record gets its auth key, and every device goes when nobody wants its name any more.

pub mod apply;
pub mod dereference;
pub mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::controller::Action;

use crate::{
    context::{Context, Error, look_again},
    record::Record,
};

/// Brings one device a step further.
///
/// # Errors
/// When the API server or the coordination server's API can't be told.
pub async fn reconcile(secret: Arc<Secret>, context: Arc<Context>) -> Result<Action, Error> {
    let Some(record) = Record::of(&secret) else {
        return Ok(Action::await_change());
    };
    let inputs = dereference::dereference(&context, record, (context.clock)());
    let step = plan::plan(&inputs);
    apply::apply(&context, &inputs, &step).await?;
    Ok(match step {
        plan::Step::Wait(time) => Action::requeue(time),
        _ => look_again(&*secret),
    })
}
