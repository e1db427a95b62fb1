//! Golden files: `testdata/NAME.yaml` is what the cluster holds, `snapshots/` what is planned for the OIDCClient
//! `monitoring/grafana`. `INSTA_UPDATE=always` writes them.

use k8s_openapi::ByteString;
use kube::runtime::reflector::ObjectRef;

use super::*;
use crate::{
    oidc_client::{dereference::of_stores, validate::validate},
    stores::{Stores, fixtures::filled},
};

/// What is planned, and why there isn't more.
#[derive(Serialize)]
struct Said {
    refused: Option<String>,
    problem: Option<String>,
    plan: Plan,
}

fn fresh() -> ClientSecret {
    ClientSecret::parse("f".repeat(64).as_bytes()).unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn said(stores: &Stores, found: Option<Found>) -> Said {
    let key = ObjectRef::new("grafana").within("monitoring");
    let object = stores.oidc_clients.get(&key).expect("a client");
    let secret = ObjectRef::new(&secret_name(&object)).within("monitoring");
    let there = stores.secrets.get(&secret);
    let there = there.map_or(Found::Absent, |secret| Found::There(Box::new((*secret).clone())));
    let inputs = of_stores(stores, &object, found.unwrap_or(there));
    let valid = validate(&object, inputs.provider.as_deref(), &inputs.namespace);
    let plan = plan(&object, &valid, &inputs, &fresh(), now());
    Said {
        refused: valid.err().map(|problem| problem.to_string()),
        problem: plan.problem.as_ref().map(ToString::to_string),
        plan,
    }
}

fn case(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/oidc_client/plan/testdata");
    std::fs::read_to_string(format!("{folder}/{name}.yaml")).unwrap()
}

#[test]
fn plans_are_as_committed() {
    insta::glob!("testdata/*.yaml", |path| {
        let stores = filled("postern", &std::fs::read_to_string(path).unwrap());
        insta::assert_yaml_snapshot!(said(&stores, None));
    });
}

#[test]
fn a_plan_shows_no_secret() {
    let plan = said(&filled("postern", &case("new")), None).plan;
    assert_eq!(plan.secret.as_ref().unwrap().client_secret, Some(fresh()));
    let shown = format!("{plan:?} {}", serde_json::to_string(&plan).unwrap());
    assert!(!shown.contains(fresh().expose()), "{shown}");
}

#[test]
fn what_is_as_it_should_be_is_not_written() {
    let stores = filled("postern", &case("new"));
    let first = said(&stores, None).plan;
    let (secret, entry) = (first.secret.unwrap(), first.entry.unwrap());
    assert!(entry.write);
    let yaml = case("new").replace(
        "data: {} # clients",
        &format!(
            "data: {{ u-grafana: {} }}",
            serde_json::to_string(&ByteString(entry.client.json())).unwrap()
        ),
    );
    let data = secret
        .entries()
        .filter_map(|(key, value)| Some((key.to_owned(), ByteString(value?.as_bytes().to_vec()))));
    let mut there = Secret {
        data: Some(data.collect()),
        ..Secret::default()
    };
    there.metadata.owner_references = Some(vec![
        serde_json::from_value(serde_json::json!({
            "apiVersion": "postern.dev/v1alpha1", "kind": "OIDCClient", "name": "grafana", "uid": "u-grafana",
        }))
        .unwrap(),
    ]);
    let again = said(&filled("postern", &yaml), Some(Found::There(Box::new(there)))).plan;
    assert!(again.secret.is_none(), "{:?}", again.secret);
    assert!(!again.entry.unwrap().write);
}

#[test]
fn where_the_operator_may_not_look_it_says_what_to_add() {
    let said = said(&filled("postern", &case("rotated")), Some(Found::Forbidden));
    assert!(said.problem.unwrap().contains("oidcClientNamespaces"));
    // What the provider knows goes on.
    assert_eq!(said.plan.entry.unwrap().client.secrets.len(), 1);
    assert!(said.plan.secret.is_none());
}

#[test]
fn the_old_secret_ends_in_an_hour_however_often_it_is_looked_at() {
    let hash = |text: &str| clients::ClientSecret::of(text);
    let at = |seconds: i64| now() + SignedDuration::from_secs(seconds);
    let first = good(hash("new"), &[hash("old")], at(0));
    assert_eq!(
        first.iter().map(|s| s.expires).collect::<Vec<_>>(),
        [None, Some(at(3600))]
    );
    assert_eq!(good(hash("new"), &first, at(1800)), first);
    assert_eq!(good(hash("new"), &first, at(3600)), [hash("new")]);
    // Only the last one before: who rotates twice in a row wants to be rid of the first.
    let twice = good(hash("newest"), &first, at(1));
    assert_eq!((twice.len(), &twice[1].sha256), (2, &hash("new").sha256));
}
