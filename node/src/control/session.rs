//! The session's task: connect, log in, follow the map stream; after any failure again.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    time::{error::Elapsed, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    C2n, ControlConfig, ControlError, ControlStatus, Done, LocalState, Persist, SetDns,
    backoff::{self, Backoff},
    connection::{Client, Connection, expect_ok, fetch_key},
    dial::Dial,
    error::SessionError,
    identity::Identity,
    mint,
    register::{self, Login, Next},
    stream::Maps,
    url::Origin,
};
use crate::{
    key::{MachinePublic, NodePrivate},
    state::NodeState,
    tailcfg::RegisterResponse,
};

/// Dial, TLS, and the key; then, with another dial, Noise and HTTP/2. Each has this time for itself (Go: 10 s): a plan of
/// dead addresses takes half of it from every dial.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REGISTER_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two questions whether a key that has ended is good again.
const EXTENSION_PAUSE: Duration = Duration::from_secs(120);
/// For all of a logout that concerns control: who logs out waits for it.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two waits for a login, should the server not really wait.
const FOLLOWUP_PAUSE: Duration = Duration::from_secs(1);

/// Everything that the task owns.
pub(super) struct Session {
    pub(super) config: ControlConfig,
    pub(super) server: Origin,
    pub(super) dialer: Arc<dyn Dial>,
    pub(super) identity: Arc<Identity>,
    pub(super) persist: Arc<dyn Persist>,
    pub(super) c2n: Arc<dyn C2n>,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
    pub(super) local: watch::Receiver<LocalState>,
    pub(super) set_dns: mpsc::Receiver<SetDns>,
    pub(super) status: watch::Sender<ControlStatus>,
    pub(super) node_key: watch::Sender<NodePrivate>,
    pub(super) maps: Maps,
    pub(super) state: NodeState,
    /// The state's key is known to be stored.
    pub(super) stored: bool,
    /// The server's key, once fetched.
    pub(super) server_key: Option<MachinePublic>,
    /// What is left to do before the map may be asked for.
    pub(super) login: Option<Login>,
    /// The one of the attempt under way.
    pub(super) connection: Option<Arc<Connection>>,
    pub(super) backoff: Backoff,
}

impl Session {
    /// Runs until the token is cancelled or somebody logs out.
    pub(super) async fn run(mut self, mut logouts: mpsc::Receiver<Done>) {
        let cancel = self.cancel.clone();
        let life = async {
            let done = tokio::select! {
                biased;
                Some(done) = logouts.recv() => done,
                end = self.attempts() => match end {},
            };
            let result = self.log_out().await;
            let _ = done.send(result.map_err(ControlError::from));
            self.status.send_replace(ControlStatus::Refused {
                reason: "logged out".to_owned(),
            });
        };
        cancel.run_until_cancelled(life).await;
    }

    async fn attempts(&mut self) -> Infallible {
        loop {
            let Err(error) = self.attempt().await;
            self.connection = None;
            let wait = self.failed(&error);
            let retry_ms = wait.as_millis();
            tracing::info!(server = %self.server, %error, retry_ms, "No control session");
            sleep(wait).await;
        }
    }

    async fn attempt(&mut self) -> Result<Infallible, SessionError> {
        let connection = Arc::new(self.connect().await?);
        self.connection = Some(Arc::clone(&connection));
        self.log_in(connection.client()).await?;
        self.stream(&connection).await
    }

    async fn connect(&mut self) -> Result<Connection, SessionError> {
        let key = match self.server_key {
            Some(key) => key,
            None => timeout(CONNECT_TIMEOUT, fetch_key(&*self.dialer, &self.server))
                .await
                .unwrap_or_else(late("key", CONNECT_TIMEOUT))?,
        };
        let opening = Connection::open(
            &*self.dialer,
            &self.server,
            &key,
            self.state.machine_key.clone(),
            self.tasks.clone(),
            self.cancel.child_token(),
        );
        let connected = timeout(CONNECT_TIMEOUT, opening)
            .await
            .unwrap_or_else(late("connect", CONNECT_TIMEOUT));
        // After a failure it is asked for again: Go's server doesn't answer at all to who has an old one.
        self.server_key = connected.is_ok().then_some(key);
        connected
    }

