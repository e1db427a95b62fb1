//! Keys and passwords, and how they change.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postern_e2e::product::NAMESPACE;
use postern_e2e::wait;
use serde_json::{Value, json};

use super::{Edge, SAID, said};
use crate::runner::seconds;
use crate::space::Space;

pub(super) const OLD: &str = "sk-old-0123456789abcdef";
pub(super) const NEW: &str = "sk-new-0123456789abcdef";
pub(super) const OLD_PASSWORD: &str = "tuesday-battery";
const NEW_PASSWORD: &str = "wednesday-staple";

/// What shows them (RFC 6750; RFC 7617, of the user `ops`).
const BY_OLD: [&str; 2] = [
    "Authorization: Bearer sk-old-0123456789abcdef",
    "Authorization: Basic b3BzOnR1ZXNkYXktYmF0dGVyeQ==",
];
const BY_NEW: [&str; 2] = [
    "Authorization: Bearer sk-new-0123456789abcdef",
    "Authorization: Basic b3BzOndlZG5lc2RheS1zdGFwbGU=",
];

/// Promised is a second or so after the operator has looked. A loaded machine gets more, but less than the operator
/// leaves between two looks of its own.
const CHANGED: Duration = Duration::from_secs(20);

/// The Secrets `keys` and `people`, before any change.
pub(super) fn old(space: &Space<'_>) -> Result<()> {
    secret(space, "keys", &[("ci", OLD)])?;
    secret(space, "people", &[("ops", OLD_PASSWORD)])
}

/// The new ones beside the old ones.
pub(super) fn both(space: &Space<'_>) -> Result<()> {
    secret(space, "keys", &[("ci", &format!("{OLD}\n{NEW}"))])?;
    secret(
        space,
        "people",
        &[("ops", &format!("{OLD_PASSWORD}\n{NEW_PASSWORD}"))],
    )
}

/// Of [`both`], which the operator sees by itself, to the new ones, and to none; of which it is told.
pub(super) fn change_over(space: &Space<'_>, name: &str, edge: &Edge) -> Result<()> {
    let statuses = |from: &str, shown: [&str; 2]| -> Result<[u16; 2]> {
        let mut statuses = [0; 2];
        for (status, shown) in statuses.iter_mut().zip(shown) {
            *status = edge.ask(space, from, name, "/public", &[shown], None)?.status;
        }
        Ok(statuses)
    };
    let told = || -> Result<Instant> {
        space.look_again("tailnetingress", name)?;
        Ok(Instant::now())
    };
    wait::until("the new keys to hold", SAID, || {
        ensure!(statuses("127.0.0.1", BY_OLD)? == [200; 2], "the old ones don't");
        // Their failures are counted by address, and would keep the old ones out too.
        let new = statuses("127.0.0.2", BY_NEW)?;
        ensure!(new == [200; 2], "they are answered {new:?}");
        Ok(())
    })?;

    secret(space, "keys", &[("ci", NEW), ("short", "secret")])?;
    secret(space, "people", &[("ops", NEW_PASSWORD)])?;
    let start = told()?;
    wait::until("the old keys to be out", CHANGED, || {
        ensure!(
            statuses("127.0.0.1", BY_NEW)? == [200; 2],
            "the new ones don't hold"
        );
        let old = statuses("127.0.0.3", BY_OLD)?;
        ensure!(old == [401; 2], "they are answered {old:?}");
        Ok(())
    })?;
    let out = seconds(start.elapsed());
    // The bad entry is named, and costs the good ones nothing.
    said(space, name, "ResolvedRefs", "InvalidSecret", "entry short")?;

    let of_space = ["--namespace", space.namespace.as_str()];
    space
        .cluster()
        .run(&[&["delete", "secret", "keys", "people"][..], &of_space].concat())?;
    let start = told()?;
    wait::until("nobody to have a key", CHANGED, || {
        let new = statuses("127.0.0.1", BY_NEW)?;
        ensure!(new == [401; 2], "they are answered {new:?}");
        Ok(())
    })?;
    space.note(format!(
        "keys out {out} after a change, {} after the end of their Secret",
        seconds(start.elapsed())
    ));
    for field in ["bearerKeys", "basic"] {
        let named = format!("spec.funnel.auth.{field}");
        said(space, name, "ResolvedRefs", "SecretNotFound", &named)?;
    }
    Ok(())
}

/// UIDs and restarts of the pods that serve.
pub(super) fn proxies(space: &Space<'_>) -> Result<Vec<Value>> {
    let pods = space
        .cluster()
        .list("pod", NAMESPACE, "postern.dev/proxy-group=default")?;
    ensure!(!pods.is_empty(), "there is no proxy");
    let of = |pod: &Value| {
        json!([
            pod["metadata"]["uid"],
            pod["status"]["containerStatuses"][0]["restartCount"]
        ])
    };
    Ok(pods.iter().map(of).collect())
}

/// A Secret that the operator may read.
pub(super) fn secret(space: &Space<'_>, name: &str, entries: &[(&str, &str)]) -> Result<()> {
    let data: serde_json::Map<String, Value> = (entries.iter())
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let rules =
        json!([{ "apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"] }]);
    let meta = json!({ "name": name, "namespace": space.namespace });
    let group = "rbac.authorization.k8s.io";
    let objects = [
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data }),
        json!({ "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": meta, "rules": rules }),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": meta,
            "roleRef": { "apiGroup": group, "kind": "Role", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": "postern-operator", "namespace": NAMESPACE }],
        }),
    ];
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    space.cluster().apply(&list.to_string())
}
