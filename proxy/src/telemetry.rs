//! Logs: one line an event on standard output; the access log is JSON whatever the rest looks like.

mod json;

use tracing_subscriber::{
    Layer as _, Registry,
    filter::{ParseError, Targets, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    util::{SubscriberInitExt as _, TryInitError},
};

pub use self::json::Json;
use crate::{args::LogFormat, http::access_log};

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `--log`.
    #[error("--log: {0}")]
    Filter(#[from] ParseError),
    /// There is a subscriber already.
    #[error(transparent)]
    Init(#[from] TryInitError),
}

/// Starts logging.
///
/// # Errors
/// When the filter can't be read.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let filter = filter.parse::<Targets>()?;
    let access = fmt::layer()
        .event_format(Json { level: false })
        .with_filter(filter_fn(|meta| meta.target() == access_log::TARGET));
    let others = filter_fn(|meta| meta.target() != access_log::TARGET);
    let (structured, readable) = match format {
        LogFormat::Json => {
            let layer = fmt::layer().event_format(Json { level: true });
            (Some(layer.with_filter(others)), None)
        }
        LogFormat::Text => (None, Some(fmt::layer().with_filter(others))),
    };
    Registry::default()
        .with(filter)
        .with(access)
        .with(structured)
        .with(readable)
        .try_init()?;
    Ok(())
}
