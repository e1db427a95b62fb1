use postern_proxy_config::report::NameReport;

use super::*;
use crate::{record::Record, tailnet_api::SecretText};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A device at its beginning, on a server without an API, with a reusable key.
fn inputs() -> Inputs {
    Inputs {
        record: Record {
            secret: "g-a-node".into(),
            hostname: "a".into(),
            ..Record::default()
        },
        released: None,
        reusable: Some((SecretText::new("key"), "s@1".into())),
        api: Some(Api::None),
        report: None,
        configured: false,
        in_use: false,
        now: at(1_000),
    }
}

fn report(phase: Phase) -> Option<NameReport> {
    Some(NameReport {
        phase,
        node_id: Some("n1".into()),
        ..NameReport::default()
    })
}

#[test]
fn a_new_device_gets_a_key_once() {
    let mut inputs = inputs();
    assert_eq!(plan(&inputs), Step::PutReusable);
    inputs.record.has_key = true;
    assert_eq!(plan(&inputs), Step::Nothing);
    inputs.record.has_key = false;
    inputs.reusable = None;
    assert!(
        matches!(plan(&inputs), Step::Wait(_)),
        "without credentials there is nothing to give"
    );
}

#[test]
fn a_device_that_is_on_the_tailnet_is_noted_and_its_key_taken_out() {
    let mut inputs = inputs();
    inputs.record.has_key = true;
    inputs.record.has_state = true;
    inputs.report = report(Phase::Serving);
    assert_eq!(
        plan(&inputs),
        Step::NoteNode {
            id: "n1".into(),
            old: None
        }
    );
    inputs.record.node_id = Some("n0".into());
    assert_eq!(
        plan(&inputs),
        Step::NoteNode {
            id: "n1".into(),
            old: Some("n0".into())
        }
    );
    inputs.record.node_id = Some("n1".into());
    assert_eq!(plan(&inputs), Step::ClearKey);
    inputs.record.has_key = false;
    assert_eq!(plan(&inputs), Step::Nothing);
}

#[test]
fn a_refused_key_is_replaced_but_not_by_itself() {
    let mut inputs = inputs();
    inputs.record.has_key = true;
    inputs.record.key_source = Some("s@1".into());
    inputs.report = Some(NameReport {
        phase: Phase::NeedsLogin,
        ..NameReport::default()
    });
    assert_eq!(
        plan(&inputs),
        Step::Nothing,
        "the same key would be refused again"
    );
    inputs.reusable = Some((SecretText::new("other"), "s@2".into()));
    assert_eq!(plan(&inputs), Step::PutReusable);
}

#[test]
fn minted_keys_are_replaced_less_and_less_often() {
    let mut inputs = inputs();
    inputs.reusable = None;
    inputs.record.has_state = true;
    inputs.record.key_revision = 2;
    inputs.record.key_time = Some(at(990));
    inputs.report = Some(NameReport {
        phase: Phase::NeedsLogin,
        ..NameReport::default()
    });
    assert_eq!(
        plan(&inputs),
        Step::Wait(Duration::from_secs(50)),
        "60 s after the second"
    );
    inputs.now = at(1_050);
    // Here no API mints keys, so there is nothing to give; that it is tried is what counts.
    assert_eq!(plan(&inputs), Step::Wait(Duration::from_secs(30)));
}

#[test]
fn a_device_goes_after_its_name_is_out_of_configuration_and_report() {
    let mut inputs = inputs();
    inputs.released = Some(at(990));
    inputs.configured = true;
    inputs.in_use = true;
    assert!(matches!(plan(&inputs), Step::Wait(_)), "still configured");
    inputs.configured = false;
    assert_eq!(plan(&inputs), Step::Wait(Duration::from_secs(50)), "still in use");
    inputs.in_use = false;
    assert_eq!(plan(&inputs), Step::Remove { give_up: false });
}

#[test]
fn neither_a_hanging_proxy_nor_refused_credentials_keep_it_for_ever() {
    let mut inputs = inputs();
    inputs.released = Some(at(0));
    inputs.in_use = true;
    inputs.now = at(61);
    assert_eq!(plan(&inputs), Step::Remove { give_up: false });
    inputs.now = at(601);
    assert_eq!(plan(&inputs), Step::Remove { give_up: true });
}
