use postern_proxy_config::group::{PathMatch, Timeouts};

use super::*;

fn object(spec: &str) -> TailnetIngress {
    serde_saphyr::from_str(&format!(
        "apiVersion: postern.dev/v1alpha1\nkind: TailnetIngress\nmetadata: {{name: grafana, namespace: m, uid: u}}\nspec: {spec}"
    ))
    .unwrap()
}

fn problems(spec: &str) -> Vec<String> {
    claim(&object(spec))
        .spec
        .unwrap_err()
        .iter()
        .map(|problem| problem.field.clone())
        .collect()
}

const BACKEND: &str = "backend: {service: {name: a, port: 80}}";

#[test]
fn the_short_form_serves_everything_under_the_objects_name() {
    let claim = claim(&object(&format!("{{{BACKEND}}}")));
    assert_eq!(claim.hostname.unwrap().as_str(), "grafana");
    assert_eq!(claim.group, "default");
    let spec = claim.spec.unwrap();
    let routes: Vec<_> = spec.routes().collect();
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].path, PathMatch::Prefix("/".into()));
    assert_eq!(routes[0].timeouts, Timeouts::default());
}

#[test]
fn every_bad_field_is_named() {
    let cases = [
        (format!("{{hostname: a.b, {BACKEND}}}"), "spec.hostname"),
        (format!("{{tags: [x], {BACKEND}}}"), "spec.tags[0]"),
        ("{}".into(), "spec"),
        (
            format!("{{{BACKEND}, rules: [{{path: {{value: /x}}, {BACKEND}}}]}}"),
            "spec",
        ),
        (
            "{backend: {service: {name: a, port: 0}}}".into(),
            "spec.backend.service.port",
        ),
        (
            "{rules: [{backend: {service: {name: a, port: 70000}}}]}".into(),
            "spec.rules[0].backend.service.port",
        ),
        (
            format!("{{rules: [{{path: {{value: x}}, {BACKEND}}}]}}"),
            "spec.rules[0].path.value",
        ),
        (
            format!(
                "{{rules: [{{path: {{type: Exact, value: /x}}, rewrite: {{replacePrefix: /}}, {BACKEND}}}]}}"
            ),
            "spec.rules[0].rewrite.replacePrefix",
        ),
        (
            format!("{{access: {{allow: [{{source: x}}]}}, {BACKEND}}}"),
            "spec.access.allow[0]",
        ),
        (
            format!("{{rules: [{{access: {{allow: [{{user: a, tag: 'tag:b'}}]}}, {BACKEND}}}]}}"),
            "spec.rules[0].access.allow[0]",
        ),
        (
            format!("{{rules: [{{limits: {{bodyBytes: 1x}}, {BACKEND}}}]}}"),
            "spec.rules[0].limits.bodyBytes",
        ),
        (
            format!("{{rules: [{{timeouts: {{idle: 0s}}, {BACKEND}}}]}}"),
            "spec.rules[0].timeouts.idle",
        ),
        (
            format!("{{rules: [{{{BACKEND}}}, {{{BACKEND}}}]}}"),
            "spec.rules[1].backend.service",
        ),
    ];
    for (spec, field) in cases {
        assert_eq!(problems(&spec), [field], "{spec}");
    }
}

#[test]
fn access_of_the_object_is_that_of_rules_without_one() {
    let claim = claim(&object(&format!(
        "{{access: {{allow: [{{user: a}}]}}, rules: [{{path: {{value: /x}}, access: {{allow: []}}, {BACKEND}}}, {{{BACKEND}}}]}}"
    )));
    let spec = claim.spec.unwrap();
    let routes: Vec<_> = spec.routes().collect();
    assert!(routes[0].access.as_ref().unwrap().allow.is_empty());
    assert_eq!(routes[1].access.as_ref().unwrap().allow.len(), 1);
}
