//! HTTPS certificates for the node's names: kept in the state store, issued through control's `set-dns`,
//! renewed in time (Go: `feature/acme`).
//!
//! When to renew and how long to wait after a failure are pure functions in the planner. The shell keeps one
//! issuance per name at a time, stores a key before it is used, and serves the old certificate for as long as it
//! is valid, whatever fails.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    control::{Control, ControlError},
    error::Error,
    proxy::Outbound,
    state::StateStore,
};

mod http;
mod issue;
mod name;
mod pair;
pub mod plan;
mod status;

use issue::{Authority, IssueError};
use name::Name;
pub use pair::Certificate;
use pair::Pair;

/// A caller waits no longer for a certificate; the issuance goes on.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// An issuance takes no longer; control and the authority have shorter limits for their parts.
const MAX_ISSUANCE: Duration = Duration::from_secs(300);
/// How often certificates are looked at that nobody asks for.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// Publishes the TXT record of a challenge.
pub trait SetDns: Send + Sync + 'static {
    /// `name` is absolute, without trailing dot. Answers when the record is published.
    fn set_dns<'a>(
        &'a self,
        name: &'a str,
        value: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<(), ControlError>> + Send + 'a>>;
}

impl SetDns for Control {
    fn set_dns<'a>(
        &'a self,
        name: &'a str,
        value: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<(), ControlError>> + Send + 'a>> {
        Box::pin(Self::set_dns(self, name, value))
    }
}

/// The certificates of a node. Clones share them.
#[derive(Clone)]
pub struct CertStore(Arc<Inner>);

struct Inner {
    store: Arc<dyn StateStore>,
    authority: Authority,
    clock: Clock,
    tasks: TaskTracker,
    cancel: CancellationToken,
    names: Mutex<BTreeMap<Name, watch::Sender<Known>>>,
}

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What is known about one name's certificate.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The store has been read, and the name is kept fresh.
    loaded: bool,
    pair: Option<Pair>,
    /// When the pair is to be renewed.
    due: Option<Timestamp>,
    /// Drawn once per certificate.
    jitter: f64,
    /// Somebody is at it.
    issuing: bool,
    failures: plan::Failures,
    failed: Option<Failed>,
    /// When the authority may be asked for its renewal window again.
    ask_again: Option<Timestamp>,
}

/// The newest failure.
#[derive(Debug, Clone)]
struct Failed {
    reason: String,
    retry_at: Timestamp,
}

impl CertStore {
    /// Certificates in `store`, from the ACME authority with this directory URL, which is reached by
    /// `outbound`. Its tasks are owned by `tasks` and end with `cancel`.
    pub fn new(
        store: Arc<dyn StateStore>,
        dns: Arc<dyn SetDns>,
        directory: String,
        outbound: Outbound,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self::with_clock(
            store,
            dns,
            directory,
            outbound,
            tasks,
            cancel,
            Arc::new(Timestamp::now),
        )
    }

    /// Ends with the node.
    pub(crate) fn cancellation(&self) -> CancellationToken {
        self.0.cancel.clone()
    }

    fn with_clock(
        store: Arc<dyn StateStore>,
        dns: Arc<dyn SetDns>,
        directory: String,
        outbound: Outbound,
        tasks: &TaskTracker,
        cancel: CancellationToken,
        clock: Clock,
    ) -> Self {
        let authority = Authority {
            directory,
            outbound,
            dns,
            account: tokio::sync::Mutex::default(),
        };
        let inner = Arc::new(Inner {
            store,
            authority,
            clock,
            tasks: tasks.clone(),
            cancel,
            names: Mutex::default(),
        });
        tasks.spawn(Arc::clone(&inner).keep_fresh());
        Self(inner)
    }

