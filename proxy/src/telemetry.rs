//! Logs: one line an event on standard output; the access log is JSON whatever the rest looks like.

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::{ParseError, filter_fn},
    fmt::{
        self,
        format::{Format, Json, JsonFields},
    },
    layer::SubscriberExt as _,
    util::{SubscriberInitExt as _, TryInitError},
};

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
    let filter = EnvFilter::builder().with_regex(false).parse(filter)?;
    let access = json()
        .with_level(false)
        .with_span_list(false)
        .with_filter(filter_fn(|meta| meta.target() == access_log::TARGET));
    let others = filter_fn(|meta| meta.target() != access_log::TARGET);
    let (structured, readable) = match format {
        LogFormat::Json => (Some(json().with_filter(others.clone())), None),
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

fn json<S>() -> fmt::Layer<S, JsonFields, Format<Json>> {
    fmt::layer().json().flatten_event(true).with_current_span(false)
}
