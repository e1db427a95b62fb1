use postern_proxy_config::group::PathMatch;

use super::*;

fn object(annotations: &str, spec: &str) -> Ingress {
    serde_saphyr::from_str(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: wiki, namespace: m, uid: u, annotations: {annotations}}}\nspec: {spec}"
    ))
    .unwrap()
}

const DEFAULT: &str = "defaultBackend: {service: {name: a, port: {number: 80}}}";
const BACKEND: &str = "backend: {service: {name: a, port: {name: http}}}";

fn hostname(annotations: &str, spec: &str) -> String {
    claim(&object(annotations, spec)).hostname.unwrap().to_string()
}

#[test]
fn the_name_is_the_annotation_or_the_first_tls_host_or_the_objects_name() {
    assert_eq!(hostname("{}", &format!("{{{DEFAULT}}}")), "wiki");
    assert_eq!(
        hostname(
            "{}",
            &format!("{{{DEFAULT}, tls: [{{hosts: [Foo.bar.ts.net]}}]}}")
        ),
        "foo"
    );
    let own = format!("{{{DEFAULT}, tls: [{{hosts: [shop.example.com], secretName: s}}]}}");
    assert_eq!(
        hostname("{}", &own),
        "wiki",
        "a host with an own certificate is no device name"
    );
    let tls = format!("{{{DEFAULT}, tls: [{{hosts: [foo]}}]}}");
    assert_eq!(hostname("{tailscale.com/hostname: up}", &tls), "up");
    assert_eq!(
        hostname("{tailscale.com/hostname: up, postern.dev/hostname: ours}", &tls),
        "ours"
    );
}

#[test]
fn upstream_annotations_are_honoured_and_others_are_named() {
    let annotations = "{tailscale.com/tags: 'tag:a, tag:b', tailscale.com/proxy-group: g, \
                       tailscale.com/http-redirect: 'true', tailscale.com/funnel: 'true', \
                       tailscale.com/experimental: x, other.com/x: y}";
    let claim = claim(&object(annotations, &format!("{{{DEFAULT}}}")));
    let spec = claim.spec.unwrap();
    assert_eq!(spec.tags, ["tag:a", "tag:b"]);
    assert!(spec.redirects());
    assert_eq!(claim.group, "g");
    let reasons: Vec<_> = claim.warnings.iter().map(|w| w.reason).collect();
    assert_eq!(reasons, [reasons::IGNORED_ANNOTATION, reasons::FUNNEL_NEEDS_LOCK]);
    assert!(claim.warnings[0].field.contains("tailscale.com/experimental"));
}

#[test]
fn every_bad_field_is_named() {
    let paths = |path: &str| format!("{{rules: [{{http: {{paths: [{path}]}}}}]}}");
    let cases = [
        (
            "{postern.dev/hostname: A.b}",
            format!("{{{DEFAULT}}}"),
            "metadata.annotations[postern.dev/hostname]",
        ),
        (
            "{postern.dev/tags: nope}",
            format!("{{{DEFAULT}}}"),
            "metadata.annotations[postern.dev/tags]",
        ),
        (
            "{postern.dev/http-redirect: on}",
            format!("{{{DEFAULT}}}"),
            "metadata.annotations[postern.dev/http-redirect]",
        ),
        ("{}", "{}".into(), "spec"),
        (
            "{}",
            "{defaultBackend: {resource: {kind: Bucket, name: b}}}".into(),
            "spec.defaultBackend",
        ),
        (
            "{}",
            "{defaultBackend: {service: {name: a}}}".into(),
            "spec.defaultBackend.service.port",
        ),
        (
            "{}",
            paths(&format!("{{path: x, pathType: Prefix, {BACKEND}}}")),
            "spec.rules[0].http.paths[0].path",
        ),
        (
            "{}",
            paths(&format!("{{path: /x, pathType: Regex, {BACKEND}}}")),
            "spec.rules[0].http.paths[0].pathType",
        ),
        (
            "{}",
            paths(&format!(
                "{{path: /, pathType: Prefix, {BACKEND}}}, {{path: /, pathType: Prefix, {BACKEND}}}"
            )),
            "spec.rules[0].http.paths[1].backend.service",
        ),
    ];
    for (annotations, spec, field) in cases {
        let problems = claim(&object(annotations, &spec)).spec.unwrap_err();
        let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, [field], "{annotations} {spec}");
    }
}

#[test]
fn rules_are_for_every_host_of_the_name_or_for_hosts_of_an_own_certificate() {
    let spec = format!(
        "{{tls: [{{hosts: ['*.example.com'], secretName: s}}], rules: [\
         {{host: wiki.tail.ts.net, http: {{paths: [{{path: /a, pathType: Exact, {BACKEND}}}]}}}},\
         {{host: Shop.example.com, http: {{paths: [{{pathType: ImplementationSpecific, {BACKEND}}}]}}}},\
         {{host: other.org, http: {{paths: [{{pathType: Prefix, {BACKEND}}}]}}}},\
         {{host: wiki}}]}}"
    );
    let claim = claim(&object("{}", &spec));
    let spec = claim.spec.unwrap();
    let routes: Vec<_> = spec.routes().collect();
    let told: Vec<_> = routes
        .iter()
        .map(|r| (r.host.as_deref(), r.path.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (None, PathMatch::Exact("/a".into())),
            (Some("shop.example.com"), PathMatch::Prefix("/".into())),
        ]
    );
    let fields: Vec<_> = claim.warnings.iter().map(|w| w.field.as_str()).collect();
    assert_eq!(fields, ["spec.rules[2].host", "spec.rules[3]"]);
}

#[test]
fn a_rule_for_everything_is_stronger_than_the_default_backend() {
    let spec =
        format!("{{{DEFAULT}, rules: [{{http: {{paths: [{{path: /, pathType: Prefix, {BACKEND}}}]}}}}]}}");
    let spec = claim(&object("{}", &spec)).spec.unwrap();
    let routes: Vec<_> = spec.routes().collect();
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].backend.port, Port::Name("http".into()));
}
