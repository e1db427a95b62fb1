//! Without a configuration: a target, named at a terminal.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::{command, wait};
use rustix::process::Signal;

use super::SERVE;
use super::fixture::alone;
use crate::first_light::{Running, tempdir};
use crate::funnel::Edge;
use crate::space::{FIRST_ANSWER, Space, url};

/// `serve TARGET` until Ctrl-C, and the questions that one asks beside it; then `funnel TARGET`, for the internet.
pub(super) fn foreground(space: &Space<'_>) -> Result<()> {
    let name = space.name("fore");
    let folder = tempdir(&name);
    fs::create_dir_all(&folder)?;
    let (socket, said) = (folder.join("tailscaled.sock"), folder.join("said"));
    let url = format!("{}/hello", url(&name));
    let start = |subcommand: &str| -> Result<Running> {
        let mut proxy = alone(space);
        proxy.args([
            subcommand,
            "--set-path",
            "/hello",
            "--hostname",
            &name,
            "text:hello",
        ]);
        proxy
            .arg("--state-dir")
            .arg(folder.join("state"))
            .arg("--socket")
            .arg(&socket);
        let log = File::create(folder.join("log"))?;
        let running = Running::start(proxy.stdout(File::create(&said)?).stderr(log))?;
        wait::until("the URL", FIRST_ANSWER, || {
            let said = fs::read_to_string(&said)?;
            let warned = said.contains("everybody on the internet");
            ensure!(
                said.ends_with(&format!("{url}\nCtrl-C ends it.\n")) && warned == (subcommand == "funnel"),
                "it says {said:?}"
            );
            Ok(())
        })?;
        Ok(running)
    };
    let serving = start("serve")?;
    let body = Fetch::get("alice", &url).send()?.body;
    ensure!(body == "hello", "it says {body:.100}");

    let ask = |arguments: &[&str]| {
        let mut ask = alone(space);
        command::output(ask.env("TS_SOCKET", &socket).args(arguments))
    };
    let own = ask(&["ip", "-4"])?;
    let device = space.device(&name)?;
    ensure!(
        device["addresses"][0] == format!("{}/32", own.trim()),
        "its address is {own}, and to control {device}"
    );
    let alice = ask(&["ip", "-4", "alice-laptop"])?;
    let who = ask(&["whois", alice.trim()])?;
    ensure!(who.contains("alice@example.com"), "whois says {who}");
    let status = ask(&["status"])?;
    ensure!(
        status.contains(own.trim()) && status.contains("alice-laptop"),
        "the status is {status}"
    );
    let config = folder.join("serve.json");
    fs::write(&config, SERVE.replace("PORT", "3000"))?;
    let told = ask(&["check", &config.display().to_string()])?;
    ensure!(
        told.contains("https 443 its own domain/* -> http://127.0.0.1:3000"),
        "check says {told}"
    );
    serving.end(Signal::INT)?;

    let funnelling = start("funnel")?;
    let edge = Edge::start(space)?;
    wait::until("an answer through the edge", FIRST_ANSWER, || {
        let answer = edge.get(space, &name, "/hello", &[])?;
        ensure!(
            answer.status == 200 && answer.text.ends_with("hello"),
            "{}",
            answer.text
        );
        Ok(())
    })?;
    funnelling.end(Signal::INT)?;
    fs::remove_dir_all(folder).context("remove its folder")
}
