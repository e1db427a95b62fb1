//! Whether this machine can hold the lab, and what it lacks. Nothing is changed before all of it is known.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::geteuid;

use crate::command;
use crate::lab::Lab;
use crate::step::Steps;

/// Go's modules of the lab name this release or a newer one.
const GO: (u32, u32) = (1, 26);

/// Free space below the cache: binaries 1 GiB, Go's build and module caches 6 GiB, cargo's target 6 GiB.
const DISK_GIB: u64 = 14;

/// What a program comes from in Debian.
const PACKAGES: &[(&str, &str)] = &[
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("ps", "procps"),
    ("openssl", "openssl"),
    ("bc", "bc"),
    ("curl", "curl"),
    ("pebble", "pebble"),
    ("nginx", "nginx"),
    ("cc", "gcc"),
    ("/usr/include/stdlib.h", "libc6-dev"),
    ("musl-gcc", "musl-tools"),
];

/// The same for what only tests need: it is large.
const BROWSER: &[(&str, &str)] = &[("/usr/bin/chromium", "chromium")];

/// Fails with everything that is missing and what to do about it.
pub fn check(lab: &Lab) -> Result<()> {
    let wrong = [
        root(),
        namespaces(),
        cgroups(),
        go(),
        disk(lab),
        packages_or_apt(),
    ];
    let wrong: Vec<String> = wrong
        .into_iter()
        .flatten()
        .map(|line| format!("  - {line}"))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "this machine can't hold the lab yet; nothing was changed\n{}",
        wrong.join("\n")
    )
}

/// Installs the Debian packages and the Rust target that are missing, and says which.
pub fn install(lab: &Lab, steps: &mut Steps) -> Result<()> {
    install_packages(lab, steps, PACKAGES)?;
    if !has_musl_target() {
        let estimate = Some(Duration::from_secs(20));
        steps.run("install Rust's musl target", estimate, || {
            let mut rustup = Command::new("rustup");
            rustup
                .args(["target", "add", "x86_64-unknown-linux-musl"])
                .current_dir(&lab.tree);
            command::output(&mut rustup).map(drop)
        })?;
    }
    Ok(())
}

/// Installs the browser of the tests, if it is missing.
pub fn install_browser(lab: &Lab, steps: &mut Steps) -> Result<()> {
    install_packages(lab, steps, BROWSER)
}

fn install_packages(lab: &Lab, steps: &mut Steps, wanted: &[(&str, &'static str)]) -> Result<()> {
    let packages = missing(wanted);
    if packages.is_empty() {
        return Ok(());
    }
    let log = lab.cache.join("log/apt.log");
    let estimate = Some(Duration::from_secs(30));
    steps.run(&format!("install {}", packages.join(" ")), estimate, || {
        command::logged(apt().arg("update"), &log)?;
        command::logged(
            apt()
                .args(["install", "--yes", "--no-install-recommends"])
                .args(&packages),
            &log,
        )
    })
}

fn root() -> Option<String> {
    (!geteuid().is_root()).then(|| {
        "root is needed (overlay mounts and cgroups can't be had in a user namespace): run it by sudo, or in a privileged container".to_owned()
    })
}

fn namespaces() -> Option<String> {
    if !geteuid().is_root() {
        return None; // said already
    }
    let tried =
        command::output(Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]));
    let error = tried.err()?;
    Some(format!(
        "network, mount and pid namespaces can't be made ({error:#}): in a container, start it privileged"
    ))
}

fn cgroups() -> Option<String> {
    let mounted = Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        || Path::new("/sys/fs/cgroup/memory").exists();
    let probe = Path::new("/sys/fs/cgroup").join(if Path::new("/sys/fs/cgroup/memory").exists() {
        "memory"
    } else {
        ""
    });
    let writable = rustix::fs::access(&probe, rustix::fs::Access::WRITE_OK).is_ok();
    (!mounted || !writable).then(|| {
        "/sys/fs/cgroup is not mounted or not writable: mount it, in a container start it privileged"
            .to_owned()
    })
}

fn go() -> Option<String> {
    let how = "install it from https://go.dev/dl and put it on the PATH";
    let Ok(version) = command::output(Command::new("go").args(["env", "GOVERSION"])) else {
        return Some(format!("Go {}.{} or newer is not installed: {how}", GO.0, GO.1));
    };
    (self::version(version.trim().trim_start_matches("go")) < GO).then(|| {
        format!(
            "{} is too old, {}.{} or newer is needed: {how}",
            version.trim(),
            GO.0,
            GO.1
        )
    })
}

/// The first two numbers of `1.26.6`; 0 where there is none.
pub fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn disk(lab: &Lab) -> Option<String> {
    let existing = lab.cache.ancestors().find(|path| path.exists())?;
    let free = rustix::fs::statvfs(existing).ok()?;
    let gib = (free.f_bavail * free.f_frsize) >> 30;
    let built = lab.cache.join("bin").exists();
    (!built && gib < DISK_GIB).then(|| {
        format!(
            "{} has {gib} GiB free, {DISK_GIB} are needed: make room, or set LAB_CACHE to a folder elsewhere",
            existing.display()
        )
    })
}

fn packages_or_apt() -> Option<String> {
    let missing = missing(PACKAGES);
    (!missing.is_empty() && find("apt-get").is_none()).then(|| {
        format!(
            "there is no apt-get to install {}: install what your distribution calls so, and start again",
            missing.join(" ")
        )
    })
}

fn missing(wanted: &[(&str, &'static str)]) -> Vec<&'static str> {
    wanted
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect()
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.exists())
}

fn has_musl_target() -> bool {
    let sysroot = command::output(Command::new("rustc").args(["--print", "sysroot"])).unwrap_or_default();
    Path::new(sysroot.trim())
        .join("lib/rustlib/x86_64-unknown-linux-musl")
        .exists()
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
    apt
}
