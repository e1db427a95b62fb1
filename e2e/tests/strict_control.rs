//! What an easy-going control server would hide.

use std::time::Duration;

use anyhow::{Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::control::Control;
use postern_e2e::{app, tailnet, wait};
use serde_json::json;

use crate::removal::OwnGroup;
use crate::runner::Test;
use crate::space::{Space, url};

pub(crate) const TESTS: &[Test] = &[
    Test::beside(
        "a_control_server_behind_tls_with_an_own_authority_is_used",
        own_authority,
    ),
    Test::beside(
        "a_name_that_control_gave_to_another_device_is_not_served",
        renamed,
    ),
    Test::alone("a_filter_that_denies_lets_nobody_in_until_it_allows", filter),
];

fn own_authority(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let own = OwnGroup::create(space, &tailnet::control_https_url())?;
    let name = space.name("tls");
    space.cluster().apply(&own.ingress(space, &name))?;
    let answered = space.answer(&url(&name));
    let gone = space.delete_ingress(&name);
    own.delete(space)?;
    gone?;
    answered.map(drop)
}

fn renamed(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    // A device of somebody else has the name already.
    let user = format!("carol-{}", space.name("squat"));
    Fetch::get(&user, "http://100.100.100.100/").try_send()?;
    let squatter = Control.device(&user)?;
    ensure!(squatter.is_some(), "the squatter did not register");
    space
        .cluster()
        .apply(&app::ingress(&space.namespace, &user, "app"))?;
    let message = space.event(&user, "NameTaken", Duration::from_secs(30))?;
    ensure!(message.contains(&user), "the Event does not name it: {message}");
    let second = Fetch {
        timeout_ms: Some(3000),
        ..Fetch::get("alice", url(&format!("{user}-1")))
    }
    .try_send()?;
    ensure!(
        second.status != 200,
        "it serves under the name that nobody asked for"
    );
    postern_e2e::control::http(
        "DELETE",
        &format!("http://{}/nodes/{user}", tailnet::CLIENTS),
        None,
    )
    .map(drop)
}

fn filter(space: &Space<'_>) -> Result<()> {
    let (_, url) = space.app()?;
    Fetch::get("bob", &url).send()?;
    let set = |rules: serde_json::Value| Control.call("PUT", "/admin/filter", Some(&rules));
    set(json!([]))?;
    let denied = wait::until("the filter to deny", Duration::from_secs(15), || {
        let fetched = Fetch {
            timeout_ms: Some(2000),
            ..Fetch::get("alice", &url)
        }
        .try_send()?;
        ensure!(fetched.status == 0, "status {}", fetched.status);
        Ok(())
    });
    let bob = space.device("bob-laptop").map(|bob| bob["addresses"][0].clone());
    let allowed = bob.and_then(|bob| {
        set(json!([{ "SrcIPs": [bob], "DstPorts": [{ "IP": "*", "Ports": { "First": 443, "Last": 443 } }], "IPProto": [6] }]))?;
        wait::until("the filter to allow bob", Duration::from_secs(15), || {
            let fetched = Fetch { timeout_ms: Some(2000), ..Fetch::get("bob", &url) }.send()?;
            ensure!(fetched.status == 200, "status {}", fetched.status);
            Ok(())
        })?;
        let alice = Fetch { timeout_ms: Some(2000), ..Fetch::get("alice", &url) }.try_send()?;
        ensure!(alice.status == 0, "alice got {}", alice.status);
        Ok(())
    });
    set(serde_json::Value::Null)?;
    denied?;
    allowed?;
    space.answer_within(&url, Duration::from_secs(15)).map(drop)
}
