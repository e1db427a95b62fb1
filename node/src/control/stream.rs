//! A session that is logged in: the map stream, updates about ourselves, and requests, side by side.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ControlError, ControlStatus, LocalState, SetDns,
    backoff::{self, Backoff},
    connection::{Client, Connection, expect_ok},
    error::SessionError,
    frames::{Frames, TooLong},
    identity::Identity,
    ping::Answerer,
    session::{Session, late},
};
use crate::{
    key::NodePublic,
    netmap::{Merger, Netmap},
    tailcfg::{MapResponse, PingRequest, SetDnsRequest},
};

/// Control sends something every minute; a stream that is silent for two is dead (Go's watchdog).
const WATCHDOG: Duration = Duration::from_secs(120);
const UPDATE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long control may ask us to wait before the next message (Go: `handleDebugMessage`).
const MAX_SLEEP: Duration = Duration::from_secs(300);
/// Control's questions that are answered at once; one too many is dropped, for control to ask again.
const MAX_QUESTIONS: usize = 8;
/// Records that are published at once; the others wait.
const MAX_RECORDS: usize = 8;

impl Session {
    /// Returns when the stream has ended, which it does only by failing.
    pub(super) async fn stream(&mut self, connection: &Connection) -> Result<Infallible, SessionError> {
        let client = connection.client();
        let jobs = |most| Jobs {
            tasks: self.tasks.clone(),
            cancel: connection.cancel().clone(),
            permits: Arc::new(Semaphore::new(most)),
        };
        let talk = Talk {
            client: client.clone(),
            identity: Arc::clone(&self.identity),
            key: self.state.node_key.public(),
            questions: jobs(MAX_QUESTIONS),
            records: jobs(MAX_RECORDS),
            local: self.local.clone(),
        };
        let answerer = Answerer {
            client: client.clone(),
            dialer: Arc::clone(&self.dialer),
            server: self.server.clone(),
            c2n: Arc::clone(&self.c2n),
        };
        let maps = self
            .maps
            .follow(&talk, &answerer, &self.status, &mut self.backoff);
        tokio::select! {
            biased;
            end = maps => end,
            end = talk.updates() => match end {},
            end = talk.publish(&mut self.set_dns) => match end {},
        }
    }
}

/// Tasks that end with the connection, so many at once.
struct Jobs {
    tasks: TaskTracker,
    cancel: CancellationToken,
    permits: Arc<Semaphore>,
}

impl Jobs {
    /// `false`: there are too many.
    fn try_spawn(&self, job: impl Future<Output = ()> + Send + 'static) -> bool {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit.map(|permit| self.start(permit, job)).is_ok()
    }

    /// Waits until there are few enough.
    async fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) {
        if let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            self.start(permit, job);
        }
    }

    fn start(&self, permit: OwnedSemaphorePermit, job: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(job).await;
            drop(permit);
        });
    }
}

/// What is needed to talk to control as a node.
struct Talk {
    client: Client,
    identity: Arc<Identity>,
    key: NodePublic,
    questions: Jobs,
    records: Jobs,
    local: watch::Receiver<LocalState>,
}

impl Talk {
    /// Tells control about ourselves, now and after every change. What fails is repeated with what is then
    /// true; if the connection is to blame, the map stream ends too.
    async fn updates(&self) -> Infallible {
        let mut local = self.local.clone();
        let mut backoff = Backoff::default();
        let key = self.key;
        loop {
            let request = self.identity.map_request(&local.borrow_and_update(), key, false);
            let update = async {
                let response = self.client.post_json("/machine/map", &[key], &request).await?;
                expect_ok("update", response).await
            };
            match timeout(UPDATE_TIMEOUT, update)
                .await
                .unwrap_or_else(late("update", UPDATE_TIMEOUT))
            {
                Ok(_) => {
                    backoff.reset();
                    if local.changed().await.is_err() {
                        return pending().await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "Control has not taken an update");
                    sleep(backoff.next(backoff::LIMIT, fastrand::f64())).await;
                }
            }
        }
    }

    /// Publishes records for the handles.
    async fn publish(&self, requests: &mut mpsc::Receiver<SetDns>) -> Infallible {
        while let Some(SetDns {
            name,
            value,
            mut done,
        }) = requests.recv().await
        {
            let (client, key) = (self.client.clone(), self.key);
            let publish = async move {
                tokio::select! {
                    biased;
                    // Who asked waits for a limited time.
                    () = done.closed() => {}
                    result = set_dns(&client, key, name, value) => {
                        let _ = done.send(result.map_err(ControlError::from));
                    }
                }
            };
            self.records.spawn(publish).await;
        }
        pending().await
    }
}

