//! Where the lab keeps what.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Address of the node inside the lab's network namespace; the control servers listen there, where pods reach them.
pub const NODE_IP: &str = "10.200.0.1";

/// The tailnet's MagicDNS suffix.
pub const DOMAIN: &str = "lab-tailnet.ts.net";

/// Names and folders of one lab. `LAB_NAME` and `LAB_CACHE` override the defaults, so that several can run at once.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Name of its cgroup, and of its folder below `run/`.
    pub name: String,
    /// The source tree.
    pub tree: PathBuf,
    /// Binaries that outlive a lab, by the hash of their pinned sources.
    pub cache: PathBuf,
    /// What lives as long as the lab does, and its logs.
    pub run: PathBuf,
}

impl Lab {
    /// The lab that the environment names.
    pub fn from_env() -> Result<Self> {
        let name = std::env::var("LAB_NAME").unwrap_or_else(|_| "postern-lab".to_owned());
        let cache = match std::env::var_os("LAB_CACHE") {
            Some(cache) => PathBuf::from(cache),
            None => match std::env::var_os("XDG_CACHE_HOME") {
                Some(base) => PathBuf::from(base),
                None => PathBuf::from(std::env::var_os("HOME").context("neither LAB_CACHE nor HOME is set")?)
                    .join(".cache"),
            }
            .join("postern-lab"),
        };
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the crate has no parent folder")?
            .to_owned();
        Ok(Self {
            run: cache.join("run").join(&name),
            name,
            tree,
            cache,
        })
    }

    /// Logs of every part; they stay after `down`.
    pub fn logs(&self) -> PathBuf {
        self.run.join("log")
    }

    /// One part's log.
    pub fn log(&self, part: &str) -> PathBuf {
        self.logs().join(format!("{part}.log"))
    }

    /// Image archives of this lab; another one may be of another tree.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images").join(&self.name)
    }

    /// Certificates and keys of the lab's own authorities.
    pub fn pki(&self) -> PathBuf {
        self.run.join("tailnet")
    }

    /// The cluster's script.
    pub fn script(&self) -> PathBuf {
        self.tree.join("e2e/lab/kubernetes/lab.sh")
    }

    /// The Go helpers' sources.
    pub fn go_helpers(&self) -> PathBuf {
        self.tree.join("e2e/lab/tailnet")
    }
}
