//! Who may do what: pods are restricted, accounts can do what they must and nothing else.

use anyhow::{Result, ensure};
use postern_e2e::product::NAMESPACE;

use crate::runner::Test;
use crate::services;
use crate::space::Space;

pub(crate) const TESTS: &[Test] = &[
    Test::beside("pods_run_in_a_namespace_that_enforces_restricted", restricted),
    Test::beside("accounts_can_do_what_they_must_and_nothing_else", matrix),
];

const OPERATOR: &str = "postern-operator";
const PROXY: &str = "default-proxy";

fn restricted(space: &Space<'_>) -> Result<()> {
    space.app()?;
    let namespace = space
        .cluster()
        .get("namespace", "", NAMESPACE)?
        .unwrap_or_default();
    let enforced = &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
    ensure!(enforced == "restricted", "{NAMESPACE} enforces {enforced}");
    let pods = space.cluster().list("pod", NAMESPACE, "")?;
    let running = |what: &str| {
        pods.iter()
            .filter(|pod| {
                pod["metadata"]["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with(what))
            })
            .filter(|pod| pod["status"]["phase"] == "Running")
            .count()
    };
    ensure!(
        running("postern-operator") == 2,
        "{} operators run",
        running("postern-operator")
    );
    ensure!(running("default-") == 1, "{} proxies run", running("default-"));
    for pod in &pods {
        let name = &pod["metadata"]["name"];
        for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
            let security = &container["securityContext"];
            ensure!(
                security["readOnlyRootFilesystem"] == true,
                "{name} has a writable root"
            );
            ensure!(
                !container["resources"]["limits"]["memory"].is_null(),
                "{name} has no memory limit"
            );
        }
    }
    Ok(())
}

