//! What the schemas of the custom resources let in and what they refuse, as a real API server decides it.

use anyhow::{Result, bail, ensure};
use postern_e2e::command;

use crate::runner::Test;
use crate::space::Space;

pub(crate) const TESTS: &[Test] = &[Test::beside(
    "the_api_server_takes_what_the_manifests_show_and_names_the_field_otherwise",
    schemas,
)];

/// `(kind, spec, what the refusal names)`; without a refusal it is taken.
const CASES: &[(&str, &str, Option<&str>)] = &[
    (
        "TailnetIngress",
        "{ backend: { service: { name: a, port: 80 } } }",
        None,
    ),
    (
        "TailnetIngress",
        "{ hostname: A.b, backend: { service: { name: a, port: 80 } } }",
        Some("spec.hostname"),
    ),
    (
        "TailnetService",
        "{ service: 'svc:db', ports: [\
           { port: 443, protocol: HTTPS, backend: { service: { name: pgadmin, port: 80 } } },\
           { port: 5432, protocol: TCP, backend: { service: { name: postgres, port: 5432 } }, proxyProtocol: V2 }] }",
        None,
    ),
    (
        "TailnetService",
        "{ ports: [{ port: 443, rules: [{ path: { value: /x }, backend: { service: { name: a, port: http } } }] }] }",
        None,
    ),
    ("ProxyGroup", "{ replicas: 2 }", None),
    ("ProxyGroup", "{ replicas: 0 }", Some("spec.replicas")),
    ("TailnetService", "{ ports: [] }", Some("spec.ports")),
    (
        "TailnetService",
        "{ service: db, ports: [{ port: 443, backend: { service: { name: a, port: 80 } } }] }",
        Some("spec.service"),
    ),
    (
        "TailnetService",
        "{ ports: [{ port: 70000, backend: { service: { name: a, port: 80 } } }] }",
        Some("spec.ports[0].port"),
    ),
    (
        "TailnetService",
        "{ ports: [{ port: 443, protocol: UDP, backend: { service: { name: a, port: 80 } } }] }",
        Some("spec.ports[0].protocol"),
    ),
    (
        "TailnetService",
        "{ ports: [{ port: 443 }] }",
        Some("exactly one of backend and rules"),
    ),
    (
        "TailnetService",
        "{ ports: [{ port: 22, protocol: TCP, rules: [{ backend: { service: { name: a, port: 22 } } }] }] }",
        Some("rules need protocol HTTPS or HTTP"),
    ),
    (
        "TailnetService",
        "{ ports: [{ port: 443, proxyProtocol: V2, backend: { service: { name: a, port: 80 } } }] }",
        Some("proxyProtocol needs protocol TCP or TLS"),
    ),
    (
        "TailnetService",
        "{ ports: [{ port: 443, backend: { service: { name: a, port: 80 } } }, { port: 443, protocol: TCP, backend: { service: { name: a, port: 80 } } }] }",
        Some("spec.ports"),
    ),
    ("IdentityProvider", "{}", None),
    (
        "IdentityProvider",
        "{ hostname: idp, clients: { allowedNamespaces: { from: All } }, backChannel: { enabled: true },\
           dynamicRegistration: { enabled: true, expireAfter: 30d } }",
        None,
    ),
    (
        "IdentityProvider",
        "{ clients: { allowedNamespaces: { from: Selector } } }",
        Some("selector must be set"),
    ),
    (
        "IdentityProvider",
        "{ signing: { algorithm: HS256 } }",
        Some("spec.signing.algorithm"),
    ),
    (
        "IdentityProvider",
        "{ lifetimes: { tokens: soon } }",
        Some("spec.lifetimes.tokens"),
    ),
    (
        "OIDCClient",
        "{ identityProviderRef: { name: idp, namespace: auth }, secretName: grafana-oidc,\
           redirectURIs: ['https://grafana.example.ts.net/login/generic_oauth'], access: { allow: [{ group: 'group:eng' }] } }",
        None,
    ),
    (
        "OIDCClient",
        "{ identityProviderRef: { name: idp }, public: true,\
           redirectURIs: ['http://127.0.0.1/callback', 'http://[::1]:8080/', 'http://localhost:1/x', 'com.example.app:/back'] }",
        None,
    ),
    (
        "OIDCClient",
        "{ identityProviderRef: { name: idp }, redirectURIs: ['http://app.example.com/callback'] }",
        Some("redirectURIs with http"),
    ),
    (
        "OIDCClient",
        "{ identityProviderRef: { name: idp }, redirectURIs: ['http://localhost.example.com/callback'] }",
        Some("redirectURIs with http"),
    ),
    (
        "OIDCClient",
        "{ identityProviderRef: { name: idp }, redirectURIs: ['JavaScript:alert(1)'] }",
        Some("redirectURIs must not have a scheme"),
    ),
    (
        "OIDCClient",
        "{ identityProviderRef: { name: idp }, redirectURIs: ['https://app.example.com/#x'] }",
        Some("spec.redirectURIs[0]"),
    ),
    (
        "OIDCClient",
        "{ identityProviderRef: { name: idp }, redirectURIs: [] }",
        Some("spec.redirectURIs"),
    ),
    (
        "OIDCClient",
        "{ redirectURIs: ['https://app.example.com/'] }",
        Some("spec.identityProviderRef"),
    ),
];

fn schemas(space: &Space<'_>) -> Result<()> {
    for (kind, spec, refusal) in CASES {
        check(space, kind, spec, *refusal)?;
    }
    space.note(format!("{} objects", CASES.len()));
    Ok(())
}

fn check(space: &Space<'_>, kind: &str, spec: &str, refusal: Option<&str>) -> Result<()> {
    let manifest =
        format!("apiVersion: postern.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: case }}\nspec: {spec}\n");
    let mut kubectl = space.cluster().kubectl();
    kubectl.args([
        "create",
        "--dry-run=server",
        "--validate=strict",
        "--namespace",
        &space.namespace,
        "--filename",
        "-",
    ]);
    match (command::output_of_input(&mut kubectl, &manifest), refusal) {
        (Ok(_), None) => Ok(()),
        (Err(error), Some(named)) => {
            let said = format!("{error:#}");
            ensure!(
                said.contains(named),
                "{kind} {spec} was refused without {named:?}: {said}"
            );
            Ok(())
        }
        (Ok(_), Some(named)) => bail!("{kind} {spec} was taken, it should be refused with {named:?}"),
        (Err(error), None) => Err(error.context(format!("{kind} {spec}"))),
    }
}
