//! A process that puts many names on the tailnet.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::subject::{BACKEND, KEY, Kind, Programs, Subject};
use super::world::{Tailnet, control_url, nodes_url};
use crate::command;
use crate::wait;

/// One process with many names.
#[derive(Debug)]
pub(super) struct Many {
    process: Subject,
    log: PathBuf,
}

impl Many {
    /// Starts it; [`Kind::Serve`] knows no such thing.
    pub(super) fn start(kind: Kind, count: u32, tailnet: &Tailnet<'_>, programs: &Programs) -> Result<Self> {
        let state = tailnet.state("many");
        fs::create_dir_all(&state)?;
        let mut command = match kind {
            Kind::Tsnet => {
                let mut command = tailnet.command(&programs.peer);
                command
                    .args(["many", "-control", &control_url(), "-hostname", "m"])
                    .args(["-nodes", &count.to_string(), "-dir"])
                    .arg(&state);
                command
            }
            Kind::Serve => bail!("tailscaled holds one name"),
            Kind::Postern => {
                let config = tailnet.state("many.json");
                fs::write(&config, serde_json::to_vec(&many_names(count))?)?;
                let mut command = tailnet.command(&programs.postern);
                command.args(["run", "--config"]).arg(config);
                command.arg("--state-dir").arg(&state).env("TS_AUTHKEY", KEY);
                command
            }
        };
        let log = tailnet.state("many.log");
        let process = Subject::spawn(kind, String::new(), &mut command, &log)?;
        Ok(Self { process, log })
    }

    /// Waits until all names are online.
    pub(super) fn wait(&self, count: u32, tailnet: &Tailnet<'_>) -> Result<()> {
        wait::until(
            &format!("{count} names of {}", self.process.kind),
            Duration::from_secs(120),
            || {
                let mut curl = tailnet.command("curl");
                let said = command::output(curl.args(["-s", &nodes_url()]))?;
                let nodes: Vec<serde_json::Value> = serde_json::from_str(&said)?;
                let online = nodes.iter().filter(|node| node["online"] == true).count();
                ensure!(
                    online >= count as usize,
                    "{online} are online; see {}",
                    self.log.display()
                );
                Ok(())
            },
        )
    }

    /// Resident memory in MiB; Go's after a forced collection, since it keeps garbage as long as it likes.
    pub(super) fn rss(&self) -> Result<f64> {
        if self.process.kind == Kind::Tsnet {
            if let Some(pid) = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw) {
                kill_process(pid, Signal::USR1)?;
            }
            wait::until("the collection", Duration::from_secs(20), || {
                ensure!(fs::read_to_string(&self.log)?.contains("\"gc\""), "not yet");
                Ok(())
            })?;
        }
        self.process.rss()
    }
}

/// Our own configuration with so many names that answer a text on port 80.
fn many_names(count: u32) -> serde_json::Value {
    let name = |index: u32| {
        let hostname = format!("m-{index}");
        serde_json::json!({
            "owner": {"kind": "Bench", "namespace": "", "name": hostname, "uid": hostname},
            "generation": 1,
            "node": {"hostname": hostname, "state": {"name": hostname}},
            "listeners": [{"port": 80, "protocol": {"type": "http", "routes": [
                {"path": {"type": "prefix", "value": "/"}, "backend": {"type": "address", "address": BACKEND}}
            ]}}],
        })
    };
    let names: serde_json::Map<String, serde_json::Value> = (0..count)
        .map(|index| (format!("m-{index}"), name(index)))
        .collect();
    serde_json::json!({"format": 1, "tailnet": {"controlUrl": control_url()}, "names": names})
}