    /// A valid certificate for `domain`, which control must have named among its certificate domains.
    ///
    /// One that is there is returned at once, and renewed in the background when that is due. Otherwise one is
    /// issued, which is waited for up to 60 s; after a failure the authority is not asked again before the time
    /// that the error tells.
    ///
    /// # Errors
    /// When there is no valid certificate and none can be had now.
    pub async fn get(&self, domain: &str) -> Result<Arc<Certificate>, Error> {
        let name = Name::parse(domain).map_err(|reason| Error::Certificate {
            domain: domain.to_owned(),
            reason: reason.to_owned(),
            retry_at: None,
        })?;
        let known = self.0.known(&name).await?;
        self.0.renew_if_due(&name, &known);
        if let Some(certificate) = known.borrow().valid(self.0.now()) {
            return Ok(certificate);
        }
        let mut changes = known.subscribe();
        let settled = changes.wait_for(|known| !known.issuing);
        // The sender lives in `known`, so only the time can run out.
        let in_time = tokio::time::timeout(MAX_WAIT, settled).await.is_ok();
        let known = known.borrow();
        known.valid(self.0.now()).ok_or_else(|| {
            let waiting = format!("not there within {} s; it goes on", MAX_WAIT.as_secs());
            let failed = known.failed.as_ref().filter(|_| in_time);
            Error::Certificate {
                domain: name.to_string(),
                reason: failed.map_or(waiting, |failed| failed.reason.clone()),
                retry_at: failed.map(|failed| failed.retry_at),
            }
        })
    }

    /// Takes a name out of those that are kept fresh. What is stored stays.
    ///
    /// An issuance under way goes on, and a pause that the authority wants is kept: both are found again by the next
    /// [`CertStore::get`].
    pub fn forget(&self, domain: &str) {
        let Ok(name) = Name::parse(domain) else { return };
        if let Some(known) = self.0.names.lock().get(&name) {
            known.send_modify(Known::forget);
        }
    }

    /// What control asks by c2n (`GET /tls-cert-status`): JSON about a certificate that we have. Never starts
    /// an issuance, nor is the name kept fresh because of it.
    pub async fn tls_cert_status(&self, domain: &str) -> String {
        let pair = match Name::parse(domain) {
            Ok(name) => self.0.look_up(&name).await,
            Err(_) => None,
        };
        status::json(pair.as_ref(), self.0.now())
    }
}

impl std::fmt::Debug for CertStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.0.names.lock();
        let kept = names.iter().filter(|(_, known)| known.borrow().loaded);
        f.debug_set().entries(kept.map(|(name, _)| name)).finish()
    }
}

impl Known {
    fn valid(&self, now: Timestamp) -> Option<Arc<Certificate>> {
        let pair = self.pair.as_ref().filter(|pair| pair.is_valid(now))?;
        Some(pair.certificate.clone())
    }

    fn hold(&mut self, pair: Pair, now: Timestamp) {
        self.jitter = fastrand::f64();
        self.due = Some(plan::due(pair.validity, None, now, self.jitter));
        self.pair = Some(pair);
        self.failures = plan::Failures::default();
        self.failed = None;
        self.ask_again = None;
    }

    fn forget(&mut self) {
        self.loaded = false;
        self.pair = None;
        self.due = None;
    }

    /// There is something to do, and it may be tried.
    fn wants_issuance(&self, now: Timestamp) -> bool {
        let due = self.valid(now).is_none() || self.due.is_some_and(|due| due <= now);
        let may = self.failed.as_ref().is_none_or(|failed| failed.retry_at <= now);
        due && may && !self.issuing
    }
}

impl Inner {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The entry of a name, read from the store the first time.
    async fn known(&self, name: &Name) -> Result<watch::Sender<Known>, Error> {
        let known = self.names.lock().entry(name.clone()).or_default().clone();
        if !known.borrow().loaded {
            let stored = self.stored(name).await?;
            let now = self.now();
            known.send_if_modified(|known| {
                if known.loaded {
                    return false; // somebody else was faster
                }
                known.loaded = true;
                if let Some(pair) = stored {
                    known.hold(pair, now);
                }
                true
            });
        }
        Ok(known)
    }

    async fn stored(&self, name: &Name) -> Result<Option<Pair>, Error> {
        let (chain, key) = name.keys();
        let chain = self.store.read(&chain).await?;
        let key = self.store.read(&key).await?;
        let (Some(chain), Some(key)) = (chain, key) else {
            return Ok(None);
        };
        let pair = Pair::parse(name.as_str(), &chain, &key);
        Ok(pair
            .inspect_err(|reason| tracing::warn!(%name, reason, "The stored certificate can't be used"))
            .ok())
    }