async fn set_dns(
    client: &Client,
    node_key: NodePublic,
    name: String,
    value: String,
) -> Result<(), SessionError> {
    let request = SetDnsRequest {
        version: super::CAPABILITY_VERSION,
        node_key,
        name,
        r#type: "TXT",
        value,
    };
    let response = client
        .post_json("/machine/set-dns", &[node_key], &request)
        .await?;
    expect_ok("set-dns", response).await?;
    Ok(())
}

/// Makes netmaps of messages, over all streams of the session.
pub(super) struct Maps {
    pub(super) merger: Merger,
    pub(super) netmap: watch::Sender<Option<Arc<Netmap>>>,
    /// The URL of the last question that was taken up: control repeats it in every message until it is answered.
    pub(super) last_ping: String,
}

impl Maps {
    async fn follow(
        &mut self,
        talk: &Talk,
        answerer: &Answerer,
        status: &watch::Sender<ControlStatus>,
        backoff: &mut Backoff,
    ) -> Result<Infallible, SessionError> {
        let key = talk.key;
        let request = talk.identity.map_request(&talk.local.borrow(), key, true);
        let opening = async {
            let response = talk.client.post_json("/machine/map", &[key], &request).await?;
            match response.status() {
                http::StatusCode::OK => Ok(response.into_body()),
                _ => Err(expect_ok("map", response)
                    .await
                    .map_or_else(|error| error, |_| SessionError::StreamEnded)),
            }
        };
        let mut stream = Messages {
            body: timeout(WATCHDOG, opening)
                .await
                .unwrap_or_else(late("map", WATCHDOG))?,
            frames: Frames::default(),
        };
        self.merger.restart();
        let mut key_expiry = None;
        loop {
            let message = read_message(&mut stream, key_expiry).await?;
            let response = MapResponse::from_json(&message).map_err(|e| SessionError::Map(e.to_string()))?;
            drop(message);
            if let Some(plan) = &response.control_dial_plan {
                answerer.dialer.set_plan(&answerer.server, plan);
            }
            if let Some(ping) = response.ping_request.clone() {
                self.answer(ping, answerer, &talk.questions);
            }
            let pause = response.debug.as_ref().map_or(0.0, |d| d.sleep_seconds);
            if let Some(netmap) = self.merge(response)? {
                let now = Timestamp::now();
                key_expiry = netmap.self_node.key_expiry;
                if netmap.self_node.expired || key_expiry.is_some_and(|end| end <= now) {
                    return Err(SessionError::KeyExpired);
                }
                backoff.reset();
                let current = match netmap.self_node.machine_authorized {
                    true => ControlStatus::Running,
                    false => ControlStatus::NeedsApproval,
                };
                self.netmap.send_replace(Some(netmap));
                status.send_if_modified(|status| {
                    let changed = *status != current;
                    *status = current;
                    changed
                });
            }
            if let Ok(pause) = Duration::try_from_secs_f64(pause) {
                sleep(pause.min(MAX_SLEEP)).await;
            }
        }
    }

    fn merge(&mut self, response: MapResponse) -> Result<Option<Arc<Netmap>>, SessionError> {
        let dropped = response.dropped();
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "Nodes, profiles or rules from control make no sense and are left out"
            );
        }
        self.merger
            .apply(response, Timestamp::now())
            .map_err(|e| SessionError::Map(e.to_string()))
    }

    fn answer(&mut self, ping: PingRequest, answerer: &Answerer, questions: &Jobs) {
        if ping.url.is_empty() || ping.url == self.last_ping {
            return;
        }
        let url = ping.url.clone();
        if questions.try_spawn(answerer.clone().answer(ping)) {
            self.last_ping = url;
        } else {
            tracing::warn!("Too many questions of control at once, one is not answered");
        }
    }
}

/// Waits for a message, but not past the watchdog's time, nor past the end of the node key.
async fn read_message(stream: &mut Messages, key_expiry: Option<Timestamp>) -> Result<Bytes, SessionError> {
    let now = Instant::now();
    let left = key_expiry.and_then(|end| Duration::try_from(end - Timestamp::now()).ok());
    let wake = left.map_or(WATCHDOG, |left| left.min(WATCHDOG));
    match timeout_at(now + wake, stream.next()).await {
        Ok(message) => message,
        Err(_) if wake < WATCHDOG => Err(SessionError::KeyExpired),
        Err(_) => Err(SessionError::TimedOut {
            what: "map",
            after: WATCHDOG,
        }),
    }
}

/// The messages of a response.
struct Messages {
    body: Incoming,
    frames: Frames,
}

impl Messages {
    async fn next(&mut self) -> Result<Bytes, SessionError> {
        loop {
            let message = self.frames.next();
            if let Some(message) = message.map_err(|TooLong(length)| SessionError::MessageTooLong(length))? {
                return Ok(message);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.frames.push(data);
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(SessionError::StreamEnded),
            }
        }
    }
}
