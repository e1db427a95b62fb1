//! Tells an IdentityProvider's status: conditions, the issuer, and Events when the summary changes.

use std::collections::BTreeMap;

use kube::{Api, ResourceExt};
use postern_crds::{IdentityProvider, IdentityProviderStatus};
use postern_proxy_config::names;

use crate::{
    apply::{self, ApplyError},
    conditions,
    context::{Context, reference},
    labels::ROLE_CLIENTS,
    model::PortProtocol,
    name::status::{View, remark},
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
    let clients = context
        .stores
        .secrets_of_owner(ROLE_CLIENTS, &view.claim.owner.uid);
    let clients = clients.iter().flat_map(|secret| &secret.data).map(BTreeMap::len);
    let said = crate::name::status::conditions(view);
    let status = IdentityProviderStatus {
        conditions: conditions::merge(
            &before.conditions,
            &said,
            view.claim.generation,
            (context.clock)(),
        ),
        issuer: issuer(view),
        back_channel: back_channel(view, &context.settings.namespace),
        clients: i32::try_from(clients.sum::<usize>()).unwrap_or(i32::MAX),
        addresses: view.addresses(),
        node_id: view.node_id(),
        certificate_expires: view.certificate_expires(),
    };
    if status == before {
        return Ok(());
    }
    apply::status(api, &object.name_any(), &status).await?;
    context.metrics.status_patch("IdentityProvider");
    let remarks = Vec::from_iter(remark(&said));
    context.events.say(&reference(object), &remarks).await;
    Ok(())
}

/// Where it answers, once the coordination server has said by which name.
fn issuer(view: &View) -> Option<String> {
    let assigned = view.report.as_ref()?.assigned_name.as_ref()?;
    Some(format!("https://{assigned}"))
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
