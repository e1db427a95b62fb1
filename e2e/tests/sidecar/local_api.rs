//! What programs beside the proxy are told of the tailnet.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::{command, tailnet, wait};
use serde_json::{Value, json};

use super::fixture::Sidecar;
use crate::first_light::tempdir;
use crate::space::Space;

/// Go's own client asks us and a `tsnet` node of the same tailnet: what they say of others is the same, as soon
/// as both have heard the same news.
pub(super) fn same_as_go(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "local-api", 9984)?;
    sidecar.answer(space)?;
    let address = |device: &str| -> Result<String> {
        let device = space.device(device)?;
        let address = device["addresses"][0].as_str().context("no address")?;
        Ok(address.trim_end_matches("/32").to_owned())
    };
    let alice = format!("{}:1", address("alice-laptop")?);
    let own = address(&sidecar.name)?;
    let go_name = space.name("ask");
    let folder = tempdir(&go_name);
    let compared = wait::until("the same answers", Duration::from_secs(60), || {
        let mut ask = tailnet::peer(&space.env.lab, &space.env.helpers, "ask");
        ask.args(["-hostname", &go_name, "-authkey", "tskey-auth-tagged", "-dir"])
            .arg(&folder)
            .arg("-socket")
            .arg(sidecar.socket());
        let said = command::output(ask.args([&alice, &own, "192.0.2.1:1"]))?;
        let asked = said
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|event| event["event"] == "asked")
            .with_context(|| format!("the Go client said {said}"))?;
        same_answers(&asked["asked"], &asked["gos"], &[&alice, "192.0.2.1:1"], &own)
    })?;
    fs::remove_dir_all(folder).ok();
    ensure!(compared > 100, "only {compared} values were compared");
    space.note(format!("{compared} values compared"));
    Ok(())
}

/// How many values were compared. `others`: addresses that are neither node's own.
fn same_answers(ours: &Value, gos: &Value, others: &[&str], own: &str) -> Result<usize> {
    let mut compared = 0;
    let mut same = |what: &str, ours: &Value, gos: &Value| -> Result<()> {
        compared += 1;
        ensure!(ours == gos, "{what}:\n ours: {ours}\n Go's: {gos}");
        Ok(())
    };
    for addr in others {
        let (ours, gos) = (&ours["WhoIs"][addr], &gos["WhoIs"][addr]);
        same(addr, &without_values(ours), &without_values(gos))?;
    }
    same(
        "our user",
        &ours["WhoIs"][own]["UserProfile"],
        &gos["WhoIs"][own]["UserProfile"],
    )?;
    let (ours, gos) = (&ours["Status"], &gos["Status"]);
    for field in [
        "BackendState",
        "TUN",
        "HaveNodeKey",
        "AuthURL",
        "MagicDNSSuffix",
        "CurrentTailnet",
    ] {
        same(field, &ours[field], &gos[field])?;
    }
    let peers = gos["Peer"].as_object().context("Go knows no peers")?;
    for (key, theirs) in peers {
        // Not ourselves, nor who came in between.
        let Some(mine) = ours["Peer"].get(key) else {
            continue;
        };
        for (field, value) in theirs.as_object().into_iter().flatten() {
            if !OF_THE_PATH.contains(&field.as_str()) {
                same(&format!("{key} {field}"), &mine[field], value)?;
            }
        }
    }
    Ok(compared)
}

/// Of a node's capability without values Go repeats how control wrote it, `null` or `[]`. Tailscale's writes
/// `null`, and so do we. An address that nobody has gets a message instead.
fn without_values(who: &Value) -> Value {
    let mut who = who.clone();
    if let Some(caps) = who.pointer_mut("/Node/CapMap").and_then(Value::as_object_mut) {
        for values in caps.values_mut().filter(|values| values == &&json!([])) {
            *values = Value::Null;
        }
    }
    who
}

/// What each node knows of its own way to a peer, and what changes between two questions.
const OF_THE_PATH: &[&str] = &[
    "CurAddr",
    "Relay",
    "RxBytes",
    "TxBytes",
    "LastWrite",
    "LastHandshake",
    "LastSeen",
    "Online",
    "Active",
    "InMagicSock",
    "InEngine",
    "TaildropTarget",
];
