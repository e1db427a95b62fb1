//! Tells an OIDCClient's status: conditions, the client's ID, and Events when the summary changes.

use jiff::Timestamp;
use kube::{Api, ResourceExt};
use postern_crds::{
    OIDCClient, OidcClientStatus,
    conditions::{ACCEPTED, PROGRAMMED, READY, RESOLVED_REFS, reasons},
};
use postern_proxy_config::clients;

use crate::{
    apply::{self, ApplyError},
    conditions::{self, Said},
    context::{Context, reference},
    model::Problem,
    name::status::remark,
    oidc_client::{
        dereference::{Inputs, secret_name},
        plan::{self, Plan},
    },
};

/// Everything that a status is made of.
#[derive(Debug)]
pub struct View<'a> {
    /// Why the provider doesn't take the client.
    pub accepted: Option<Problem>,
    /// What was done.
    pub plan: &'a Plan,
    /// What it was made of.
    pub inputs: &'a Inputs,
}

/// Writes the status if it changed.
///
/// # Errors
/// When it can't be written.
pub async fn tell(
    context: &Context,
    api: &Api<OIDCClient>,
    object: &OIDCClient,
    view: &View<'_>,
) -> Result<(), ApplyError> {
    let before = object.status.clone().unwrap_or_default();
    let said = conditions(&object.uid().unwrap_or_default(), view);
    let status = status(object, &before, view, &said, (context.clock)());
    if status == before {
        return Ok(());
    }
    apply::status(api, &object.name_any(), &status).await?;
    context.metrics.status_patch("OIDCClient");
    let remarks = Vec::from_iter(remark(&said));
    context.events.say(&reference(object), &remarks).await;
    Ok(())
}

fn status(
    object: &OIDCClient,
    before: &OidcClientStatus,
    view: &View<'_>,
    said: &[Said],
    now: Timestamp,
) -> OidcClientStatus {
    let generation = object.metadata.generation.unwrap_or_default();
    let is_known = view.plan.entry.is_some();
    let issuer = view.inputs.provider.as_deref().and_then(plan::issuer);
    OidcClientStatus {
        conditions: conditions::merge(&before.conditions, said, generation, now),
        client_id: (object.uid().filter(|_| is_known)).or_else(|| before.client_id.clone()),
        issuer: issuer.map(str::to_owned),
        secret_name: (is_known && view.plan.problem.is_none())
            .then(|| secret_name(object))
            .or_else(|| before.secret_name.clone()),
    }
}

/// The conditions, the summary last.
fn conditions(uid: &str, view: &View<'_>) -> Vec<Said> {
    let accepted = match &view.accepted {
        None => Said::yes(ACCEPTED, reasons::ACCEPTED, "the provider takes the client"),
        Some(problem) => Said::no(ACCEPTED, problem.reason, problem.to_string()),
    };
    let resolved = match (&view.accepted, &view.plan.problem) {
        (Some(_), _) => Said::unknown(RESOLVED_REFS, reasons::UNKNOWN, "the object isn't accepted"),
        (None, Some(problem)) => Said::no(RESOLVED_REFS, problem.reason, problem.to_string()),
        (None, None) => Said::yes(
            RESOLVED_REFS,
            reasons::RESOLVED_REFS,
            "everything that it names is there",
        ),
    };
    let programmed = programmed(uid, view);
    let first = [&accepted, &resolved, &programmed]
        .into_iter()
        .find(|said| !said.holds());
    let ready = match first {
        Some(said) => Said::no(READY, said.reason, said.message.clone()),
        None => Said::yes(READY, reasons::READY, "users can log in"),
    };
    vec![accepted, resolved, programmed, ready]
}

fn programmed(uid: &str, view: &View<'_>) -> Said {
    let not_yet = |message: &str| Said::no(PROGRAMMED, reasons::PENDING, message);
    if view.accepted.is_some() {
        return not_yet("the newest generation isn't served");
    }
    let Some(entry) = &view.plan.entry else {
        return not_yet(view.plan.waits.unwrap_or("the provider hasn't been told"));
    };
    let known = (view.inputs.report.as_ref()).and_then(|report| report.clients.get(uid));
    if known == Some(&clients::revision(&entry.client.json())) {
        return Said::yes(PROGRAMMED, reasons::PROGRAMMED, "the provider knows the client");
    }
    match &view.inputs.refused {
        Some(why) => Said::no(
            PROGRAMMED,
            reasons::REFUSED,
            format!("the provider's proxy refused the configuration: {why}"),
        ),
        None => not_yet("waiting for the provider's proxy to take the client"),
    }
}

#[cfg(test)]
mod tests;
