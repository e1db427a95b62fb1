//! Leader election by a Lease: one of the operator's replicas acts, the others keep their stores warm.
//!
//! Expiry is judged by what this process has seen change, never by another machine's clock; writes carry the
//! resourceVersion, so of two who try one wins. It is not a fence: what two leaders could do for a moment is
//! harmless, since all writes are applies of the same plan.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, ResourceExt, api::PostParams};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// The Lease's name, in the operator's namespace.
pub const NAME: &str = "postern-operator";

// client-go's numbers.
const DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(4);

/// What a Lease says, with what we have seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; nobody after a release.
    pub holder: Option<String>,
    /// How long without a change until it is free.
    pub duration: Duration,
    /// For how long we have seen no change.
    pub unchanged: Duration,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Take it.
    Acquire,
    /// Keep it.
    Renew,
    /// It is another's.
    Wait,
}

/// Decides.
pub fn decide(lease: Option<&Seen>, me: &str) -> Decision {
    match lease {
        None => Decision::Acquire,
        Some(Seen { holder: None, .. }) => Decision::Acquire,
        Some(Seen {
            holder: Some(holder), ..
        }) if holder == me => Decision::Renew,
        Some(Seen {
            duration, unchanged, ..
        }) if unchanged >= duration => Decision::Acquire,
        Some(_) => Decision::Wait,
    }
}

/// A candidate.
pub struct Election {
    api: Api<Lease>,
    me: String,
    seen: Option<(String, Instant)>,
    last: Option<Lease>,
}

impl Election {
    /// Of a process with a name of its own.
    pub fn new(api: Api<Lease>, me: String) -> Self {
        Self {
            api,
            me,
            seen: None,
            last: None,
        }
    }

    /// Waits until this process leads; false when it was cancelled before.
    pub async fn acquire(&mut self, cancel: &CancellationToken) -> bool {
        loop {
            match self.attempt().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "Failed to look at the lease; it is tried again"),
            }
            if sleep(RETRY, cancel).await {
                return false;
            }
        }
    }

    /// Keeps leading until it is lost or cancelled; a cancelled leader gives the Lease up.
    pub async fn hold(&mut self, cancel: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            if sleep(RETRY, cancel).await {
                self.release().await;
                return;
            }
            match self.attempt().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => {
                    tracing::warn!("Lost the lease to another replica");
                    return;
                }
                Err(error) => tracing::warn!(%error, "Failed to renew the lease; it is tried again"),
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                tracing::warn!("Lost the lease: it wasn't renewed in time");
                return;
            }
        }
    }

    /// Takes the Lease from whoever holds it.
    ///
    /// # Errors
    /// When the API server doesn't answer or somebody else writes at the same time.
    pub async fn seize(&mut self) -> Result<(), kube::Error> {
        let current = bounded(self.api.get_opt(NAME)).await?;
        self.write(current).await.map(drop)
    }

    /// Keeps it until it is lost. Whoever stops leaves it as it is, so that no candidate takes it for a while.
    pub async fn keep(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_DEADLINE {
            tokio::time::sleep(RETRY).await;
            match self.attempt().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => return,
                Err(error) => tracing::warn!(%error, "Failed to renew the lease; it is tried again"),
            }
        }
    }

    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let current = bounded(self.api.get_opt(NAME)).await?;
        let seen = current.as_ref().map(|lease| self.observe(lease));
        match decide(seen.as_ref(), &self.me) {
            Decision::Wait => Ok(false),
            Decision::Acquire | Decision::Renew => match self.write(current).await {
                Ok(()) => Ok(true),
                // Another was faster.
                Err(kube::Error::Api(response)) if response.code == 409 => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    fn observe(&mut self, lease: &Lease) -> Seen {
        let version = lease.resource_version().unwrap_or_default();
        let since = match &self.seen {
            Some((known, since)) if *known == version => *since,
            _ => Instant::now(),
        };
        self.seen = Some((version, since));
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        Seen {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            duration: seconds.map_or(DURATION, Duration::from_secs),
            unchanged: since.elapsed(),
        }
    }

    async fn write(&mut self, current: Option<Lease>) -> Result<(), kube::Error> {
        let now = MicroTime(Timestamp::now());
        let new = current.is_none();
        let mut lease = current.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                ..ObjectMeta::default()
            },
            ..Lease::default()
        });
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.me) {
            *spec = LeaseSpec {
                lease_transitions: Some(spec.lease_transitions.unwrap_or_default() + 1),
                acquire_time: Some(now.clone()),
                ..LeaseSpec::default()
            };
        }
        spec.holder_identity = Some(self.me.clone());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(now);
        let params = PostParams::default();
        self.last = Some(if new {
            bounded(self.api.create(&params, &lease)).await?
        } else {
            bounded(self.api.replace(NAME, &params, &lease)).await?
        });
        Ok(())
    }

    async fn release(&mut self) {
        let Some(mut lease) = self.last.take() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        // A Lease that isn't released expires.
        if let Err(error) = bounded(self.api.replace(NAME, &PostParams::default(), &lease)).await {
            tracing::debug!(%error, "Failed to release the lease");
        }
    }
}

async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match timeout(CALL, call).await {
        Ok(result) => result,
        Err(elapsed) => Err(kube::Error::Service(Box::new(elapsed))),
    }
}

/// True when cancelled.
async fn sleep(time: Duration, cancel: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = cancel.cancelled() => true,
        () = tokio::time::sleep(time) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: Option<&str>, unchanged: u64) -> Seen {
        Seen {
            holder: holder.map(str::to_owned),
            duration: DURATION,
            unchanged: Duration::from_secs(unchanged),
        }
    }

    #[test]
    fn only_a_lease_that_nobody_renews_changes_hands() {
        assert_eq!(decide(None, "me"), Decision::Acquire);
        assert_eq!(decide(Some(&seen(None, 0)), "me"), Decision::Acquire);
        assert_eq!(decide(Some(&seen(Some("me"), 100)), "me"), Decision::Renew);
        assert_eq!(decide(Some(&seen(Some("other"), 14)), "me"), Decision::Wait);
        assert_eq!(decide(Some(&seen(Some("other"), 15)), "me"), Decision::Acquire);
    }
}
