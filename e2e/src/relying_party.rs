//! What nobody here wrote and only tests need: npm's `openid-client`, the SDK of MCP, and Chromium.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::lab::Lab;
use crate::machine;
use crate::product;
use crate::step::Steps;
use crate::tailnet::{self, CLIENTS};

/// What npm's packages ask for.
const NODE: (u32, u32) = (20, 18);

/// Scripts over npm's packages, which they find beside them.
#[derive(Debug, Clone)]
pub struct RelyingParty {
    folder: PathBuf,
}

impl RelyingParty {
    /// Installs the browser, and the packages where the cache has not got these scripts yet; before the lab's
    /// network namespace is entered, from where npm's registry can't be reached.
    pub fn install(lab: &Lab, steps: &mut Steps) -> Result<Self> {
        machine::install_browser(lab, steps)?;
        let party = Self::of(lab)?;
        if party.folder.exists() {
            return Ok(party);
        }
        node()?;
        steps.run(
            "install relying parties from npm",
            Some(Duration::from_secs(10)),
            || {
                let fresh = party.folder.with_extension("new");
                fs::create_dir_all(&fresh)?;
                for file in sources(lab)? {
                    let name = file.file_name().context("a file has no name")?;
                    fs::copy(&file, fresh.join(name))?;
                }
                let mut npm = Command::new("npm");
                npm.current_dir(&fresh).args([
                    "ci",
                    "--ignore-scripts",
                    "--no-audit",
                    "--no-fund",
                    "--prefer-offline",
                ]);
                command::logged(&mut npm, &lab.cache.join("log/npm.log"))?;
                fs::rename(&fresh, &party.folder).context("cannot move the packages into the cache")
            },
        )?;
        Ok(party)
    }

    /// Where they lie for these scripts.
    pub fn of(lab: &Lab) -> Result<Self> {
        let hash = tailnet::hash(&sources(lab)?)?;
        Ok(Self {
            folder: lab
                .cache
                .join("bin")
                .join(format!("relying-party-{}", &hash[..16])),
        })
    }

    /// Puts an image into the cluster that runs this script with the packages.
    pub fn stand_in(&self, lab: &Lab, reference: &str, script: &Path) -> Result<()> {
        let node = command::output(Command::new("node").args(["--print", "process.execPath"]))?;
        let node = PathBuf::from(node.trim());
        let libraries = command::output(Command::new("ldd").arg(&node))?;
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        let mut files: Vec<_> = libraries
            .map(|path| (PathBuf::from(path), path.to_owned()))
            .collect();
        let entry = "/app/server.mjs";
        files.push((node, "/usr/local/bin/node".into()));
        files.push((script.to_owned(), entry.into()));
        files.push((self.folder.join("node_modules"), "/app/node_modules".into()));
        product::stand_in_of(lab, reference, entry, &files)
    }

    /// A script's run against an issuer, over the lab's Go clients.
    pub fn script(&self, lab: &Lab, name: &str, issuer: &str) -> Result<Command> {
        if !self.folder.exists() {
            bail!(
                "{name} has no packages: `cargo lab test` installs them, and says what it lacks (Node.js, npm)"
            );
        }
        let mut script = Command::new("timeout");
        script.current_dir(&self.folder).args(["120", "node", name]);
        script
            .env("ISSUER", issuer)
            .env("CLIENTS", CLIENTS)
            .env("ISSUING_ROOT", tailnet::issuing_root(lab));
        Ok(script)
    }
}

/// The browser, as Debian has it.
pub fn chromium() -> &'static Path {
    Path::new("/usr/bin/chromium")
}

fn sources(lab: &Lab) -> Result<Vec<PathBuf>> {
    let folder = lab.tree.join("e2e/lab/relying-party");
    let entries = fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.is_file());
    files.sort();
    Ok(files)
}

fn node() -> Result<()> {
    let how = "install it from https://nodejs.org and put node and npm on the PATH";
    let Ok(version) = command::output(Command::new("node").arg("--version")) else {
        bail!("Node.js {}.{} or newer is not installed: {how}", NODE.0, NODE.1);
    };
    let numbers = version.trim().trim_start_matches('v');
    if machine::version(numbers) < NODE {
        bail!(
            "Node.js {numbers} is too old, {}.{} or newer is needed: {how}",
            NODE.0,
            NODE.1
        );
    }
    Ok(())
}
