use super::*;

fn object(spec: &str) -> TailnetService {
    serde_saphyr::from_str(&format!(
        "apiVersion: postern.dev/v1alpha1\nkind: TailnetService\nmetadata: {{name: db, namespace: data, uid: u}}\nspec: {spec}"
    ))
    .unwrap()
}

const WEB: &str = "backend: {service: {name: a, port: 80}}";

#[test]
fn ports_become_what_is_spoken_on_them() {
    let claim = claim(&object(&format!(
        "{{httpRedirect: true, access: {{allow: [{{tag: 'tag:ci'}}]}}, ports: [\
           {{port: 443, {WEB}}},\
           {{port: 8080, protocol: HTTP, rules: [{{path: {{value: /x}}, {WEB}}}]}},\
           {{port: 5432, protocol: TCP, {WEB}, proxyProtocol: V2}},\
           {{port: 6380, protocol: TLS, {WEB}, access: {{allow: [{{user: a@example.com}}]}}}}]}}"
    )));
    assert_eq!(
        (claim.kind, claim.group.as_str()),
        (ClaimKind::Service, "default")
    );
    assert_eq!(claim.hostname.as_ref().unwrap().as_str(), "db");
    let spec = claim.spec.unwrap();
    assert!(spec.needs_certificate() && spec.redirects());
    let ports: Vec<_> = spec.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [443, 8080, 5432, 6380, 80]);
    let everywhere = spec.routes().next().unwrap().access.clone();
    assert_eq!(everywhere.as_ref().unwrap().allow.len(), 1);
    match (&spec.ports[2].protocol, &spec.ports[3].protocol) {
        (PortProtocol::Tcp(tcp), PortProtocol::Tls(tls)) => {
            assert_eq!(tcp.proxy_protocol, Some(config::ProxyProtocol::V2));
            assert_eq!(tcp.access, everywhere);
            assert_ne!(tls.access, everywhere, "a port's own comes first");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_alone_need_no_certificate() {
    let claim = claim(&object(&format!(
        "{{ports: [{{port: 22, protocol: TCP, {WEB}}}]}}"
    )));
    assert!(!claim.spec.unwrap().needs_certificate());
}

#[test]
fn every_bad_field_is_named() {
    let https = format!("ports: [{{port: 443, {WEB}}}]");
    let cases = [
        ("{service: db, ports: []}".to_owned(), "spec.service"),
        (format!("{{service: 'svc:a.b', {https}}}"), "spec.service"),
        (format!("{{tags: [x], {https}}}"), "spec.tags[0]"),
        ("{ports: []}".to_owned(), "spec.ports"),
        (format!("{{ports: [{{port: 0, {WEB}}}]}}"), "spec.ports[0].port"),
        ("{ports: [{port: 443}]}".to_owned(), "spec.ports[0]"),
        (
            format!("{{ports: [{{port: 443, {WEB}}}, {{port: 443, protocol: TCP, {WEB}}}]}}"),
            "spec.ports[1].port",
        ),
        (
            format!("{{ports: [{{port: 22, protocol: TCP, rules: [{{{WEB}}}]}}]}}"),
            "spec.ports[0].rules",
        ),
        (
            format!("{{ports: [{{port: 443, proxyProtocol: V1, {WEB}}}]}}"),
            "spec.ports[0].proxyProtocol",
        ),
        (
            "{ports: [{port: 22, protocol: TCP, backend: {service: {name: a, port: 22}, scheme: HTTPS}}]}"
                .to_owned(),
            "spec.ports[0].backend.scheme",
        ),
        (
            format!("{{httpRedirect: true, ports: [{{port: 22, protocol: TCP, {WEB}}}]}}"),
            "spec.httpRedirect",
        ),
        (
            format!(
                "{{httpRedirect: true, ports: [{{port: 443, {WEB}}}, {{port: 80, protocol: HTTP, {WEB}}}]}}"
            ),
            "spec.httpRedirect",
        ),
        (
            format!("{{ports: [{{port: 443, rules: [{{{WEB}}}, {{{WEB}}}]}}]}}"),
            "spec.ports[0].rules[1].backend.service",
        ),
    ];
    for (spec, field) in cases {
        let problems = claim(&object(&spec)).spec.unwrap_err();
        assert!(
            problems.iter().any(|problem| problem.field == field),
            "{spec}: {problems:?}"
        );
    }
}