    async fn log_in(&mut self, client: &Client) -> Result<(), SessionError> {
        if !self.stored {
            // An auth key may be good for one login: control knows the node by its key, should we crash
            // right after it.
            self.persist.persist(self.state.clone()).await?;
            self.stored = true;
        }
        while let Some(mut login) = self.login.clone() {
            if login.with_auth_key
                && login.auth_key.is_none()
                && let Some(credential) = &self.config.credential
            {
                // Kept with the login: a key that was made is good for one, however often that is tried.
                let key = mint::auth_key(&*self.dialer, &self.server, credential, &self.config.tags).await?;
                login.auth_key = Some(key);
                self.login = Some(login.clone());
            }
            let answer = tokio::select! {
                answer = self.register(client, &login) => answer?,
                () = self.extended(client), if login.renewal && login.followup.is_some() => {
                    self.adopt(&Login::default()).await?;
                    self.login = None;
                    break;
                }
            };
            match login.next(answer, self.config.credential.is_some()) {
                Next::Done { approved } => {
                    self.adopt(&login).await?;
                    self.login = None;
                    if !approved {
                        self.status.send_replace(ControlStatus::NeedsApproval);
                    }
                }
                Next::NewKey => self.login = Some(Login::renewal()?),
                Next::UseAuthKey => {
                    self.login = Some(Login {
                        with_auth_key: true,
                        ..login
                    });
                }
                Next::Visit(url) => {
                    if login.followup.is_some() {
                        sleep(FOLLOWUP_PAUSE).await;
                    }
                    tracing::info!(url, "A login is needed: open the URL");
                    self.status
                        .send_replace(ControlStatus::NeedsLogin { url: url.clone() });
                    self.login = Some(Login {
                        followup: Some(url),
                        ..login
                    });
                }
                Next::Refused(reason) => return Err(SessionError::Refused(reason)),
            }
        }
        Ok(())
    }

    /// Returns when an administrator has put off the end of the key that we have. Go's map stream stays up meanwhile and
    /// tells it; we ask.
    async fn extended(&self, client: &Client) {
        let login = Login::default();
        loop {
            sleep(EXTENSION_PAUSE).await;
            let answer = self.register(client, &login).await;
            if answer.is_ok_and(|answer| matches!(login.next(answer, false), Next::Done { .. })) {
                return;
            }
        }
    }

