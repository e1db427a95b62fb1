//! Tells a ProxyGroup's status.

use kube::{Api, ResourceExt};
use postern_crds::{
    ProxyGroup, ProxyGroupStatus,
    conditions::{ACCEPTED, PROGRAMMED, READY, reasons},
};

use crate::{
    apply::{self, ApplyError},
    conditions::{self, Said},
    context::{Context, reference},
    events::Remark,
    model::Problem,
    proxy_group::{dereference::Inputs, validate::Valid},
    report,
};

/// How many users a message names.
const NAMED_USERS: usize = 5;

/// Writes the status if it changed, and says when the summary did.
///
/// # Errors
/// When it can't be written.
pub async fn tell(
    context: &Context,
    api: &Api<ProxyGroup>,
    inputs: &Inputs,
    valid: Result<&Valid, &Problem>,
) -> Result<(), ApplyError> {
    let group = &inputs.group;
    let said = said(inputs, valid);
    let before = group.status.clone().unwrap_or_default();
    let generation = group.metadata.generation.unwrap_or_default();
    let status = ProxyGroupStatus {
        conditions: conditions::merge(&before.conditions, &said, generation, (context.clock)()),
        names: i32::try_from(inputs.records.len()).unwrap_or(i32::MAX),
        ready_replicas: ready_replicas(inputs),
    };
    if status == before {
        return Ok(());
    }
    apply::status(api, &group.name_any(), &status).await?;
    context.metrics.status_patch("ProxyGroup");
    let remarks: Vec<_> = (said.iter().filter(|said| said.type_ == READY))
        .map(|said| Remark {
            topic: READY.into(),
            warning: !said.holds() && said.reason != reasons::PENDING,
            reason: said.reason.into(),
            note: said.message.clone(),
        })
        .collect();
    context.events.say(&reference(&**group), &remarks).await;
    Ok(())
}

fn said(inputs: &Inputs, valid: Result<&Valid, &Problem>) -> Vec<Said> {
    let problem = match &valid {
        Ok(valid) => valid.template.as_ref().err(),
        Err(problem) => Some(*problem),
    };
    let accepted = match problem {
        None => Said::yes(ACCEPTED, reasons::ACCEPTED, "it can be served"),
        Some(problem) => Said::no(ACCEPTED, problem.reason, problem.to_string()),
    };
    let programmed = match (
        report::refused(&inputs.reports),
        ready_replicas(inputs) == inputs.group.spec.replicas,
    ) {
        (Some(why), _) => Said::no(
            PROGRAMMED,
            reasons::REFUSED,
            format!("a proxy refused the configuration: {why}"),
        ),
        (None, true) => Said::yes(PROGRAMMED, reasons::PROGRAMMED, "every pod is ready"),
        (None, false) => Said::no(PROGRAMMED, reasons::PENDING, "waiting for the pods to be ready"),
    };
    let ready = if inputs.group.metadata.deletion_timestamp.is_some() {
        Said::no(
            READY,
            reasons::IN_USE,
            format!("it is being deleted, but used by {}", users(inputs)),
        )
    } else {
        match [&accepted, &programmed].into_iter().find(|said| !said.holds()) {
            Some(said) => Said::no(READY, said.reason, said.message.clone()),
            None => Said::yes(READY, reasons::READY, "it serves"),
        }
    };
    vec![accepted, programmed, ready]
}

fn users(inputs: &Inputs) -> String {
    let mut users: Vec<_> = (inputs.claims.iter())
        .map(|decided| &decided.claim.owner)
        .map(|owner| format!("{} {}/{}", owner.kind, owner.namespace, owner.name))
        .collect();
    users.extend(
        (inputs.records.values())
            .filter(|r| r.released.is_some())
            .map(|r| format!("device {}", r.hostname)),
    );
    let more = users.len().saturating_sub(NAMED_USERS);
    users.truncate(NAMED_USERS);
    let named = users.join(", ");
    if more > 0 {
        format!("{named} and {more} more")
    } else {
        named
    }
}

fn ready_replicas(inputs: &Inputs) -> i32 {
    let status = inputs
        .workload
        .as_ref()
        .and_then(|workload| workload.status.as_ref());
    status
        .and_then(|status| status.ready_replicas)
        .unwrap_or_default()
}
