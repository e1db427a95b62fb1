//! What goes leaves nothing behind, whatever goes first; a name has one owner.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postern_e2e::app;
use postern_e2e::client::Fetch;
use postern_e2e::control::Control;
use postern_e2e::product::NAMESPACE;
use postern_e2e::{tailnet, wait};
use serde_json::Value;

use crate::runner::{Test, seconds};
use crate::services;
use crate::space::{Space, condition, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside("deleting_an_ingress_leaves_nothing", ingress),
    Test::beside("deleting_a_namespace_leaves_nothing", namespace),
    Test::beside(
        "the_older_of_two_claims_serves_and_the_younger_is_told",
        name_taken,
    ),
    Test::beside("a_tailnet_in_use_stays_and_names_its_users", tailnet_in_use),
    Test::alone(
        "what_is_deleted_while_the_operator_is_down_goes_when_it_is_back",
        operator_down,
    ),
    Test::alone(
        "a_tailnet_deleted_while_the_operator_is_down_goes_when_it_is_back",
        operator_down_tailnet,
    ),
];

/// For the device, the Secrets and the finalizer to be gone.
const GONE: Duration = Duration::from_secs(30);

fn ingress(space: &Space<'_>) -> Result<()> {
    let (name, _) = space.app()?;
    let uid = uid(space, &name)?;
    ensure!(
        !made_for(space, &uid, &name)?.is_empty(),
        "nothing in {NAMESPACE} is labelled as made for it"
    );
    let start = Instant::now();
    space.delete_ingress(&name)?;
    nothing_left(space, &uid, &name)?;
    space.note(format!("gone after {}", seconds(start.elapsed())));
    Ok(())
}

fn namespace(space: &Space<'_>) -> Result<()> {
    let (name, _) = space.app()?;
    let uid = uid(space, &name)?;
    let service = space.name("svc");
    space
        .cluster()
        .apply(&services::manifest(space, "svc", &service, 5432))?;
    services::wait_for(space, "svc", "Defined", "Defined", "100.")?;
    space
        .cluster()
        .run(&["delete", "namespace", &space.namespace, "--timeout=60s"])?;
    let left = services::Api::open()?.definition(&format!("svc:{service}"))?;
    ensure!(left.is_none(), "the definition stays: {left:?}");
    nothing_left(space, &uid, &name)
}

fn name_taken(space: &Space<'_>) -> Result<()> {
    space.deploy("first")?;
    space.deploy("second")?;
    let hostname = space.name("wanted");
    let claim = |object: &str, service: &str| {
        app::ingress(&space.namespace, object, service).replace(
            "metadata: {",
            &format!("metadata: {{ annotations: {{ postern.dev/hostname: {hostname} }},"),
        )
    };
    space.cluster().apply(&claim("older", "first"))?;
    let url = url(&hostname);
    space.answer(&url)?;
    space.cluster().apply(&claim("younger", "second"))?;
    let message = space.event("younger", "NameTaken", Duration::from_secs(15))?;
    ensure!(
        message.contains("older"),
        "the Event does not name the owner: {message}"
    );
    wait::throughout("the older claim", Duration::from_secs(3), || {
        ensure!(
            Fetch::get("alice", &url).send()?.seen()?.app == "first",
            "the younger claim is served"
        );
        Ok(())
    })?;
    space.delete_ingress("older")?;
    wait::until("the younger claim to be served", Duration::from_secs(60), || {
        let seen = Fetch::get("alice", &url).send()?.seen()?;
        ensure!(seen.app == "second", "{} answers", seen.app);
        Ok(())
    })
}

