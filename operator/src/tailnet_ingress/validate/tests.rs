use postern_crds::conditions::reasons;
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

const RULES: &str = "rules: [{path: {value: /ollama}, backend: {service: {name: a, port: 80}}}, \
                     {backend: {service: {name: a, port: 80}}}]";

fn spec_of(spec: &str) -> NameSpec {
    claim(&object(spec)).spec.unwrap()
}

fn public_paths(spec: &NameSpec) -> Vec<String> {
    let public = spec.routes().filter(|route| route.funnel);
    public.map(|route| format!("{:?}", route.path)).collect()
}

#[test]
fn nothing_is_public_that_is_not_said_to_be() {
    let none = spec_of(&format!("{{{BACKEND}}}"));
    assert!(none.funnel.is_none() && public_paths(&none).is_empty());
    let short = spec_of(&format!("{{{BACKEND}, funnel: {{unauthenticated: true}}}}"));
    assert_eq!(public_paths(&short), [r#"Prefix("/")"#]);
    let long = spec_of(&format!(
        "{{{RULES}, funnel: {{rules: [/ollama], auth: {{bearerKeys: {{secretRef: {{name: k}}}}}}}}}}"
    ));
    assert_eq!(public_paths(&long), [r#"Prefix("/ollama")"#]);
    assert_eq!(long.keys()[0].field, "spec.funnel.auth.bearerKeys.secretRef.name");
}

#[test]
fn a_funnel_that_is_not_said_in_full_stays_on_the_tailnet() {
    let cases = [
        (BACKEND, "{}", "spec.funnel", reasons::FUNNEL_NEEDS_LOCK),
        (
            BACKEND,
            "{sources: []}",
            "spec.funnel",
            reasons::FUNNEL_NEEDS_LOCK,
        ),
        (
            BACKEND,
            "{limits: {perAddress: {connections: 1}}}",
            "spec.funnel",
            reasons::FUNNEL_NEEDS_LOCK,
        ),
        (
            BACKEND,
            "{sources: [0.0.0.0/0]}",
            "spec.funnel.sources[0]",
            reasons::INVALID,
        ),
        (
            BACKEND,
            "{sources: ['::/0']}",
            "spec.funnel.sources[0]",
            reasons::INVALID,
        ),
        (
            BACKEND,
            "{sources: [here]}",
            "spec.funnel.sources[0]",
            reasons::INVALID,
        ),
        (BACKEND, "{auth: {}}", "spec.funnel.auth", reasons::INVALID),
        (
            BACKEND,
            "{auth: {basic: {secretRef: {name: k}}}, unauthenticated: true}",
            "spec.funnel.unauthenticated",
            reasons::INVALID,
        ),
        (
            BACKEND,
            "{ports: [80], unauthenticated: true}",
            "spec.funnel.ports",
            reasons::INVALID,
        ),
        (
            RULES,
            "{unauthenticated: true}",
            "spec.funnel.rules",
            reasons::INVALID,
        ),
        (
            RULES,
            "{rules: [/ollama, /olama], unauthenticated: true}",
            "spec.funnel.rules[1]",
            reasons::INVALID,
        ),
    ];
    for (rest, funnel, field, reason) in cases {
        let spec = spec_of(&format!("{{{rest}, funnel: {funnel}}}"));
        let problems = spec.funnel.as_ref().unwrap().as_ref().unwrap_err();
        let said: Vec<_> = problems.iter().map(|p| (p.field.as_str(), p.reason)).collect();
        assert_eq!(said, [(field, reason)], "{funnel}");
        assert!(
            public_paths(&spec).is_empty() && spec.ports.len() == 1,
            "{funnel}"
        );
    }
}

#[test]
fn funnel_has_ports_of_its_own_if_wished() {
    let ports = |funnel: &str| -> Vec<u16> {
        let spec = spec_of(&format!("{{{BACKEND}, funnel: {funnel}}}"));
        spec.ports.iter().map(|port| port.port).collect()
    };
    assert_eq!(ports("{unauthenticated: true}"), [443]);
    assert_eq!(
        ports("{ports: [10000, 8443], unauthenticated: true}"),
        [443, 8443, 10000]
    );
    // What is to be on the internet alone isn't on the tailnet for want of a lock.
    assert_eq!(
        problems(&format!("{{{BACKEND}, funnel: {{only: true}}}}")),
        ["spec.funnel"]
    );
    assert_eq!(
        problems(&format!(
            "{{{BACKEND}, httpRedirect: true, funnel: {{only: true, unauthenticated: true}}}}"
        )),
        ["spec.httpRedirect"]
    );
}
