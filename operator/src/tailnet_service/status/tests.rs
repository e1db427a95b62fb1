use super::*;
use crate::{model::Problem, name::judge::Accepted, tailnet_api::Definition, tailnet_service::plan::Made};

fn made() -> Made {
    Made {
        tailnet: "default".into(),
        service: "svc:db".into(),
    }
}

fn accepted() -> Judgement {
    Judgement {
        accepted: Ok(Accepted {
            tailnet: "default".into(),
            hostname: "db".parse().unwrap(),
            tags: vec!["tag:k8s".into()],
            listeners: Vec::new(),
            certificate: None,
            certificates: Vec::new(),
            funnel: None,
        }),
        unresolved: Vec::new(),
    }
}

fn outcome(defined: Result<Definition, Undefined>) -> Outcome {
    Outcome {
        made: Some(made()),
        defined,
    }
}

fn good() -> Outcome {
    outcome(Ok(Definition {
        name: "svc:db".into(),
        addrs: vec!["100.127.0.1".into()],
        ..Definition::default()
    }))
}

fn report(stage: Stage, generation: i64) -> ServiceReport {
    ServiceReport {
        stage,
        applied_generation: generation,
        ..ServiceReport::default()
    }
}

fn told(
    reports: &[ServiceReport],
    outcome: &Outcome,
    needs_certificate: bool,
) -> Vec<(String, String, String)> {
    let judgement = accepted();
    let want = Want::Defined(Wanted {
        made: made(),
        ports: vec!["tcp:443".into()],
        tags: vec!["tag:k8s".into()],
        shared: false,
    });
    let said = said(&Seen {
        judgement: &judgement,
        generation: 2,
        deleting: false,
        needs_certificate,
        want: &want,
        reports,
        refused: None,
        outcome,
    });
    let merged = conditions::merge(&[], &said, 2, jiff::Timestamp::UNIX_EPOCH);
    merged
        .into_iter()
        .map(|condition| {
            let reason = format!("{} {}", condition.status, condition.reason);
            (condition.type_, reason, condition.message)
        })
        .collect()
}

fn of<'a>(told: &'a [(String, String, String)], type_: &str) -> (&'a str, &'a str) {
    let found = told.iter().find(|(of, ..)| of == type_).unwrap();
    (found.1.as_str(), found.2.as_str())
}

#[test]
fn every_stage_is_told_from_the_one_before() {
    let order = [
        (Stage::Connecting, OFFERED, "False Pending"),
        (Stage::Offered, APPROVED, "False NeedsApproval"),
        (Stage::Approved, CERTIFICATE_READY, "False CertificatePending"),
        (Stage::CertificateReady, ADVERTISED, "False Pending"),
        (Stage::Draining, ADVERTISED, "False Pending"),
        (Stage::Advertised, SERVING, "False Pending"),
    ];
    for (stage, first, reason) in order {
        let told = told(&[report(stage, 2)], &good(), true);
        let missing = told
            .iter()
            .find(|(_, reason, _)| !reason.starts_with("True"))
            .unwrap();
        assert_eq!(
            (missing.0.as_str(), missing.1.as_str()),
            (first, reason),
            "{stage:?}"
        );
        let (ready, message) = of(&told, READY);
        assert_eq!((ready, message), (reason, missing.2.as_str()));
    }
    let told = told(&[report(Stage::Serving, 2)], &good(), true);
    assert_eq!(of(&told, READY).0, "True Ready");
}

#[test]
fn a_missing_auto_approver_is_said_as_it_stands_in_the_policy() {
    let told = told(&[report(Stage::Offered, 2)], &good(), true);
    let (_, message) = of(&told, APPROVED);
    assert!(
        message.contains(r#""autoApprovers": { "services": { "svc:db": ["tag:k8s"] } }"#),
        "{message}"
    );
}

#[test]
fn one_host_with_the_newest_generation_is_enough_and_an_older_one_is_not() {
    let both = [report(Stage::Serving, 1), report(Stage::Serving, 2)];
    assert_eq!(of(&told(&both, &good(), true), SERVING).1, "1 host is serving");
    let (reason, message) = {
        let told = told(&both[..1], &good(), true);
        let (reason, message) = of(&told, SERVING);
        (reason.to_owned(), message.to_owned())
    };
    assert_eq!(reason, "False Pending");
    assert!(message.contains("older generation"), "{message}");
}

#[test]
fn bytes_need_no_certificate() {
    let told = told(&[report(Stage::Connecting, 0)], &good(), false);
    assert_eq!(of(&told, CERTIFICATE_READY).0, "True NoCertificateNeeded");
}

#[test]
fn what_the_api_says_is_the_condition() {
    let refused = |status| Error::Refused {
        what: "define a Service",
        status,
        message: "no".into(),
    };
    let told_of = |undefined| told(&[], &outcome(Err(undefined)), true);
    let told = told_of(Undefined::Failed(refused(403)));
    let (reason, message) = of(&told, DEFINED);
    assert_eq!(reason, "False CredentialsRefused");
    assert!(message.contains("scope services"), "{message}");
    let problem = Problem::new(reasons::OWNED_ELSEWHERE, "spec.shared", "taken");
    assert_eq!(
        of(&told_of(Undefined::Refused(problem)), READY),
        ("False OwnedElsewhere", "spec.shared: taken")
    );
}
