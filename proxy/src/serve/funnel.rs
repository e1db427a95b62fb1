//! A port on the internet, as soon as the tailnet's policy allows it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::listen::Port;

/// A refusal may be a matter of the policy, which somebody changes.
const RETRY: Duration = Duration::from_secs(10);

/// Why ports can't be on Funnel. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Refusals(Arc<watch::Sender<BTreeMap<u16, String>>>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Refusals {
    /// All of them, for people; empty when there is none.
    pub(super) fn text(&self) -> String {
        let refusals = self.0.borrow();
        let lines: Vec<&str> = refusals.values().map(String::as_str).collect();
        lines.join("; ")
    }

    /// The news of them.
    pub(super) fn changes(&self) -> watch::Receiver<BTreeMap<u16, String>> {
        self.0.subscribe()
    }

    fn set(&self, port: u16, why: Option<String>) {
        self.0.send_if_modified(|refusals| match &why {
            Some(why) => refusals.insert(port, why.clone()).as_ref() != Some(why),
            None => refusals.remove(&port).is_some(),
        });
    }
}

/// Accepts from the internet until the port's draining starts.
pub(super) async fn serve(serving: Port, port: u16, refusals: Refusals) {
    let start = serving.drain.start.clone();
    let listener = start.run_until_cancelled(async {
        loop {
            match serving.node.listen_funnel(port).await {
                Ok(listener) => return listener,
                Err(error) => refusals.set(port, Some(error.to_string())),
            }
            tokio::time::sleep(RETRY).await;
        }
    });
    let listener = listener.await;
    refusals.set(port, None);
    if let Some(listener) = listener {
        tracing::info!(name = &*serving.name, port, "Open to the internet");
        serving.serve(listener).await;
    }
}
