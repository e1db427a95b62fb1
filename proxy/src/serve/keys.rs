//! A name's keys: read when the configuration names other ones. What was good stays while the newer can't be had.

use std::sync::Arc;

use futures::future::BoxFuture;
use postern_proxy_config::{group::SecretRef, keys::Keys};

use super::{
    SecretError, Secrets,
    certificates::{Due, LAST_READ},
};
use crate::http::Gate;

/// See the module.
pub(super) struct LockKeys {
    gate: Arc<Gate>,
    /// What the gate has them from.
    have: Option<SecretRef>,
    wanted: Option<SecretRef>,
    work: Option<BoxFuture<'static, Done>>,
    due: Due,
    error: String,
}

type Done = (SecretRef, Result<Keys, SecretError>);

impl LockKeys {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            have: None,
            wanted: None,
            work: None,
            due: Due::now(),
            error: String::new(),
        }
    }

    /// Starts reading, if that is due.
    pub(super) fn pursue(&mut self, wanted: Option<&SecretRef>, secrets: &Arc<dyn Secrets>) {
        if self.wanted.as_ref() != wanted {
            self.wanted = wanted.cloned();
            self.due = Due::now();
            self.error.clear();
        }
        let Some(wanted) = wanted.filter(|wanted| self.have.as_ref() != Some(*wanted)) else {
            return;
        };
        // Another Secret's keys are another lock's.
        if self.have.as_ref().is_some_and(|have| have.name != wanted.name) {
            self.gate.keys.store(None);
            self.have = None;
        }
        if self.work.is_none() && self.due.has_come() {
            let (secrets, wanted) = (secrets.clone(), wanted.clone());
            self.work = Some(Box::pin(async move {
                let keys = secrets.keys(&wanted).await;
                (wanted, keys)
            }));
        }
    }

    /// Waits for the work or until it is due. Cancel safe: the work is kept.
    pub(super) async fn progress(&mut self) {
        let Some(work) = &mut self.work else {
            if self.wanted.is_some() && self.have != self.wanted {
                self.due.wait().await;
            } else {
                std::future::pending::<()>().await;
            }
            return;
        };
        let (secret, keys) = work.await;
        self.work = None;
        match keys {
            Ok(keys) => {
                tracing::info!(secret = secret.name, ?keys, "Keys read");
                self.gate.keys.store(Some(Arc::new(keys)));
                self.have = Some(secret);
                self.error.clear();
                self.due = Due::now();
            }
            Err(error) => {
                self.error = error.to_string();
                tracing::warn!(error = self.error, "Keys not usable");
                self.due.failed(LAST_READ, None);
            }
        }
    }

    /// Why there are no (new) ones; empty: all is well.
    pub(super) fn error(&self) -> &str {
        &self.error
    }
}
