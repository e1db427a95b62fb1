//! Golden files: `testdata/NAME.yaml` is what the cluster holds, `snapshots/` what is planned for the group
//! `default`. `INSTA_UPDATE=always` writes them.

use std::sync::Arc;

use super::*;
use crate::{
    labels::{ROLE, ROLE_DOCUMENT, label},
    name::backends,
    proxy_group::{dereference::dereference, validate::validate},
    stores::{Stores, fixtures::filled},
};

fn settings() -> Settings {
    Settings {
        namespace: "postern".into(),
        cluster_id: "cluster".into(),
        proxy_image: "postern-proxy:test".into(),
        pull_policy: "IfNotPresent".into(),
        proxy_log: "info".into(),
    }
}

fn planned(stores: &Stores) -> Plan {
    let group = Arc::clone(&stores.proxy_group("default").expect("a group"));
    let inputs = dereference(stores, &group);
    let valid = validate(&inputs).expect("a valid group");
    let now = Timestamp::from_second(1_000_000).unwrap();
    plan(&settings(), &inputs, &valid, now, &|key| {
        backends::addresses(stores, key)
    })
}

/// What changes from case to case; the rest is in the case `whole`.
#[derive(Serialize)]
struct Core<'a> {
    secrets: Vec<&'a Secret>,
    release: Vec<&'a str>,
    endpoints: serde_json::Value,
    names: serde_json::Value,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    services: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    hosts: serde_json::Map<String, serde_json::Value>,
    role: Vec<String>,
}

fn core(plan: &Plan) -> Core<'_> {
    let json = |map: &ConfigMap| -> serde_json::Value {
        let text = map
            .data
            .iter()
            .flatten()
            .next()
            .map(|(_, text)| text.clone())
            .unwrap_or_default();
        serde_json::from_str(&text).unwrap()
    };
    let all = |part: &str| -> serde_json::Map<_, _> {
        (plan.shards.iter())
            .filter_map(|shard| json(shard)[part].as_object().cloned())
            .flatten()
            .collect()
    };
    let rules = plan
        .role
        .rules
        .iter()
        .flatten()
        .filter(|rule| rule.resources == Some(vec!["secrets".into()]));
    Core {
        secrets: plan
            .secrets
            .iter()
            .filter(|s| s.metadata.name.as_deref() != Some("default-acme"))
            .collect(),
        release: plan.release.iter().map(|(name, _)| name.as_str()).collect(),
        endpoints: json(&plan.endpoints)["backends"].clone(),
        names: all("names").into(),
        services: all("services"),
        hosts: all("hosts"),
        role: rules
            .map(|r| format!("{:?} {:?}", r.verbs, r.resource_names.clone().unwrap_or_default()))
            .collect(),
    }
}

#[test]
fn plans_are_as_committed() {
    insta::glob!("testdata/*.yaml", |path| {
        let stores = filled("postern", &std::fs::read_to_string(path).unwrap());
        let plan = planned(&stores);
        if path.file_stem().is_some_and(|stem| stem == "whole") {
            insta::assert_yaml_snapshot!(plan);
        } else {
            insta::assert_yaml_snapshot!(core(&plan));
        }
    });
}

#[test]
fn an_identity_provider_finds_places_that_only_its_group_may_fill() {
    let yaml = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/proxy_group/plan/testdata/identity_provider.yaml"
    ));
    let plan = planned(&filled("postern", &yaml.unwrap()));
    let documents: Vec<_> = (plan.blanks.iter())
        .filter(|map| label(*map, ROLE) == Some(ROLE_DOCUMENT))
        .map(|map| map.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(documents.len(), 48);
    let rules = plan.role.rules.unwrap();
    let may = |name: &str| -> Vec<&[String]> {
        (rules.iter())
            .filter(|rule| rule.resource_names.iter().flatten().any(|other| other == name))
            .map(|rule| &rule.verbs[..])
            .collect()
    };
    let fill = ["get".to_owned(), "patch".to_owned()];
    for name in documents
        .iter()
        .map(String::as_str)
        .chain(["default-idp-idp-keys"])
    {
        assert_eq!(may(name), [&fill[..]], "{name}");
    }
    assert!(documents.contains(&"default-idp-idp-sessions-15".to_owned()));
}

#[test]
fn a_changed_client_is_news_to_the_proxies() {
    let yaml = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/proxy_group/plan/testdata/identity_provider.yaml"
    ))
    .unwrap();
    let clients = "---\napiVersion: v1\nkind: Secret\n\
                   metadata: { name: default-idp-idp-declared, namespace: postern, resourceVersion: '42' }\n";
    for (yaml, revision) in [(yaml.clone(), ""), (yaml + clients, "42")] {
        let plan = planned(&filled("postern", &yaml));
        let names = &core(&plan).names;
        let provider = &names["idp"]["listeners"][0]["protocol"];
        assert_eq!(provider["clients"]["name"], "default-idp-idp-declared");
        assert_eq!(provider["clients"]["revision"], revision);
        // The proxies read it and can't write it.
        let role = serde_json::to_string(&plan.role).unwrap();
        assert!(
            role.contains(r#"["default-idp-idp-declared","default-replica-link"],"resources":["secrets"],"verbs":["get"]"#),
            "{role}"
        );
    }
}

#[test]
fn a_plan_holds_no_key_of_any_secret() {
    let yaml = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/proxy_group/plan/testdata/names.yaml"
    ));
    let text = serde_json::to_string(&planned(&filled("postern", &yaml.unwrap()))).unwrap();
    assert!(!text.contains("dHNrZXk"), "an auth key is in the plan");
}
