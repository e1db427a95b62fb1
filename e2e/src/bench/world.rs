//! The tailnet that a row is measured on: a fresh one each time, in a network namespace of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::lab::Lab;
use crate::tailnet::Helpers;

const NAMESPACE: &str = "postern-bench";

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
        let tailnet = Tailnet { world: self };
        command::logged(self.script().arg("up"), &self.folder.join("log"))?;
        Ok(tailnet)
    }

    fn script(&self) -> Command {
        let mut script = Command::new(&self.script);
        script
            .env("POSTERN_LAB", &self.folder)
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

/// The machine's load average over a minute.
pub(super) fn load() -> Result<String> {
    let all = fs::read_to_string("/proc/loadavg")?;
    Ok(all.split_whitespace().next().unwrap_or("?").to_owned())
}
