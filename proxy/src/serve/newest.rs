//! What stands in a Secret: read when the configuration names another one, or another revision of it. What was good
//! stays while the newer can't be had.

use std::{fmt::Debug, sync::Arc};

use futures::future::BoxFuture;
use postern_proxy_config::group::SecretRef;

use super::{
    SecretError, Secrets,
    certificates::{Due, LAST_READ},
};

/// See the module.
pub(super) struct Newest<T> {
    read: Read<T>,
    /// Who is told; nothing when another Secret is to be read.
    tell: Tell<T>,
    /// What was read, and from where.
    have: Option<(SecretRef, Arc<T>)>,
    wanted: Option<SecretRef>,
    work: Option<BoxFuture<'static, (SecretRef, Result<T, SecretError>)>>,
    due: Due,
    error: String,
}

type Tell<T> = Box<dyn Fn(Option<&Arc<T>>) + Send>;

/// How it is read.
pub(super) type Read<T> = for<'a> fn(&'a dyn Secrets, &'a SecretRef) -> BoxFuture<'a, Result<T, SecretError>>;

impl<T: Debug + Send + 'static> Newest<T> {
    pub(super) fn new(read: Read<T>, tell: impl Fn(Option<&Arc<T>>) + Send + 'static) -> Self {
        Self {
            read,
            tell: Box::new(tell),
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
        let Some(wanted) = wanted.filter(|wanted| self.source() != Some(*wanted)) else {
            return;
        };
        // What another Secret holds is another's.
        if self.source().is_some_and(|source| source.name != wanted.name) {
            (self.tell)(None);
            self.have = None;
        }
        if self.work.is_none() && self.due.has_come() {
            let (read, secrets, wanted) = (self.read, secrets.clone(), wanted.clone());
            self.work = Some(Box::pin(async move {
                let read = read(&*secrets, &wanted).await;
                (wanted, read)
            }));
        }
    }

    /// Waits for the work or until it is due. Cancel safe: the work is kept.
    pub(super) async fn progress(&mut self) {
        let Some(work) = &mut self.work else {
            if self.wanted.is_some() && self.source() != self.wanted.as_ref() {
                self.due.wait().await;
            } else {
                std::future::pending::<()>().await;
            }
            return;
        };
        let (secret, read) = work.await;
        self.work = None;
        match read {
            Ok(value) => {
                tracing::info!(secret = secret.name, ?value, "Secret read");
                let value = Arc::new(value);
                (self.tell)(Some(&value));
                self.have = Some((secret, value));
                self.error.clear();
                self.due = Due::now();
            }
            Err(error) => {
                self.error = error.to_string();
                tracing::warn!(error = self.error, "Secret not usable");
                self.due.failed(LAST_READ, None);
            }
        }
    }

    /// What was read last.
    pub(super) fn value(&self) -> Option<&T> {
        self.have.as_ref().map(|(_, value)| &**value)
    }

    /// Why there is no (newer) one; empty: all is well.
    pub(super) fn error(&self) -> &str {
        &self.error
    }

    fn source(&self) -> Option<&SecretRef> {
        self.have.as_ref().map(|(source, _)| source)
    }
}
