use jiff::Timestamp;

use super::*;
use crate::tailnet_api::Api;

const CLUSTER: &str = "cluster-a";

fn made(service: &str) -> Made {
    Made {
        tailnet: "default".into(),
        service: service.into(),
    }
}

fn wanted(shared: bool) -> Wanted {
    Wanted {
        made: made("svc:db"),
        ports: vec!["tcp:443".into(), "tcp:5432".into()],
        tags: vec!["tag:k8s".into()],
        shared,
    }
}

fn inputs(recorded: Option<Made>, want: Want) -> Inputs {
    Inputs {
        recorded,
        want,
        api: Some(Api::None),
        configured: false,
        in_use: false,
        succeeded: false,
        certificates: Vec::new(),
        reports: Vec::new(),
        deleted: None,
        now: Timestamp::from_second(10_000).unwrap(),
    }
}

fn definition(owners: &str) -> Definition {
    serde_json::from_value(json!({
        "name": "svc:db",
        "addrs": ["100.127.0.1", "fd7a:115c:a1e0::1"],
        "comment": "by somebody",
        "annotations": { OWNERS: owners, "other": "kept" },
        "ports": ["tcp:443"],
        "tags": null,
        "displayName": "Database",
    }))
    .unwrap()
}

const OURS: &str = r#"{"ownerRefs":[{"operatorID":"cluster-a"}]}"#;
const THEIRS: &str = r#"{"ownerRefs":[{"operatorID":"nGoOperator"}]}"#;
const BOTH: &str = r#"{"ownerRefs":[{"operatorID":"nGoOperator"},{"operatorID":"cluster-a"}]}"#;

#[test]
fn a_new_definition_is_ours_and_leaves_the_addresses_to_the_api() {
    let new = define(None, &wanted(false), CLUSTER).unwrap().unwrap();
    let json = serde_json::to_value(&new).unwrap();
    assert_eq!(
        json,
        json!({
            "name": "svc:db",
            "comment": COMMENT,
            "annotations": { "tailscale.com/owner-references": OURS },
            "ports": ["tcp:443", "tcp:5432"],
            "tags": ["tag:k8s"],
        })
    );
}

#[test]
fn ours_is_brought_up_to_date_and_keeps_all_else() {
    let new = define(Some(&definition(OURS)), &wanted(false), CLUSTER)
        .unwrap()
        .unwrap();
    assert_eq!((new.ports.len(), new.tags.len(), new.addrs.len()), (2, 1, 2));
    assert_eq!(new.annotations["other"], "kept");
    assert_eq!(new.rest["displayName"], "Database");
    assert_eq!(
        define(Some(&new), &wanted(false), CLUSTER).unwrap(),
        None,
        "nothing is left to do"
    );
}

#[test]
fn anothers_is_joined_only_when_shared_is_said() {
    let problem = define(Some(&definition(THEIRS)), &wanted(false), CLUSTER).unwrap_err();
    assert_eq!(
        (problem.reason, problem.field.as_str()),
        ("OwnedElsewhere", "spec.shared")
    );
    let differs = define(Some(&definition(THEIRS)), &wanted(true), CLUSTER).unwrap_err();
    assert_eq!(differs.field, "spec.ports");
    let mut same = definition(THEIRS);
    same.ports = vec!["tcp:5432".into(), "tcp:443".into()];
    let joined = define(Some(&same), &wanted(true), CLUSTER).unwrap().unwrap();
    assert_eq!(joined.annotations[OWNERS], BOTH);
    assert_eq!(
        (joined.ports, joined.tags, joined.comment.as_str()),
        (same.ports, same.tags, "by somebody"),
        "what others rely on stays"
    );
}

#[test]
fn what_nobody_owns_is_left_alone() {
    for owners in ["", "{}", "not json", r#"{"ownerRefs":[]}"#] {
        let problem = define(Some(&definition(owners)), &wanted(true), CLUSTER).unwrap_err();
        assert_eq!(problem.field, "spec.service");
        assert_eq!(part(&definition(owners), CLUSTER), Leave::Nothing);
    }
}

#[test]
fn leaving_deletes_only_what_is_ours_alone() {
    assert_eq!(part(&definition(OURS), CLUSTER), Leave::Delete);
    assert_eq!(part(&definition(THEIRS), CLUSTER), Leave::Nothing);
    let Leave::Put(rest) = part(&definition(BOTH), CLUSTER) else {
        panic!("another owner is there");
    };
    assert_eq!(rest.annotations[OWNERS], THEIRS);
}

#[test]
fn a_definition_goes_after_the_proxies_have_let_it_go() {
    let now = Timestamp::from_second(10_000).unwrap();
    let mut inputs = inputs(Some(made("svc:db")), Want::Nothing);
    inputs.deleted = Some(now - SignedDuration::from_secs(5));
    inputs.configured = true;
    assert_eq!(plan(&inputs), Step::Wait(LOOK));
    inputs.configured = false;
    inputs.in_use = true;
    assert_eq!(plan(&inputs), Step::Wait(LOOK));
    inputs.deleted = Some(now - SignedDuration::from_secs(61));
    let leave = |give_up| Step::Leave {
        made: made("svc:db"),
        give_up,
    };
    assert_eq!(
        plan(&inputs),
        leave(false),
        "a proxy that hangs is not waited for"
    );
    inputs.deleted = Some(now - SignedDuration::from_secs(601));
    assert_eq!(plan(&inputs), leave(true));
    inputs.succeeded = true;
    assert_eq!(plan(&inputs), Step::HandOver(made("svc:db")));
    inputs.api = None;
    assert_eq!(
        plan(&inputs),
        Step::Wait(LOOK),
        "the credentials are still to come"
    );
}

#[test]
fn a_renamed_service_goes_before_the_new_one_is_made_and_a_broken_one_stays() {
    let other = || Some(made("svc:old"));
    assert!(matches!(
        plan(&inputs(other(), Want::Defined(wanted(false)))),
        Step::Leave { .. }
    ));
    assert_eq!(plan(&inputs(other(), Want::Keep)), Step::Nothing);
    assert_eq!(
        plan(&inputs(None, Want::Defined(wanted(false)))),
        Step::Define(wanted(false))
    );
    assert_eq!(plan(&inputs(None, Want::Nothing)), Step::Nothing);
}
