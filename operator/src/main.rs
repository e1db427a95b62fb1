//! The binary `postern-operator`; what it is stands in the library.

use anyhow::Context as _;
use clap::Parser;
use postern_operator::{
    args::{Arguments, Command},
    runtime, uninstall,
};
use tracing_subscriber::{filter::Targets, fmt, prelude::*};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { command, common } = Arguments::parse();
    let filter: Targets = common.log.parse().context("--log (RUST_LOG)")?;
    let (json, plain) = if common.log_json {
        (Some(fmt::layer().json()), None)
    } else {
        (None, Some(fmt::layer()))
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(json)
        .with(plain)
        .init();
    // The one provider of the process: kube's client asks for a default.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match command.unwrap_or(Command::Run) {
        Command::Run => runtime::run(common).await,
        Command::Uninstall => uninstall::run(common).await,
    }
}
