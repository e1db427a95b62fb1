//! Tells a TailnetService's status: conditions in the order in which a Service comes up, its addresses, and
//! Events when the summary changes.

use kube::{Api, ResourceExt};
use postern_crds::{
    TailnetService, TailnetServiceStatus,
    conditions::{ADVERTISED, APPROVED, CERTIFICATE_READY, DEFINED, OFFERED, READY, SERVING, reasons},
};
use postern_proxy_config::report::{ServiceReport, Stage};

use crate::{
    apply::{self, ApplyError},
    conditions::{self, Said},
    context::{Context, reference},
    model::SERVICE_PREFIX,
    name::{
        judge::Judgement,
        status::{View, accepted, remark, resolved},
    },
    tailnet_api::Error,
    tailnet_service::{
        apply::{Outcome, Undefined},
        dereference::Inputs,
        plan::{Want, Wanted},
    },
};

/// Writes the status if it changed.
///
/// # Errors
/// When it can't be written.
pub async fn tell(
    context: &Context,
    api: &Api<TailnetService>,
    object: &TailnetService,
    view: &View,
    inputs: &Inputs,
    outcome: &Outcome,
) -> Result<(), ApplyError> {
    let before = object.status.clone().unwrap_or_default();
    let said = said(&Seen {
        judgement: &view.judgement,
        generation: view.claim.generation,
        deleting: view.claim.deleting,
        needs_certificate: (view.claim.spec.as_ref()).is_ok_and(|spec| spec.needs_certificate()),
        want: &inputs.want,
        reports: &inputs.reports,
        refused: view.refused.as_deref(),
        outcome,
    });
    let furthest = inputs.reports.iter().max_by_key(|report| report.stage);
    let status = TailnetServiceStatus {
        conditions: conditions::merge(
            &before.conditions,
            &said,
            view.claim.generation,
            (context.clock)(),
        ),
        tailnet: outcome.made.as_ref().map(|made| made.tailnet.clone()),
        service: outcome.made.as_ref().map(|made| made.service.clone()),
        hostname: furthest.and_then(|report| report.assigned_name.clone()),
        addresses: match &outcome.defined {
            Ok(definition) => definition.addrs.clone(),
            // The API doesn't answer now; the addresses are what they were.
            Err(_) if outcome.made.is_some() => before.addresses.clone(),
            Err(_) => Vec::new(),
        },
        hosts: i32::try_from(count(&inputs.reports, Stage::Serving)).unwrap_or(i32::MAX),
        certificate_expires: furthest
            .and_then(|report| report.certificate_expires)
            .and_then(|time| jiff::Timestamp::from_second(time.as_second()).ok()),
    };
    if status == before {
        return Ok(());
    }
    apply::status(api, &object.name_any(), &status).await?;
    context.metrics.status_patch("TailnetService");
    let remarks = Vec::from_iter(remark(&said));
    context.events.say(&reference(object), &remarks).await;
    Ok(())
}

/// What the conditions are made of.
struct Seen<'a> {
    judgement: &'a Judgement,
    generation: i64,
    deleting: bool,
    needs_certificate: bool,
    want: &'a Want,
    reports: &'a [ServiceReport],
    refused: Option<&'a str>,
    outcome: &'a Outcome,
}

/// The conditions, each after what it needs, the summary last.
fn said(seen: &Seen<'_>) -> Vec<Said> {
    let mut said = vec![
        accepted(seen.judgement, SERVICE_PREFIX),
        resolved(seen.judgement),
        defined(seen.outcome),
        offered(seen),
        approved(seen),
        certificate(seen),
        advertised(seen),
        serving(seen),
    ];
    let ready = match said.iter().find(|said| !said.holds()) {
        _ if seen.deleting => Said::no(READY, reasons::DELETING, "the Service is being withdrawn"),
        Some(first) => Said::no(READY, first.reason, first.message.clone()),
        None => Said::yes(READY, reasons::READY, "it answers"),
    };
    said.push(ready);
    said
}

fn defined(outcome: &Outcome) -> Said {
    match &outcome.defined {
        Ok(definition) => Said::yes(
            DEFINED,
            reasons::DEFINED,
            format!("{} has {}", definition.name, definition.addrs.join(", ")),
        ),
        Err(Undefined::AsBefore) => Said::yes(DEFINED, reasons::DEFINED, "it is defined as before"),
        Err(Undefined::Unasked) => Said::no(DEFINED, reasons::PENDING, "it isn't defined"),
        Err(Undefined::NoCredentials) => Said::no(
            DEFINED,
            reasons::PENDING,
            "waiting for the credentials of the Tailnet",
        ),
        Err(Undefined::Refused(problem)) => Said::no(DEFINED, problem.reason, problem.to_string()),
        Err(Undefined::Failed(error @ Error::Refused { .. })) => Said::no(
            DEFINED,
            reasons::CREDENTIALS_REFUSED,
            format!("{error}: the OAuth client of the Tailnet needs the scope services, for the tags in use"),
        ),
        Err(Undefined::Failed(error @ Error::Failed { status: 404, .. })) => {
            Said::no(DEFINED, reasons::SERVICES_UNAVAILABLE, error.to_string())
        }
        Err(Undefined::Failed(error)) => Said::no(DEFINED, reasons::API_UNAVAILABLE, error.to_string()),
    }
}

