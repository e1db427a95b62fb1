//! What goes wrong in a session. The texts reach [`super::ControlStatus`].

use std::{io, time::Duration};

use super::noise::NoiseError;

/// Why an attempt, or the session, ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("connect to {to}: {source}")]
    Dial { to: String, source: io::Error },
    #[error("fetch the key of {from}: {reason}")]
    Key { from: String, reason: String },
    #[error("{server} answered {status} to the protocol upgrade: is it a coordination server?")]
    Upgrade {
        server: String,
        status: http::StatusCode,
    },
    #[error(transparent)]
    Noise(#[from] NoiseError),
    #[error("talk to the control server: {}", causes(.0))]
    Http(#[from] hyper::Error),
    #[error("read the control server's answer: {0}")]
    Body(String),
    #[error("the control server did not answer within {} s ({what})", .after.as_secs())]
    TimedOut { what: &'static str, after: Duration },
    #[error("{what}: the control server answered {status}: {text}")]
    Answer {
        what: &'static str,
        status: http::StatusCode,
        text: String,
    },
    #[error("registration is rate limited by the control server")]
    RateLimited { wait: Duration },
    #[error("{0}")]
    Refused(String),
    #[error("the control server sent a message of {0} bytes, which is too long")]
    MessageTooLong(u32),
    #[error("the control server sent a map that makes no sense: {0}")]
    Map(String),
    #[error("the control server ended the map stream")]
    StreamEnded,
    #[error("the node key has ended")]
    KeyExpired,
    #[error("no randomness: {0}")]
    Random(#[from] getrandom::Error),
    #[error("keep the login: {0}")]
    Persist(#[from] crate::state::StateError),
}

/// hyper's errors say what went wrong only in their sources.
fn causes(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