fn tailnet_in_use(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let own = OwnGroup::create(space, &tailnet::control_url())?;
    let name = space.name("in-use");
    space.cluster().apply(&own.ingress(space, &name))?;
    space.answer(&url(&name))?;
    let uid = uid(space, &name)?;
    // The wrong way round: the Tailnet and its Secret first, then the group, then what uses them.
    space
        .cluster()
        .run(&["delete", "tailnet", &own.name, "--wait=false"])?;
    space
        .cluster()
        .run(&["delete", "secret", &own.name, "--namespace", NAMESPACE])?;
    let object = space.cluster().wait(
        "tailnet",
        NAMESPACE,
        &own.name,
        Duration::from_secs(15),
        |object| condition(object, "Ready").is_some_and(|(_, _, message)| message.contains(&own.name)),
    )?;
    let (status, reason, message) = condition(&object, "Ready").context("no condition")?;
    space.note(format!("{status} {reason}: {message}"));
    space
        .cluster()
        .run(&["delete", "proxygroup", &own.name, "--wait=false"])?;
    ensure!(
        Fetch::get("alice", url(&name)).send()?.status == 200,
        "it no longer serves, although it is in use"
    );
    space.delete_ingress(&name)?;
    nothing_left(space, &uid, &name)?;
    own.gone(space)
}

fn operator_down(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    let uid = uid(space, &name)?;
    without_operator(space, || {
        delete_unseen(space, "ingress", &name)?;
        wait::throughout("the name without an operator", Duration::from_secs(3), || {
            ensure!(
                Fetch::get("alice", &url).send()?.status == 200,
                "it does not serve"
            );
            Ok(())
        })
    })?;
    nothing_left(space, &uid, &name)
}

/// The wrong way round, with nobody there to see it: the Secret and the Tailnet first.
fn operator_down_tailnet(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let own = OwnGroup::create(space, &tailnet::control_url())?;
    let name = space.name("orphan");
    space.cluster().apply(&own.ingress(space, &name))?;
    space.answer(&url(&name))?;
    let uid = uid(space, &name)?;
    let service = space.name("svc");
    let manifest = services::manifest(space, "svc", &service, 5432);
    space.cluster().apply(&in_group(&manifest, &own.name))?;
    services::wait_for(space, "svc", "Defined", "Defined", "100.")?;
    without_operator(space, || {
        space
            .cluster()
            .run(&["delete", "secret", &own.name, "--namespace", NAMESPACE])?;
        space
            .cluster()
            .run(&["delete", "tailnet,proxygroup", &own.name, "--wait=false"])?;
        delete_unseen(space, "tailnetservice", "svc")?;
        delete_unseen(space, "ingress", &name)
    })?;
    nothing_left(space, &uid, &name)?;
    own.gone(space)?;
    let left = services::Api::open()?.definition(&format!("svc:{service}"))?;
    ensure!(left.is_none(), "the definition stays: {left:?}");
    Ok(())
}

/// Asks for the deletion of something that a finalizer holds while nobody is there to let it go.
fn delete_unseen(space: &Space<'_>, kind: &str, name: &str) -> Result<()> {
    let arguments = [
        "delete",
        kind,
        name,
        "--namespace",
        &space.namespace,
        "--wait=false",
    ];
    space.cluster().run(&arguments).map(drop)
}

/// A TailnetIngress or TailnetService, served by that group.
pub(crate) fn in_group(manifest: &str, group: &str) -> String {
    manifest.replace("spec:\n", &format!("spec:\n  proxyGroupName: {group}\n"))
}

fn without_operator(space: &Space<'_>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        space.cluster().run(&[
            "scale",
            "deployment",
            "postern-operator",
            &replicas,
            "--namespace",
            NAMESPACE,
        ])
    };
    scale("0")?;
    let down = || {
        let pods = space
            .cluster()
            .list("pod", NAMESPACE, "app.kubernetes.io/component=operator")?;
        ensure!(pods.is_empty(), "{} pods", pods.len());
        Ok(())
    };
    let result = wait::until("the operator to end", Duration::from_secs(30), down).and_then(|()| work());
    scale("2")?;
    result
}

/// A Tailnet, its Secret and a ProxyGroup of one test, all of one name.
#[derive(Debug)]
pub(crate) struct OwnGroup {
    pub(crate) name: String,
}

impl OwnGroup {
    pub(crate) fn create(space: &Space<'_>, control_url: &str) -> Result<Self> {
        Self::edited(space, control_url, |manifest| manifest)
    }

    /// The same with a reusable auth key instead of an OAuth client.
    pub(crate) fn with_auth_key(space: &Space<'_>, control_url: &str, key: &str) -> Result<Self> {
        let (client, secret) = tailnet::OAUTH_CLIENT;
        let oauth = format!("{{ client_id: \"{client}\", client_secret: \"{secret}\" }}");
        Self::edited(space, control_url, |manifest| {
            manifest
                .replace(&oauth, &format!("{{ authkey: \"{key}\" }}"))
                .replace("oauthClient:", "authKey:")
        })
    }