    async fn register(&self, client: &Client, login: &Login) -> Result<RegisterResponse, SessionError> {
        let hostinfo = self.identity.hostinfo(&self.local.borrow());
        let nl_key = self.identity.nl_key();
        let request = login.request(&self.state, &self.config, nl_key, hostinfo);
        let mut keys = vec![request.old_node_key, request.node_key];
        keys.retain(|key| !key.is_zero());
        let exchange = async {
            let response = client.post_json("/machine/register", &keys, &request).await?;
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                let now = SystemTime::now();
                let wait = register::retry_after(response.headers(), now, fastrand::f64());
                return Err(SessionError::RateLimited { wait });
            }
            expect_ok("register", response).await
        };
        let answer = if login.followup.is_some() {
            // The server answers when somebody has logged in; that the connection lives, HTTP/2 checks.
            exchange.await
        } else {
            timeout(REGISTER_TIMEOUT, exchange)
                .await
                .unwrap_or_else(late("register", REGISTER_TIMEOUT))
        };
        let body = answer.map_err(|error| match error {
            SessionError::Answer { status, text, .. } if register::is_refusal(status) => {
                SessionError::Refused(format!("{text} ({status})"))
            }
            other => other,
        })?;
        serde_json::from_slice(&body).map_err(|e| SessionError::Body(e.to_string()))
    }

    /// Makes the registered key ours, once it is stored.
    async fn adopt(&mut self, login: &Login) -> Result<(), SessionError> {
        let mut state = self.state.clone();
        state.node_key = login.key(&self.state).clone();
        state.registered = true;
        if login.new_key.is_some() || !self.state.registered {
            self.persist.persist(state.clone()).await?;
        }
        self.state = state;
        let key = self.state.node_key.clone();
        self.node_key.send_if_modified(|current| {
            let changed = current.public() != key.public();
            *current = key;
            changed
        });
        Ok(())
    }

    /// The login is forgotten whether control can be told or not (Go: `Direct.TryLogout`).
    async fn log_out(&mut self) -> Result<(), SessionError> {
        let told = match self.state.registered {
            true => timeout(LOGOUT_TIMEOUT, self.end_key())
                .await
                .unwrap_or_else(late("log out", LOGOUT_TIMEOUT)),
            false => Ok(()),
        };
        let mut state = self.state.clone();
        state.node_key = NodePrivate::generate()?;
        state.registered = false;
        self.persist.persist(state).await?;
        told
    }

    async fn end_key(&mut self) -> Result<(), SessionError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Arc::new(self.connect().await?),
        };
        let hostinfo = self.identity.hostinfo(&self.local.borrow());
        let request = register::logout(&self.state, self.identity.nl_key(), hostinfo);
        let keys = [request.node_key];
        let sent = connection
            .client()
            .post_json("/machine/register", &keys, &request);
        let body = expect_ok("log out", sent.await?).await?;
        let answer: RegisterResponse =
            serde_json::from_slice(&body).map_err(|e| SessionError::Body(e.to_string()))?;
        match answer.error.is_empty() {
            true => Ok(()),
            false => Err(SessionError::Answer {
                what: "log out",
                status: StatusCode::OK,
                text: answer.error,
            }),
        }
    }

    /// Says what has failed, and prepares the next attempt; returns the time until then.
    fn failed(&mut self, error: &SessionError) -> Duration {
        let mut limit = backoff::LIMIT;
        let mut refused = None;
        match error {
            SessionError::KeyExpired => self.login = Login::renewal().ok(),
            SessionError::Refused(reason) => {
                limit = backoff::REFUSED_LIMIT;
                let renewal = self.login.as_ref().is_some_and(|login| login.renewal);
                // The next attempt begins with the key that we have: its end may have been put off, and
                // with whatever may help if it has been forgotten.
                self.login = Some(Login {
                    with_auth_key: !self.state.registered || !renewal,
                    ..Login::default()
                });
                refused = Some(match renewal {
                    true => ControlStatus::KeyExpired,
                    false => ControlStatus::Refused {
                        reason: reason.clone(),
                    },
                });
            }
            // Control doesn't know the key (any more).
            SessionError::Answer { status, .. } if register::is_refusal(*status) => {
                self.login.get_or_insert_default();
            }
            _ => {}
        }
        let wait = match error {
            SessionError::RateLimited { wait } => *wait,
            _ => self.backoff.next(limit, fastrand::f64()),
        };
        let waiting_for_login = self.login.as_ref().is_some_and(|l| l.followup.is_some());
        let status = refused.unwrap_or_else(|| ControlStatus::Connecting {
            last_error: Some(error.to_string()),
            retry_at: Timestamp::now().checked_add(wait).ok(),
        });
        if !waiting_for_login {
            self.status.send_replace(status);
        }
        wait
    }
}

/// What a step comes to that took too long.
pub(super) fn late<T>(
    what: &'static str,
    after: Duration,
) -> impl FnOnce(Elapsed) -> Result<T, SessionError> {
    move |_| Err(SessionError::TimedOut { what, after })
}