fn offered(seen: &Seen<'_>) -> Said {
    match count(seen.reports, Stage::Offered) {
        0 => Said::no(
            OFFERED,
            reasons::PENDING,
            because(seen, "no replica has offered itself as a host yet"),
        ),
        hosts => Said::yes(OFFERED, reasons::OFFERED, hosts_text(hosts, "offered")),
    }
}

fn approved(seen: &Seen<'_>) -> Said {
    match (
        count(seen.reports, Stage::Offered),
        count(seen.reports, Stage::Approved),
    ) {
        (0, 0) => Said::unknown(APPROVED, reasons::PENDING, "there is no host to approve yet"),
        (_, 0) => Said::no(APPROVED, reasons::NEEDS_APPROVAL, approval(seen.want)),
        (_, hosts) => Said::yes(APPROVED, reasons::APPROVED, hosts_text(hosts, "approved")),
    }
}

/// What to add to the tailnet's policy. Nothing tells a missing auto-approver from one that is to come.
fn approval(want: &Want) -> String {
    let line = match want {
        Want::Defined(Wanted { made, tags, .. }) => {
            let tags: Vec<_> = tags.iter().map(|tag| format!("{tag:?}")).collect();
            format!("{:?}: [{}]", made.service, tags.join(", "))
        }
        Want::Keep | Want::Nothing => "\"svc:NAME\": [\"tag:OF-THE-HOSTS\"]".to_owned(),
    };
    format!(
        "no host is approved: approve one in the admin console, or add to the tailnet's policy \
         \"autoApprovers\": {{ \"services\": {{ {line} }} }}, with the tags of the Tailnet"
    )
}

fn certificate(seen: &Seen<'_>) -> Said {
    if !seen.needs_certificate {
        let message = "no port needs a certificate";
        return Said::yes(CERTIFICATE_READY, reasons::NO_CERTIFICATE_NEEDED, message);
    }
    if count(seen.reports, Stage::CertificateReady) > 0 {
        return Said::yes(
            CERTIFICATE_READY,
            reasons::CERTIFICATE_READY,
            "the certificate is there",
        );
    }
    if count(seen.reports, Stage::Approved) == 0 {
        let message = "only an approved host gets one";
        return Said::unknown(CERTIFICATE_READY, reasons::PENDING, message);
    }
    let error = (seen.reports.iter())
        .map(|report| report.certificate_error.as_str())
        .find(|error| !error.is_empty());
    let message = error.map_or_else(
        || "the certificate is being issued".to_owned(),
        |error| format!("the certificate is being issued: {error}"),
    );
    Said::no(CERTIFICATE_READY, reasons::CERTIFICATE_PENDING, message)
}

fn advertised(seen: &Seen<'_>) -> Said {
    match count(seen.reports, Stage::Advertised) {
        0 => Said::no(
            ADVERTISED,
            reasons::PENDING,
            "no host is advertised: nobody is sent here",
        ),
        hosts => Said::yes(ADVERTISED, reasons::ADVERTISED, hosts_text(hosts, "advertised")),
    }
}

fn serving(seen: &Seen<'_>) -> Said {
    if let Some(why) = seen.refused {
        let message = format!("a proxy refused the configuration: {why}");
        return Said::no(SERVING, reasons::REFUSED, message);
    }
    let newest = (seen.reports.iter())
        .filter(|report| report.stage >= Stage::Serving && report.applied_generation == seen.generation)
        .count();
    match (newest, count(seen.reports, Stage::Serving)) {
        (0, 0) => Said::no(SERVING, reasons::PENDING, because(seen, "no host answers")),
        (0, hosts) => Said::no(
            SERVING,
            reasons::PENDING,
            format!("{} an older generation", hosts_text(hosts, "serving")),
        ),
        (hosts, _) => Said::yes(SERVING, reasons::SERVING, hosts_text(hosts, "serving")),
    }
}

/// How many hosts have reached a stage.
fn count(reports: &[ServiceReport], stage: Stage) -> usize {
    reports.iter().filter(|report| report.stage >= stage).count()
}

fn hosts_text(hosts: usize, what: &str) -> String {
    match hosts {
        1 => format!("1 host is {what}"),
        several => format!("{several} hosts are {what}"),
    }
}

/// With what a host says itself.
fn because(seen: &Seen<'_>, text: &str) -> String {
    let reason = (seen.reports.iter())
        .map(|report| report.reason.as_str())
        .find(|reason| !reason.is_empty());
    reason.map_or_else(|| text.to_owned(), |reason| format!("{text}: {reason}"))
}

#[cfg(test)]
mod tests;