    /// The certificate that we have, also of a name that nobody has asked for yet.
    async fn look_up(&self, name: &Name) -> Option<Pair> {
        let known = self.names.lock().get(name).map(|known| known.borrow().clone());
        match known.filter(|known| known.loaded) {
            Some(known) => known.pair,
            None => {
                let stored = self.stored(name).await;
                let stored =
                    stored.inspect_err(|error| tracing::warn!(%name, %error, "No look at a certificate"));
                stored.ok().flatten()
            }
        }
    }

    /// Starts an issuance unless one is running; it doesn't end with whoever asked for it.
    fn renew_if_due(self: &Arc<Self>, name: &Name, known: &watch::Sender<Known>) {
        let now = self.now();
        let start = known.send_if_modified(|known| {
            let start = known.wants_issuance(now);
            known.issuing |= start;
            start
        });
        if start {
            let (inner, name, known) = (Arc::clone(self), name.clone(), known.clone());
            self.tasks.spawn(async move {
                let result = inner.issue(&name, &known).await;
                inner.conclude(&name, &known, result);
            });
        }
    }

    async fn issue(&self, name: &Name, known: &watch::Sender<Known>) -> Result<Pair, IssueError> {
        let old = known.borrow().pair.as_ref().map(|pair| pair.leaf().clone());
        let issue = async {
            tracing::info!(%name, renewal = old.is_some(), "Getting a certificate");
            let store = &*self.store;
            let issued = self.authority.issue(name.as_str(), old.as_ref(), store).await?;
            let (chain, key) = (issued.chain.into_bytes(), issued.key.into_bytes());
            let pair = Pair::parse(name.as_str(), &chain, &key).map_err(IssueError::Unusable)?;
            let (chain_key, key_key) = name.keys();
            store.write([(chain_key, chain), (key_key, key)].into()).await?;
            Ok(pair)
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(IssueError::Closed),
            result = tokio::time::timeout(MAX_ISSUANCE, issue) => {
                result.unwrap_or(Err(IssueError::Timeout(MAX_ISSUANCE)))
            }
        }
    }

    fn conclude(&self, name: &Name, known: &watch::Sender<Known>, result: Result<Pair, IssueError>) {
        let now = self.now();
        known.send_modify(|known| {
            known.issuing = false;
            match result {
                Ok(pair) => {
                    tracing::info!(%name, not_after = %pair.certificate.not_after, "Got a certificate");
                    known.hold(pair, now);
                }
                Err(error) => {
                    let retry_at = known
                        .failures
                        .add(error.seen_by_authority(), error.retry_after(), now);
                    let reason = chain_of(&error);
                    tracing::warn!(%name, reason, %retry_at, "Could not get a certificate");
                    known.failed = Some(Failed { reason, retry_at });
                }
            }
        });
    }

    /// Names that nobody asks for are renewed too, and the authority may want one to be renewed early.
    async fn keep_fresh(self: Arc<Self>) {
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            let names: Vec<_> = self
                .names
                .lock()
                .iter()
                .filter(|(_, known)| known.borrow().loaded)
                .map(|(n, k)| (n.clone(), k.clone()))
                .collect();
            for (name, known) in names {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => return,
                    () = self.ask_for_window(&known) => {}
                }
                self.renew_if_due(&name, &known);
            }
        }
    }

    async fn ask_for_window(&self, known: &watch::Sender<Known>) {
        let now = self.now();
        let (pair, ask_again) = {
            let known = known.borrow();
            (known.pair.clone(), known.ask_again)
        };
        let Some(pair) = pair.filter(|_| ask_again.is_none_or(|at| at <= now)) else {
            return;
        };
        let asked = self.authority.renewal_window(pair.leaf(), &*self.store).await;
        if let Some((window, pause)) = asked {
            known.send_modify(|known| {
                known.due = Some(plan::due(pair.validity, Some(window), now, known.jitter));
                known.ask_again = Some(plan::ask_again(pause, now));
            });
        }
    }
}

/// An error with its causes.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
