use postern_proxy_config::{clients::Client, report::NameReport};

use super::*;
use crate::oidc_client::{
    dereference::{Found, Place},
    plan::Entry,
};

fn client() -> Client {
    serde_json::from_str(
        r#"{"format": 1, "generation": 2, "name": "a", "redirectUris": ["https://a.example/"]}"#,
    )
    .unwrap()
}

fn inputs(known: &[(&str, String)]) -> Inputs {
    let report = NameReport {
        clients: known
            .iter()
            .map(|(id, revision)| ((*id).to_owned(), revision.clone()))
            .collect(),
        ..NameReport::default()
    };
    Inputs {
        provider: None,
        namespace: Default::default(),
        found: Found::Absent,
        place: None::<Place>,
        elsewhere: Vec::new(),
        report: Some(report),
        refused: None,
    }
}

fn told() -> Plan {
    Plan {
        entry: Some(Entry {
            place: "clients".into(),
            client: client(),
            write: false,
        }),
        ..Plan::default()
    }
}

/// Status and reason of each condition.
fn said(accepted: Option<Problem>, plan: &Plan, inputs: &Inputs) -> Vec<(bool, &'static str)> {
    let view = View {
        accepted,
        plan,
        inputs,
    };
    let said = conditions("u", &view);
    assert_eq!(
        said.iter().map(|said| said.type_).collect::<Vec<_>>(),
        [ACCEPTED, RESOLVED_REFS, PROGRAMMED, READY]
    );
    said.iter().map(|said| (said.holds(), said.reason)).collect()
}

#[test]
fn a_client_is_ready_when_the_proxy_knows_exactly_this_one() {
    let newest = clients::revision(&client().json());
    let ready = said(None, &told(), &inputs(&[("u", newest.clone())]));
    assert_eq!(ready[3], (true, reasons::READY));
    for known in [&[][..], &[("u", "another".to_owned())], &[("v", newest)]] {
        let waiting = said(None, &told(), &inputs(known));
        assert_eq!(waiting[2], (false, reasons::PENDING));
        assert_eq!(waiting[3], (false, reasons::PENDING));
    }
    let refused = Inputs {
        refused: Some("newer than this version".into()),
        ..inputs(&[])
    };
    assert_eq!(said(None, &told(), &refused)[3], (false, reasons::REFUSED));
}

#[test]
fn what_keeps_it_from_being_ready_is_said_first_things_first() {
    let newest = clients::revision(&client().json());
    let known = inputs(&[("u", newest)]);
    let not_allowed = Problem::new(reasons::NOT_ALLOWED, "spec.identityProviderRef", "no");
    let all = said(Some(not_allowed), &Plan::default(), &known);
    let reasons_of: Vec<_> = all.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(
        reasons_of,
        [
            reasons::NOT_ALLOWED,
            reasons::UNKNOWN,
            reasons::PENDING,
            reasons::NOT_ALLOWED
        ]
    );
    let not_ours = Plan {
        problem: Some(Problem::new(
            reasons::SECRET_NOT_OWNED,
            "spec.secretName",
            "theirs",
        )),
        ..told()
    };
    let all = said(None, &not_ours, &known);
    assert_eq!(all[1], (false, reasons::SECRET_NOT_OWNED));
    assert_eq!(all[3], (false, reasons::SECRET_NOT_OWNED));
    let waits = Plan {
        waits: Some("no issuer"),
        ..Plan::default()
    };
    assert_eq!(said(None, &waits, &known)[3], (false, reasons::PENDING));
}
