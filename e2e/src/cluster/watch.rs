//! One object as it changes: a look at it costs kubectl a tenth of a second of processor time, a watch nothing.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// States that wait to be read; kubectl waits when there are more.
const QUEUE: usize = 16;

/// What `--output-watch-events` prints.
#[derive(Debug, Deserialize)]
struct Event {
    r#type: String,
    object: Value,
}

/// A kubectl that watches; ended when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    kubectl: Child,
    events: Receiver<Event>,
}

impl Watch {
    /// `kubectl` is the command without a verb.
    pub(super) fn start(mut kubectl: Command, kind: &str, namespace: &str, name: &str) -> Result<Self> {
        kubectl
            .args([
                "get",
                kind,
                "--watch",
                "--output-watch-events",
                "--output",
                "json",
            ])
            .args(["--namespace", namespace, "--field-selector"])
            .arg(format!("metadata.name={name}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = kubectl.spawn().context("cannot start kubectl")?;
        let said = child.stdout.take().context("no standard output")?;
        let (to, events) = sync_channel(QUEUE);
        thread::spawn(move || {
            let events = serde_json::Deserializer::from_reader(said).into_iter::<Event>();
            for event in events.map_while(Result::ok) {
                if to.send(event).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            kubectl: child,
            events,
        })
    }

    /// The object's next state, its present one first; `None` where it is gone.
    ///
    /// # Errors
    /// None by `until`, or kubectl has ended, as it does when the API server goes: what it said.
    pub(super) fn next(&mut self, until: Instant) -> Result<Option<Value>> {
        let left = until.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(event) if event.r#type == "DELETED" => Ok(None),
            Ok(event) => Ok(Some(event.object)),
            Err(RecvTimeoutError::Timeout) => bail!("nothing came"),
            Err(RecvTimeoutError::Disconnected) => {
                let mut said = String::new();
                if let Some(mut errors) = self.kubectl.stderr.take() {
                    errors.read_to_string(&mut said)?;
                }
                bail!("kubectl ended: {}", said.trim())
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
