//! The data plane's process; see the library for what it does.

use std::{io::Write, process::ExitCode, sync::Arc};

use clap::Parser;
use postern_proxy::{
    args::{Cli, Command},
    run, tailnet, telemetry, trust,
};

/// glibc's allocator keeps what a burst of connections took.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => start(*args),
        Command::Trust(args) => say(trust::judge(&args).map(|()| "believed".to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The answer of a command that a person typed.
fn say(answer: anyhow::Result<String>) -> anyhow::Result<()> {
    match answer {
        Ok(text) => writeln!(std::io::stdout(), "{text}")?,
        Err(error) => {
            writeln!(std::io::stderr(), "error: {error:#}")?;
            std::process::exit(1);
        }
    }
    Ok(())
}

fn start(args: postern_proxy::args::Run) -> anyhow::Result<()> {
    if let Err(error) = telemetry::init(args.log_format, &args.log) {
        // There is no log to write this to.
        let _ = writeln!(std::io::stderr(), "error: {error}");
        std::process::exit(2);
    }
    // An error means that somebody was first, with the only provider there is.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // One thread: a wake-up across threads costs more than a small request (measured: +20 to 45 %).
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run::run(args, Arc::new(tailnet::Embedded)))
}
