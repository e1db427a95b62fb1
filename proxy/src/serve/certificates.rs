//! A name's certificates: the user's own from Secrets, and the one that the node gets from the tailnet.
//! What was good stays published while something newer can't be had.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use postern_node::{Error, cert::Certificate};
use postern_proxy_config::group::{OwnCertificate, SecretRef};
use tokio::time::Instant;

use super::{SecretError, Secrets, secrets::PemPair, standing::Issued};
use crate::{
    certs::{Resolver, Table, Usable},
    tailnet::Node,
};

/// See the module.
pub(super) struct Certificates {
    resolver: Arc<Resolver>,
    own: BTreeMap<String, Own>,
    issued: Option<(String, Usable)>,
    /// Why there is no (new) certificate; empty: all is well.
    pub(super) error: String,
    own_errors: BTreeMap<String, String>,
    work: Option<BoxFuture<'static, Done>>,
    own_due: Due,
    issued_due: Due,
    wake: Instant,
}

/// When something is tried (again).
pub(super) struct Due {
    at: Instant,
    failures: u32,
}

impl Due {
    pub(super) fn now() -> Self {
        Self::after(Duration::ZERO)
    }

    fn after(wait: Duration) -> Self {
        Self {
            at: Instant::now() + wait,
            failures: 0,
        }
    }

    pub(super) fn has_come(&self) -> bool {
        Instant::now() >= self.at
    }

    pub(super) async fn wait(&self) {
        tokio::time::sleep_until(self.at).await;
    }

    /// Backs off, at least as long as the other side asks.
    pub(super) fn failed(&mut self, last: Duration, asked: Option<Duration>) {
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(last)
            .max(asked.unwrap_or_default());
        self.at = Instant::now() + wait;
        self.failures += 1;
    }
}

struct Own {
    revision: String,
    usable: Usable,
}

enum Done {
    Own(SecretRef, Result<PemPair, SecretError>),
    Issued(String, Result<Arc<Certificate>, Error>),
    Read(String, SecretRef, Result<PemPair, SecretError>),
}

/// What is to be had.
pub(super) struct Wanted<'a> {
    pub(super) own: &'a [OwnCertificate],
    /// The domain to have one issued for, and whence it comes.
    pub(super) issued: Option<(&'a str, Source<'a>)>,
}

/// Whence an issued certificate comes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// The node gets it.
    Node {
        /// Control offers it.
        offered: bool,
    },
    /// Another replica gets it and puts it here.
    Secret(&'a SecretRef),
}

/// The node answers from its store and renews by itself; this only picks the new one up.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(600);
/// Another replica may be done at any moment.
pub(super) const LAST_READ: Duration = Duration::from_secs(10);

impl Certificates {
    pub(super) fn new(resolver: Arc<Resolver>) -> Self {
        Self {
            resolver,
            own: BTreeMap::new(),
            issued: None,
            error: String::new(),
            own_errors: BTreeMap::new(),
            work: None,
            own_due: Due::now(),
            issued_due: Due::now(),
            wake: Instant::now(),
        }
    }

    /// Hosts of the user's own certificates.
    pub(super) fn own_hosts(&self, wanted: &[OwnCertificate]) -> Vec<String> {
        let mut table = Table::default();
        for (certificate, own) in wanted
            .iter()
            .filter_map(|c| Some((c, self.own.get(&c.secret.name)?)))
        {
            table.add(&certificate.hosts, &own.usable);
        }
        table.hosts().map(str::to_owned).collect()
    }

    /// Where the certificate for `domain` stands, if one is `needed`.
    pub(super) fn standing(&self, needed: bool, domain: &str) -> Issued {
        match &self.issued {
            _ if !needed => Issued::NotNeeded,
            Some((of, _)) if of == domain => Issued::Ready,
            None if self.own.is_empty() => Issued::Missing,
            _ => Issued::NotNeeded,
        }
    }

    /// The earliest end of a published certificate.
    pub(super) fn not_after(&self) -> Option<Timestamp> {
        self.own
            .values()
            .map(|o| o.usable.not_after)
            .chain(self.issued.iter().map(|(_, u)| u.not_after))
            .min()
    }

