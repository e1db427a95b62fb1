//! Where a proxy that runs alone says how its names and Services are: in the log, and in the foreground on the
//! terminal.

use std::{collections::BTreeMap, io::Write};

use postern_proxy_config::report::{NameReport, Phase, Report, ServiceReport, Stage};
use tokio_util::sync::CancellationToken;

use crate::{args::Targets, report::Reports};

/// Says each change once, until `end`.
pub(super) async fn changes(reports: Reports, announce: Option<Targets>, end: CancellationToken) {
    let mut report = reports.subscribe();
    let mut said = BTreeMap::new();
    loop {
        let now = report.borrow_and_update().clone();
        let Report { names, services, .. } = &now;
        for (key, name) in names {
            if is_new(&mut said, key, format!("{:?} {}", name.phase, name.reason)) {
                log_name(key, name);
                if let Some(targets) = &announce {
                    on_terminal(&announcement(name, targets));
                }
            }
        }
        for (key, service) in services {
            let reason = reason(key, service);
            if is_new(&mut said, key, format!("{:?} {reason}", service.stage)) {
                log_service(key, service, &reason);
            }
        }
        said.retain(|key, _| names.contains_key(key) || services.contains_key(key));
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            changed = report.changed() => if changed.is_err() { return },
        }
    }
}

fn is_new(said: &mut BTreeMap<String, String>, key: &str, line: String) -> bool {
    let new = said.get(key) != Some(&line);
    if new {
        said.insert(key.to_owned(), line);
    }
    new
}

fn log_name(key: &str, name: &NameReport) {
    tracing::info!(
        name = key,
        phase = ?name.phase,
        reason = name.reason,
        assigned = name.assigned_name.as_deref().unwrap_or_default(),
        addresses = ?name.addresses,
        "Name"
    );
}

fn log_service(key: &str, service: &ServiceReport, reason: &str) {
    tracing::info!(
        service = key,
        stage = ?service.stage,
        reason,
        assigned = service.assigned_name.as_deref().unwrap_or_default(),
        addresses = ?service.addresses,
        "Service"
    );
}

/// Why a Service isn't served, with what to do.
fn reason(key: &str, service: &ServiceReport) -> String {
    match (
        service.stage,
        service.reason.as_str(),
        service.certificate_error.as_str(),
    ) {
        // Control doesn't say which of them is missing.
        (Stage::Offered, "", _) => format!(
            "waiting until this machine is approved as a host of {key}: the Service has to be defined in the \
             tailnet with every port that is served here, and its host approved in the admin console, or by the \
             policy: \"autoApprovers\": {{ \"services\": {{ {key:?}: [\"tag:OF-THIS-MACHINE\"] }} }}"
        ),
        (Stage::Approved, "", "") => "the certificate is being issued".to_owned(),
        (Stage::Approved, "", error) => error.to_owned(),
        (_, reason, _) => reason.to_owned(),
    }
}

fn announcement(name: &NameReport, targets: &Targets) -> String {
    match (name.phase, &name.assigned_name) {
        (Phase::Serving, Some(fqdn)) => format!("{}\nCtrl-C ends it.", targets.url(fqdn)),
        (Phase::NeedsLogin | Phase::NeedsApproval | Phase::NameTaken, _) => name.reason.clone(),
        _ => String::new(),
    }
}

/// A closed terminal is no reason to stop serving.
fn on_terminal(text: &str) {
    if !text.is_empty() {
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_not_served_says_what_to_do_once() {
        let mut service = ServiceReport {
            stage: Stage::Offered,
            ..ServiceReport::default()
        };
        let approval = reason("svc:web", &service);
        let line = r#""autoApprovers": { "services": { "svc:web": ["tag:OF-THIS-MACHINE"] } }"#;
        assert!(approval.contains(line), "{approval}");
        let mut said = BTreeMap::new();
        assert!(is_new(&mut said, "svc:web", approval.clone()));
        assert!(!is_new(&mut said, "svc:web", approval));

        service.stage = Stage::Approved;
        "no certificate for it".clone_into(&mut service.certificate_error);
        assert_eq!(reason("svc:web", &service), "no certificate for it");
        service.stage = Stage::Connecting;
        "the node has no tags".clone_into(&mut service.reason);
        assert_eq!(reason("svc:web", &service), "the node has no tags");
        service.stage = Stage::Serving;
        service.reason.clear();
        assert_eq!(reason("svc:web", &service), "");
    }
}
