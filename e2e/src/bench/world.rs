//! The tailnet that a row is measured on: a fresh one each time, in a network namespace of its own.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;
use crate::lab::Lab;
use crate::tailnet::Helpers;

const NAMESPACE: &str = "postern-bench";
/// Of the control server: both ends of a path reach it.
const IP: &str = "10.99.0.1";

/// Where tailnets are made.
#[derive(Debug)]
pub(super) struct World {
    script: PathBuf,
    folder: PathBuf,
}

/// A control server with DERP and STUN, a certificate authority and the backend; gone when dropped.
#[derive(Debug)]
pub(super) struct Tailnet<'a> {
    world: &'a World,
    /// Whether clients are at the far end of a path.
    far: bool,
}

/// What lies between the client and everything else, the same in both directions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub(super) round_trip: Duration,
    /// Percentage of packets that are lost.
    pub(super) loss: f64,
    /// Percentage of packets that overtake those before them.
    pub(super) early: f64,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.round_trip.as_millis())?;
        match (self.loss, self.early) {
            (0.0, 0.0) => f.write_str(", clean"),
            (0.0, early) => write!(f, ", {early} % overtake"),
            (loss, _) => write!(f, ", {loss} % lost"),
        }
    }
}

impl World {
    pub(super) fn new(lab: &Lab, helpers: &Helpers) -> Result<Self> {
        let world = Self {
            script: lab.go_helpers().join("scripts/lab.sh"),
            folder: lab.cache.join("bench"),
        };
        let programs = world.folder.join("tailnet/bin");
        fs::create_dir_all(world.folder.join("tailnet"))?;
        if programs.is_symlink() {
            fs::remove_file(&programs)?;
        }
        symlink(helpers.program(""), &programs).context("cannot link the Go programs")?;
        Ok(world)
    }

    /// Starts one on which nobody is known.
    pub(super) fn tailnet(&self) -> Result<Tailnet<'_>> {
        command::output(self.script().arg("down"))?;
        for what in ["state", "run"] {
            let folder = self.folder.join("tailnet").join(what);
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
        }
        fs::create_dir_all(self.folder.join("tailnet/state"))?;
        let tailnet = Tailnet {
            world: self,
            far: false,
        };
        command::logged(self.script().arg("up"), &self.folder.join("log"))?;
        Ok(tailnet)
    }

    /// The same, but for clients, which are at the far end of a path.
    pub(super) fn tailnet_behind(&self, path: Path) -> Result<Tailnet<'_>> {
        let mut tailnet = self.tailnet()?;
        tailnet.far = true;
        let mut script = self.script();
        script
            .arg("path")
            .arg(format!("-delay={}us", path.round_trip.as_micros() / 2))
            .arg(format!("-loss={}", path.loss))
            .arg(format!("-early={}", path.early));
        command::logged(&mut script, &self.folder.join("log"))?;
        Ok(tailnet)
    }

    fn script(&self) -> Command {
        let mut script = Command::new(&self.script);
        script
            .env("POSTERN_LAB", &self.folder)
            .env("POSTERN_LAB_IP", IP)
            .env("POSTERN_LAB_NETNS", NAMESPACE);
        script
    }
}

impl Tailnet<'_> {
    /// A command inside; its process is the program itself.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.world.script();
        command.arg("exec").arg(program);
        command
    }

    /// The same for a client, which is one of the modes of the Go program `peer`.
    pub(super) fn client(&self, peer: &std::path::Path, mode: &str) -> Command {
        let mut command = self.world.script();
        command.arg(if self.far { "far" } else { "exec" }).arg(peer);
        command.args([mode, "-control", &control_url(), "-hostname", "client"]);
        command.args(["-authkey", "tskey-auth-bob", "-dir"]);
        command.arg(self.state("client"));
        command
    }

    /// A folder that goes with the next tailnet.
    pub(super) fn state(&self, name: &str) -> PathBuf {
        self.world.folder.join("tailnet/state").join(name)
    }
}

impl Drop for Tailnet<'_> {
    fn drop(&mut self) {
        let _ = self.world.script().arg("down").output();
    }
}

/// Where nodes log in.
pub(super) fn control_url() -> String {
    format!("http://{IP}:9911")
}

/// What the control server knows of all nodes.
pub(super) fn nodes_url() -> String {
    format!("http://{IP}:9912/admin/nodes")
}

/// The machine's load average over a minute.
pub(super) fn load() -> Result<String> {
    let all = fs::read_to_string("/proc/loadavg")?;
    Ok(all.split_whitespace().next().unwrap_or("?").to_owned())
}