    fn edited(space: &Space<'_>, control_url: &str, edit: impl FnOnce(String) -> String) -> Result<Self> {
        // Names of a ProxyGroup have at most 40 characters.
        let name = format!(
            "g-{}",
            space
                .namespace
                .get(..space.namespace.len().min(34))
                .unwrap_or_default()
        );
        let tailnet = postern_e2e::product::tailnet_manifest(&space.env.lab)?
            .replace("tailnet-oauth", &name)
            .replace(
                "metadata: { name: default }",
                &format!("metadata: {{ name: {name} }}"),
            )
            .replace(
                &format!("loginServer: {}", tailnet::control_url()),
                &format!("loginServer: {control_url}"),
            );
        let group = format!(
            "---\napiVersion: postern.dev/v1alpha1\nkind: ProxyGroup\nmetadata: {{ name: {name} }}\nspec: {{ tailnetRef: {{ name: {name} }} }}\n"
        );
        space.cluster().apply(&(edit(tailnet) + &group))?;
        Ok(Self { name })
    }

    /// Waits until the group and the Tailnet have gone.
    fn gone(&self, space: &Space<'_>) -> Result<()> {
        for kind in ["proxygroup", "tailnet"] {
            wait::until(&format!("the {kind} to go"), GONE, || {
                match space.cluster().get(kind, NAMESPACE, &self.name)? {
                    None => Ok(()),
                    Some(object) => bail!(
                        "it has {} and {}",
                        object["metadata"]["finalizers"],
                        object["status"]
                    ),
                }
            })?;
        }
        Ok(())
    }

    /// The shortest Ingress of the app on this group.
    pub(crate) fn ingress(&self, space: &Space<'_>, name: &str) -> String {
        app::ingress(&space.namespace, name, "app").replace(
            "metadata: {",
            &format!(
                "metadata: {{ annotations: {{ postern.dev/proxy-group: {} }},",
                self.name
            ),
        )
    }

    /// Takes it away; what uses it must be gone or go with the test's namespace.
    pub(crate) fn delete(&self, space: &Space<'_>) -> Result<()> {
        space
            .cluster()
            .run(&["delete", "proxygroup,tailnet", &self.name, "--wait=false"])?;
        space
            .cluster()
            .run(&["delete", "secret", &self.name, "--namespace", NAMESPACE])
            .map(drop)
    }
}

fn uid(space: &Space<'_>, ingress: &str) -> Result<String> {
    let object = space
        .cluster()
        .get("ingress", &space.namespace, ingress)?
        .context("there is no such Ingress")?;
    object["metadata"]["uid"]
        .as_str()
        .map(str::to_owned)
        .context("it has no uid")
}

/// What the operator made for an object, by its label; and whatever bears the device's name.
fn made_for(space: &Space<'_>, uid: &str, hostname: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for kind in [
        "secret",
        "configmap",
        "role",
        "rolebinding",
        "lease",
        "service",
        "serviceaccount",
    ] {
        let said = space
            .cluster()
            .run(&["get", kind, "--namespace", NAMESPACE, "--output", "json"])?;
        let list: Value = serde_json::from_str(&said)?;
        for item in list["items"].as_array().into_iter().flatten() {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            let label = &item["metadata"]["labels"]["postern.dev/owner-uid"];
            // Config and rights of the group name the devices that they are for.
            let named = item["rules"].to_string() + &item["data"].to_string();
            if label == uid || name.contains(hostname) || kind != "secret" && named.contains(hostname) {
                found.push(format!("{kind} {name}"));
            }
        }
    }
    Ok(found)
}

fn nothing_left(space: &Space<'_>, uid: &str, hostname: &str) -> Result<()> {
    wait::until("nothing of it to be left", GONE, || {
        ensure!(
            Control.device(hostname)?.is_none(),
            "the device is still on the control server"
        );
        let left = made_for(space, uid, hostname)?;
        ensure!(left.is_empty(), "there are {left:?}");
        Ok(())
    })
}
