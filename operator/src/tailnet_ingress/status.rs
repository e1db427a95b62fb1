//! Tells a TailnetIngress's status: conditions, where it answers, and Events when the summary changes.

use kube::{Api, ResourceExt};
use postern_crds::{TailnetIngress, TailnetIngressStatus};

use crate::{
    apply::{self, ApplyError},
    conditions::{self, Said},
    context::{Context, reference},
    name::status::{View, remark},
};

/// Writes the status if it changed.
///
/// # Errors
/// When it can't be written.
pub async fn tell(
    context: &Context,
    api: &Api<TailnetIngress>,
    object: &TailnetIngress,
    view: &View,
) -> Result<(), ApplyError> {
    let before = object.status.clone().unwrap_or_default();
    let said = crate::name::status::conditions(view);
    let status = status(&before, view, &said, (context.clock)());
    if status == before {
        return Ok(());
    }
    apply::status(api, &object.name_any(), &status).await?;
    context.metrics.status_patch("TailnetIngress");
    let remarks = Vec::from_iter(remark(&said));
    context.events.say(&reference(object), &remarks).await;
    Ok(())
}

fn status(
    before: &TailnetIngressStatus,
    view: &View,
    said: &[Said],
    now: jiff::Timestamp,
) -> TailnetIngressStatus {
    let hostname = view
        .report
        .as_ref()
        .and_then(|report| report.assigned_name.clone());
    TailnetIngressStatus {
        conditions: conditions::merge(&before.conditions, said, view.claim.generation, now),
        url: hostname.as_ref().map(|hostname| format!("https://{hostname}")),
        hostname,
        addresses: view.addresses(),
        node_id: view.node_id(),
        certificate_expires: view.certificate_expires(),
    }
}
