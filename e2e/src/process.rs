//! Programs that outlive `lab up`: recorded with their start time, ended by pid, never by name.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::wait;

/// A recorded program. The start time tells it from a later process with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub name: String,
    pub pid: i32,
    start: u64,
}

/// Starts a program in the background and records it; its log is `log/NAME.log`.
pub fn start(lab: &Lab, name: &str, command: &mut Command) -> Result<Process> {
    let log = lab.log(name);
    fs::create_dir_all(lab.logs())?;
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0) // a Ctrl-C at the terminal is for `lab`, not for what it leaves running
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let pid = i32::try_from(child.id())?;
    let process = Process {
        name: name.to_owned(),
        pid,
        start: start_time(pid).unwrap_or_default(),
    };
    fs::create_dir_all(folder(lab))?;
    fs::write(record(lab, name), serde_json::to_vec(&process)?)?;
    Ok(process)
}

/// All recorded programs, running or not.
pub fn recorded(lab: &Lab) -> Vec<Process> {
    let Ok(entries) = fs::read_dir(folder(lab)) else {
        return Vec::new();
    };
    let mut all: Vec<Process> = entries
        .flatten()
        .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok())
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The recorded program of that name, if it runs.
pub fn running(lab: &Lab, name: &str) -> Option<Process> {
    recorded(lab)
        .into_iter()
        .find(|process| process.name == name && process.runs())
}

/// Ends it: SIGTERM, and SIGKILL where that has no effect within three seconds.
pub fn end(lab: &Lab, process: &Process) -> Result<()> {
    for signal in [Signal::TERM, Signal::KILL] {
        if !process.runs() {
            break;
        }
        if let Some(pid) = Pid::from_raw(process.pid) {
            let _ = kill_process(pid, signal); // it may have ended in between
        }
        let gone = || {
            if process.runs() {
                anyhow::bail!("pid {} still runs", process.pid)
            } else {
                Ok(())
            }
        };
        if let Err(error) = wait::until(&format!("{} to end", process.name), Duration::from_secs(3), gone)
            && signal == Signal::KILL
        {
            return Err(error);
        }
    }
    let _ = fs::remove_file(record(lab, &process.name));
    Ok(())
}

impl Process {
    /// Whether it is the same program and not a zombie.
    pub fn runs(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Whether it was started from that file.
    pub fn is_program(&self, path: &Path) -> bool {
        fs::read_link(format!("/proc/{}/exe", self.pid)).is_ok_and(|exe| exe == path)
    }
}

/// Field 22 of `/proc/PID/stat`: clock ticks after boot. None for a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn folder(lab: &Lab) -> PathBuf {
    lab.run.join("processes")
}

fn record(lab: &Lab, name: &str) -> PathBuf {
    folder(lab).join(format!("{name}.json"))
}
