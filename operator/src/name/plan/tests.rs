use k8s_openapi::ByteString;

use super::*;
use crate::{
    model,
    name::{claims::Claims, judge::judge},
    stores::{Stores, fixtures::filled},
    tailnet_ingress,
};

const CLUSTER: &str = "
apiVersion: postern.dev/v1alpha1
kind: Tailnet
metadata: { name: default }
spec: { loginServer: 'https://c.example.com', credentials: {} }
---
apiVersion: postern.dev/v1alpha1
kind: ProxyGroup
metadata: { name: default }
spec: {}
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: apps }
spec: { clusterIP: 10.96.0.10, ports: [{ port: 80 }] }
---
apiVersion: postern.dev/v1alpha1
kind: TailnetIngress
metadata: { name: shop, namespace: apps, uid: u, creationTimestamp: '2026-01-01T00:00:00Z' }
spec: { backend: { service: { name: web, port: 80 } }, tls: [{ secretName: shop-tls }] }
";

fn claim(stores: &Stores) -> Claim {
    tailnet_ingress::validate::claim(&stores.tailnet_ingresses.state()[0])
}

fn planned(claim: &Claim, stores: &Stores, certificates: Vec<Found>, kept: bool) -> NamePlan {
    let judgement = judge(claim, &Claims::collect(stores), stores);
    plan(Inputs {
        namespace: "postern",
        claim,
        ours: true,
        judgement: &judgement,
        certificates,
        keys: Vec::new(),
        copies: vec!["stale".into()],
        kept,
        has_group: true,
    })
}

fn certificate(keys: &[&str]) -> Secret {
    let data = keys
        .iter()
        .map(|key| ((*key).to_owned(), ByteString(b"x".to_vec())));
    Secret {
        data: Some(data.collect()),
        ..Secret::default()
    }
}

#[test]
fn the_finalizer_comes_with_acceptance_and_goes_with_the_last_device() {
    let stores = filled("postern", CLUSTER);
    let mut claim = claim(&stores);
    assert_eq!(planned(&claim, &stores, Vec::new(), false).finalizer, Some(true));
    claim.held = true;
    assert_eq!(planned(&claim, &stores, Vec::new(), true).finalizer, None);
    claim.deleting = true;
    let waits = planned(&claim, &stores, Vec::new(), true);
    assert_eq!((waits.finalizer, waits.prune.len()), (None, 1));
    assert_eq!(planned(&claim, &stores, Vec::new(), false).finalizer, Some(false));
}

#[test]
fn a_refused_claim_gets_no_finalizer_and_no_copies() {
    let stores = filled("postern", CLUSTER);
    let mut claim = claim(&stores);
    claim.group = "other".into();
    let tls = claim.spec.as_ref().unwrap().tls[0].clone();
    let plan = planned(&claim, &stores, vec![(tls, Ok(certificate(&KEYS)))], false);
    assert_eq!(
        (plan.finalizer, plan.copies.len(), plan.make_group),
        (None, 0, None)
    );
}

#[test]
fn certificates_are_copied_and_what_is_wrong_with_one_is_said() {
    let stores = filled("postern", CLUSTER);
    let claim = claim(&stores);
    let tls = claim.spec.as_ref().unwrap().tls[0].clone();
    let good = planned(
        &claim,
        &stores,
        vec![(tls.clone(), Ok(certificate(&["tls.crt", "tls.key", "ca.crt"])))],
        false,
    );
    assert_eq!(
        good.copies[0].data.as_ref().unwrap().len(),
        2,
        "only what a proxy needs"
    );
    assert_eq!(good.prune, ["stale"]);
    let bad = planned(&claim, &stores, vec![(tls, Ok(certificate(&["tls.crt"])))], false);
    assert_eq!(bad.problems[0].field, "spec.tls[0].secretName");
    assert!(bad.problems[0].message.contains("tls.key"));
}

/// `(field's last part, kind, found)` → the Secret for the proxies, and what was said.
fn keys_of(found: Vec<(&str, model::KeysKind, Result<Secret, &'static str>)>) -> NamePlan {
    let stores = filled("postern", CLUSTER);
    let claim = claim(&stores);
    let judgement = judge(&claim, &Claims::collect(&stores), &stores);
    let keys = found.into_iter().map(|(name, kind, secret)| {
        let wanted = model::KeysRef {
            field: format!("spec.funnel.auth.{name}"),
            secret: name.to_owned(),
            kind,
        };
        let secret = secret.map_err(|reason| Problem::new(reason, wanted.field.clone(), "so"));
        (wanted, secret)
    });
    plan(Inputs {
        namespace: "postern",
        claim: &claim,
        ours: true,
        judgement: &judgement,
        certificates: Vec::new(),
        keys: keys.collect(),
        copies: vec!["default-shop-keys".into(), "stale".into()],
        kept: false,
        has_group: true,
    })
}

fn entries(revision: &str, entries: &[(&str, &str)]) -> Secret {
    let data =
        (entries.iter()).map(|(name, value)| ((*name).to_owned(), ByteString(value.as_bytes().to_vec())));
    let mut secret = Secret {
        data: Some(data.collect()),
        ..Secret::default()
    };
    secret.metadata.resource_version = Some(revision.to_owned());
    secret
}

#[test]
fn keys_are_told_to_proxies_as_hashes() {
    use model::KeysKind::{Basic, Bearer};
    const KEY: &str = "sk-0123456789abcdef";
    let plan = keys_of(vec![
        (
            "bearerKeys",
            Bearer,
            Ok(entries("7", &[("ci", KEY), ("short", "x")])),
        ),
        ("basic", Basic, Ok(entries("8", &[("alice", "correct horse")]))),
    ]);
    let copy = &plan.copies[0];
    assert_eq!(copy.name_any(), "default-shop-keys");
    assert_eq!(copy.annotations()[SOURCE], "7-8");
    let json = &copy.data.as_ref().unwrap()["keys.json"].0;
    let keys = postern_proxy_config::keys::Keys::parse(json).unwrap();
    assert_eq!(format!("{keys:?}"), "1 keys and 1 passwords");
    let text = format!("{copy:?} {}", String::from_utf8_lossy(json));
    assert!(!text.contains(KEY) && !text.contains("horse"), "{text}");
    // The entry that is none is named, and the others count.
    assert_eq!(plan.problems.len(), 1);
    assert!(
        plan.problems[0].message.contains("entry short"),
        "{:?}",
        plan.problems
    );
    assert_eq!(plan.prune, ["stale"]);
}

#[test]
fn keys_of_a_secret_that_is_gone_are_none_and_of_one_that_is_hidden_as_before() {
    use model::KeysKind::Bearer;
    let gone = keys_of(vec![("bearerKeys", Bearer, Err(reasons::SECRET_NOT_FOUND))]);
    let json = &gone.copies[0].data.as_ref().unwrap()["keys.json"].0;
    assert!(postern_proxy_config::keys::Keys::parse(json).unwrap().is_empty());
    assert_eq!(gone.problems[0].reason, reasons::SECRET_NOT_FOUND);
    let empty = keys_of(vec![("bearerKeys", Bearer, Ok(entries("1", &[])))]);
    assert_eq!(
        (empty.copies.len(), empty.problems[0].reason),
        (1, reasons::INVALID_SECRET)
    );
    let hidden = keys_of(vec![("bearerKeys", Bearer, Err(reasons::SECRET_NOT_READABLE))]);
    assert_eq!((hidden.copies.len(), hidden.prune), (0, vec!["stale".to_owned()]));
}
