//! Tells an IdentityProvider's status: conditions, the issuer, and Events when the summary changes.

use kube::{Api, ResourceExt};
use postern_crds::{IdentityProvider, IdentityProviderStatus, conditions::READY};
use postern_proxy_config::names;

use crate::{
    apply::{self, ApplyError},
    conditions::{self, Status},
    context::{Context, reference},
    events::Remark,
    model::PortProtocol,
    name::status::View,
};

/// Writes the status if it changed.
///
/// # Errors
/// When it can't be written.
pub async fn tell(
    context: &Context,
    api: &Api<IdentityProvider>,
    object: &IdentityProvider,
    view: &View,
) -> Result<(), ApplyError> {
    let before = object.status.clone().unwrap_or_default();
    let status = status(&before, view, &context.settings.namespace, (context.clock)());
    if status == before {
        return Ok(());
    }
    apply::status(api, &object.name_any(), &status).await?;
    context.metrics.status_patch("IdentityProvider");
    let said = crate::name::status::conditions(view);
    let remarks: Vec<_> = (said.iter().filter(|said| said.type_ == READY))
        .map(|said| Remark {
            topic: READY.into(),
            warning: said.status == Status::False && !crate::name::status::is_progress(said.reason),
            reason: said.reason.into(),
            note: said.message.clone(),
        })
        .collect();
    context.events.say(&reference(object), &remarks).await;
    Ok(())
}

/// The Service as apps inside of the cluster resolve it.
fn back_channel(view: &View, namespace: &str) -> Option<String> {
    let spec = view.claim.spec.as_ref().ok()?;
    spec.ports.iter().find_map(|port| match &port.protocol {
        PortProtocol::IdentityProvider(provider) if provider.back_channel => Some(format!(
            "{}.{namespace}.svc",
            names::back_channel(&view.claim.group)
        )),
        _ => None,
    })
}

fn status(
    before: &IdentityProviderStatus,
    view: &View,
    namespace: &str,
    now: jiff::Timestamp,
) -> IdentityProviderStatus {
    let said = crate::name::status::conditions(view);
    let report = view.report.as_ref();
    let issuer = report.and_then(|report| report.assigned_name.as_ref());
    IdentityProviderStatus {
        conditions: conditions::merge(&before.conditions, &said, view.claim.generation, now),
        issuer: issuer.map(|hostname| format!("https://{hostname}")),
        back_channel: back_channel(view, namespace),
        clients: 0,
        addresses: report
            .iter()
            .flat_map(|r| &r.addresses)
            .map(ToString::to_string)
            .collect(),
        node_id: (report.and_then(|report| report.node_id.clone()))
            .or_else(|| view.record.as_ref().and_then(|record| record.node_id.clone())),
        certificate_expires: report
            .and_then(|report| report.certificate_expires)
            .and_then(|time| jiff::Timestamp::from_second(time.as_second()).ok()),
    }
}