/// `(account, verb, resource, name, namespace, may)`; an empty name is any, an empty namespace is all.
fn matrix(space: &Space<'_>) -> Result<()> {
    let (name, _) = space.app()?;
    let state = format!("default-{name}-node");
    let certificate = format!("default-{name}-tls");
    let service = space.name("svc");
    space
        .cluster()
        .apply(&services::manifest(space, "svc", &service, 5432))?;
    services::wait_for(space, "svc", "Offered", "Offered", "")?;
    let of_service = format!("default-{service}.svc-tls");
    let of_app = space.namespace.as_str();
    let mut rows: Vec<(&str, &str, &str, &str, &str, bool)> = vec![
        // What a proxy works with, by name.
        (PROXY, "get", "secret", &state, NAMESPACE, true),
        (PROXY, "patch", "secret", &state, NAMESPACE, true),
        (PROXY, "get", "secret", &certificate, NAMESPACE, true),
        (PROXY, "patch", "secret", &certificate, NAMESPACE, true),
        (PROXY, "get", "secret", &of_service, NAMESPACE, true),
        (PROXY, "patch", "secret", &of_service, NAMESPACE, true),
        (PROXY, "get", "configmap", "default-config-0", NAMESPACE, true),
        (PROXY, "watch", "configmap", "default-config-0", NAMESPACE, true),
        (PROXY, "patch", "configmap", "default-0-report", NAMESPACE, true),
        // What it must not reach.
        (PROXY, "patch", "configmap", "default-config-0", NAMESPACE, false),
        (PROXY, "delete", "secret", &state, NAMESPACE, false),
        (PROXY, "delete", "secret", &of_service, NAMESPACE, false),
        (PROXY, "get", "secret", "other-name.svc-tls", NAMESPACE, false),
        (PROXY, "get", "tailnetservices.postern.dev", "", of_app, false),
        (PROXY, "get", "oidcclients.postern.dev", "", of_app, false),
        (PROXY, "get", "secret", "tailnet-oauth", NAMESPACE, false),
        (
            PROXY,
            "get",
            "secret",
            "postern-tailnet-default",
            NAMESPACE,
            false,
        ),
        (PROXY, "get", "secret", "other-name-node", NAMESPACE, false),
        (PROXY, "get", "secret", "other-name-keys", NAMESPACE, false),
        (PROXY, "get", "configmap", "other-config-0", NAMESPACE, false),
        (
            PROXY,
            "list",
            "endpointslices.discovery.k8s.io",
            "",
            of_app,
            false,
        ),
        (OPERATOR, "get", "ingresses.networking.k8s.io", "", of_app, true),
        (OPERATOR, "list", "tailnetingresses.postern.dev", "", "", true),
        (OPERATOR, "list", "tailnetservices.postern.dev", "", "", true),
        (OPERATOR, "list", "identityproviders.postern.dev", "", "", true),
        (
            OPERATOR,
            "patch",
            "identityproviders.postern.dev",
            "",
            of_app,
            true,
        ),
        (
            OPERATOR,
            "create",
            "identityproviders.postern.dev",
            "",
            of_app,
            false,
        ),
        (
            OPERATOR,
            "delete",
            "tailnetservices.postern.dev",
            "",
            of_app,
            false,
        ),
        (OPERATOR, "list", "oidcclients.postern.dev", "", "", true),
        (OPERATOR, "patch", "oidcclients.postern.dev", "", of_app, false),
        // Where no namespace has let it; where one has, the test of the identity provider asks.
        (OPERATOR, "get", "secret", "", of_app, false),
        (OPERATOR, "patch", "secret", "", of_app, false),
        (OPERATOR, "get", "secret", "tailnet-oauth", NAMESPACE, true),
        (OPERATOR, "create", "secret", "", NAMESPACE, true),
        (OPERATOR, "delete", "secret", "", NAMESPACE, true),
        (OPERATOR, "list", "secret", "", of_app, false),
        (OPERATOR, "watch", "secret", "", "", false),
        (OPERATOR, "list", "secret", "", "kube-system", false),
    ];
    for verb in ["list", "watch", "create"] {
        rows.push((PROXY, verb, "secret", "", NAMESPACE, false));
    }
    for account in [PROXY, OPERATOR] {
        for (verb, resource) in [
            ("create", "serviceaccounts/token"),
            ("create", "pods"),
            ("create", "pods/exec"),
            ("impersonate", "users"),
            ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
            ("escalate", "clusterroles.rbac.authorization.k8s.io"),
            ("update", "secret"),
            ("create", "secret"),
            ("delete", "secret"),
            ("list", "secret"),
        ] {
            rows.push((account, verb, resource, "", of_app, false));
        }
        for verb in ["get", "list", "create", "patch", "delete"] {
            rows.push((account, verb, "nodes", "", "", false));
        }
    }
    let count = rows.len();
    let wrong: Vec<String> = rows
        .into_iter()
        .filter_map(|(account, verb, resource, name, namespace, may)| {
            let can = can_i(space, account, verb, resource, name, namespace);
            let expected = if may { "yes" } else { "no" };
            (can != expected).then(|| {
                format!("{account} {verb} {resource}/{name} in {namespace:?}: {can}, should be {expected}")
            })
        })
        .collect();
    services::delete(space, "svc")?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    space.note(format!("{count} rows"));
    Ok(())
}

/// What `kubectl auth can-i` answers; it fails where the answer is no.
pub(crate) fn can_i(
    space: &Space<'_>,
    account: &str,
    verb: &str,
    resource: &str,
    name: &str,
    namespace: &str,
) -> String {
    let mut command = space.cluster().kubectl();
    let object = if name.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}/{name}")
    };
    command.args(["auth", "can-i", verb, &object]);
    command.arg(format!("--as=system:serviceaccount:{NAMESPACE}:{account}"));
    if namespace.is_empty() {
        command.arg("--all-namespaces")
    } else {
        command.args(["--namespace", namespace])
    };
    match command.output() {
        Ok(out) => String::from_utf8_lossy(&out.stdout)
            .split_whitespace()
            .next()
            .unwrap_or("nothing")
            .to_owned(),
        Err(error) => error.to_string(),
    }
}
