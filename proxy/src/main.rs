//! The data plane's process; see the library for what it does.

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
// Takes the place of the C library's.
use postern_memcpy as _;
use postern_proxy::{
    args::{Cli, Command, Foreground, LogFormat, Process},
    ask, check, idp, run, tailnet, telemetry, trust,
};

/// glibc's allocator keeps what a burst of connections took.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Huge pages are given whole: of what an idle process holds they would make four times as much.
    // A kernel without them refuses, and nothing is lost.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let node = Arc::new(tailnet::Embedded);
    match Cli::parse_from(idp::go_flags(std::env::args_os())).command {
        Command::Run(args) => {
            let Process { log_format, log, .. } = args.process.clone();
            serving(log_format, &log, run::run(*args, node))
        }
        Command::Idp(args) => serving(LogFormat::Text, &args.filter(), idp::run(*args)),
        Command::Serve(args) => foreground(*args, false, node),
        Command::Funnel(args) => foreground(*args, true, node),
        Command::Status(args) => asking(ask::status(&args)),
        Command::Ip(args) => asking(ask::ip(&args)),
        Command::Whois(args) => asking(ask::whois(&args)),
        Command::Check(args) => asking(async move { check::check(&args) }),
        Command::Trust(args) => asking(async move { trust::judge(&args).map(|()| "believed".to_owned()) }),
    }
}

fn foreground(mut args: Foreground, funnel: bool, node: Arc<tailnet::Embedded>) -> ExitCode {
    args.process = args.process.in_foreground();
    let Process { log_format, log, .. } = args.process.clone();
    serving(log_format, &log, run::foreground(args, funnel, node))
}

/// What goes on until it is told to end, with a log.
fn serving(format: LogFormat, log: &str, serve: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    if let Err(error) = telemetry::init(format, log) {
        // There is no log to write this to.
        write(&mut std::io::stderr(), &format!("error: {error}"));
        return ExitCode::from(2);
    }
    // An error means that somebody was first, with the only provider there is.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let served = runtime().and_then(|runtime| runtime.block_on(serve));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A question with an answer for the terminal.
fn asking(ask: impl Future<Output = anyhow::Result<String>>) -> ExitCode {
    match runtime().and_then(|runtime| runtime.block_on(ask)) {
        Ok(answer) => {
            write(&mut std::io::stdout(), &answer);
            ExitCode::SUCCESS
        }
        Err(error) => {
            write(&mut std::io::stderr(), &format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// One thread: a wake-up across threads costs more than a small request (measured: +20 to 45 %).
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// A pipe that is closed is no reason to complain.
fn write(to: &mut dyn std::io::Write, text: &str) {
    let _ = writeln!(to, "{}", text.trim_end());
}
