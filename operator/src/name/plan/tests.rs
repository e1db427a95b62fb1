use k8s_openapi::ByteString;

use super::*;
use crate::{
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

fn planned(claim: &Claim, stores: &Stores, found: Vec<Found>, kept: bool) -> NamePlan {
    let judgement = judge(claim, &Claims::collect(stores), stores);
    plan(Inputs {
        namespace: "postern",
        claim,
        ours: true,
        judgement: &judgement,
        found,
        copies: vec!["stale".into()],
        kept,
        has_default_group: true,
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
        (plan.finalizer, plan.copies.len(), plan.make_default_group),
        (None, 0, false)
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