    /// Starts whatever is due next: own certificates whose revision has changed, then the issued one.
    pub(super) fn pursue(&mut self, wanted: &Wanted<'_>, secrets: &Arc<dyn Secrets>, node: &Arc<dyn Node>) {
        let before = self.own.len();
        let is_wanted = |name: &String| wanted.own.iter().any(|w| w.secret.name == *name);
        self.own.retain(|name, _| is_wanted(name));
        self.own_errors.retain(|name, _| is_wanted(name));
        if self.own.len() != before {
            self.publish(wanted.own);
        }
        if self.work.is_some() {
            return;
        }
        let now = Instant::now();
        self.wake = now + LOOK_AGAIN;
        let stale: Vec<&SecretRef> = wanted
            .own
            .iter()
            .map(|w| &w.secret)
            .filter(|s| self.own.get(&s.name).is_none_or(|o| o.revision != s.revision))
            .collect();
        if !stale.is_empty() {
            if now >= self.own_due.at {
                // Each in its turn: one that can't be had must not keep others back.
                let secret = stale[self.own_due.failures as usize % stale.len()].clone();
                let secrets = secrets.clone();
                self.work = Some(Box::pin(async move {
                    let pair = secrets.certificate(&secret).await;
                    Done::Own(secret, pair)
                }));
                return;
            }
            self.wake = self.wake.min(self.own_due.at);
        }
        match wanted.issued {
            None => self.error.clear(),
            Some((domain, Source::Node { offered: false })) => {
                self.error = format!(
                    "the tailnet offers no certificate for {domain}: enable HTTPS certificates there, or bring your own"
                );
            }
            Some(_) if now < self.issued_due.at => self.wake = self.wake.min(self.issued_due.at),
            Some((domain, Source::Node { offered: true })) => {
                let (node, domain) = (node.clone(), domain.to_owned());
                self.work = Some(Box::pin(async move {
                    let certificate = node.certificate(&domain).await;
                    Done::Issued(domain, certificate)
                }));
            }
            Some((domain, Source::Secret(secret))) => {
                let (secrets, secret, domain) = (secrets.clone(), secret.clone(), domain.to_owned());
                self.work = Some(Box::pin(async move {
                    let pair = secrets.certificate(&secret).await;
                    Done::Read(domain, secret, pair)
                }));
            }
        }
    }

    /// Something has changed that may make more certificates possible.
    pub(super) fn look_again(&mut self) {
        self.own_due = Due::now();
        self.issued_due = Due::now();
        self.wake = Instant::now();
    }

    /// Waits for the work or until more is due. Cancel safe: the work is kept.
    pub(super) async fn progress(&mut self, wanted: &[OwnCertificate]) {
        let Some(work) = &mut self.work else {
            tokio::time::sleep_until(self.wake).await;
            return;
        };
        let done = work.await;
        self.work = None;
        let now = Timestamp::now();
        match done {
            Done::Own(secret, pair) => {
                let usable = pair.map_err(|e| e.to_string()).and_then(|pair| {
                    Usable::from_pem(&pair.chain, &pair.key, now)
                        .map_err(|e| format!("secret {}: {e}", secret.name))
                });
                match usable {
                    Ok(usable) => {
                        self.own_errors.remove(&secret.name);
                        self.own_due = Due::now();
                        let revision = secret.revision;
                        self.own.insert(secret.name, Own { revision, usable });
                        self.publish(wanted);
                    }
                    Err(error) => {
                        tracing::warn!(error, "Own certificate not usable");
                        self.own_errors.insert(secret.name, error);
                        self.own_due.failed(LAST_RETRY, None);
                    }
                }
            }
            Done::Issued(domain, certificate) => {
                let usable = certificate.and_then(|c| {
                    Usable::new(c.chain.clone(), c.key.clone_key(), now).map_err(|e| Error::Certificate {
                        domain: domain.clone(),
                        reason: e.to_string(),
                        retry_at: None,
                    })
                });
                match usable {
                    Ok(usable) => self.take(domain, usable, wanted),
                    Err(error) => {
                        tracing::warn!(%error, "No new certificate");
                        self.error = error.to_string();
                        let asked = match error {
                            Error::Certificate {
                                retry_at: Some(at), ..
                            } => Duration::try_from(at.duration_since(now)).ok(),
                            _ => None,
                        };
                        self.issued_due.failed(LAST_RETRY, asked);
                    }
                }
            }
            Done::Read(domain, secret, pair) => {
                let usable = pair.map_err(|error| match error {
                    SecretError::Missing { name, .. } => {
                        format!("waiting for the group's leader to get it into Secret {name}")
                    }
                    error @ SecretError::Read { .. } => error.to_string(),
                });
                let usable = usable.and_then(|pair| {
                    Usable::from_pem(&pair.chain, &pair.key, now)
                        .map_err(|e| format!("secret {}: {e}", secret.name))
                });
                match usable {
                    Ok(usable) => self.take(domain, usable, wanted),
                    Err(error) => {
                        self.error = error;
                        self.issued_due.failed(LAST_READ, None);
                    }
                }
            }
        }
    }

    /// A certificate that was issued.
    fn take(&mut self, domain: String, usable: Usable, wanted: &[OwnCertificate]) {
        self.error.clear();
        self.issued = Some((domain, usable));
        self.issued_due = Due::after(LOOK_AGAIN);
        self.publish(wanted);
    }

    /// Everything that is wrong, for the report.
    pub(super) fn errors(&self) -> String {
        self.own_errors
            .values()
            .map(String::as_str)
            .chain((!self.error.is_empty()).then_some(self.error.as_str()))
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn publish(&self, wanted: &[OwnCertificate]) {
        let mut table = Table::default();
        for certificate in wanted {
            if let Some(own) = self.own.get(&certificate.secret.name) {
                table.add(&certificate.hosts, &own.usable);
            }
        }
        if let Some((domain, usable)) = &self.issued {
            table.add(std::slice::from_ref(domain), usable);
        }
        self.resolver.set(table);
    }
}
