//! A port on the internet, as soon as the tailnet's policy allows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::listen::Port;

/// A refusal may be a matter of the policy, which somebody changes.
const RETRY: Duration = Duration::from_secs(10);

/// Which ports are open to the internet, and why others aren't. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Doors(Arc<watch::Sender<BTreeMap<u16, Door>>>);

/// A port: open, or why not.
pub(super) type Door = Result<(), String>;

impl Default for Doors {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Doors {
    /// All refusals, for people; empty when there is none.
    pub(super) fn refusals(&self) -> String {
        let doors = self.0.borrow();
        let lines: Vec<&str> = (doors.values())
            .filter_map(|door| door.as_ref().err().map(String::as_str))
            .collect();
        lines.join("; ")
    }

    /// The ports that are open.
    pub(super) fn open(&self) -> BTreeSet<u16> {
        let doors = self.0.borrow();
        let open = doors.iter().filter(|(_, door)| door.is_ok());
        open.map(|(port, _)| *port).collect()
    }

    /// The news of them.
    pub(super) fn changes(&self) -> watch::Receiver<BTreeMap<u16, Door>> {
        self.0.subscribe()
    }

    /// A port is not to be open any more; its draining has started.
    pub(super) fn forget(&self, port: u16) {
        self.0.send_if_modified(|doors| doors.remove(&port).is_some());
    }

    /// Unless draining has started, after which [`Doors::forget`] has the last word.
    fn set(&self, port: u16, door: Door, start: &CancellationToken) {
        self.0.send_if_modified(|doors| {
            !start.is_cancelled() && doors.insert(port, door.clone()).as_ref() != Some(&door)
        });
    }
}

/// Accepts from the internet until the port's draining starts.
pub(super) async fn serve(serving: Port, port: u16, doors: Doors) {
    let start = serving.drain.start.clone();
    let listener = start.run_until_cancelled(async {
        loop {
            match serving.node.listen_funnel(port).await {
                Ok(listener) => return listener,
                Err(error) => doors.set(port, Err(error.to_string()), &start),
            }
            tokio::time::sleep(RETRY).await;
        }
    });
    if let Some(listener) = listener.await {
        tracing::info!(name = &*serving.name, port, "Open to the internet");
        doors.set(port, Ok(()), &start);
        serving.serve(listener).await;
    }
}
