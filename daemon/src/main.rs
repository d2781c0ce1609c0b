//! vchatd: the relay of a vchat.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use vchatd::config::{Config, Flags, LogFormat};
use vchatd::server::Server;

fn main() -> ExitCode {
    let config = match Flags::parse().resolve() {
        Ok(config) => config,
        Err(e) => return fail(2, &e),
    };
    start_log(config.log);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(1, &format!("{e:#}")),
    }
}

/// One thread: at these packet sizes a shared runtime costs more per datagram than it gains.
#[tokio::main(flavor = "current_thread")]
async fn run(config: Config) -> anyhow::Result<()> {
    let server = Server::bind(config).await?;
    for addr in server.local_addrs() {
        say(&format!("listening on {addr}"));
    }
    server.run(stop_signal()?).await;
    Ok(())
}

/// Resolves when the service manager or the user wants the daemon to stop.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Prints what was asked for; a reader that is gone is no reason to fail.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn fail(code: u8, error: &impl std::fmt::Display) -> ExitCode {
    eprintln!("vchatd: {error}");
    ExitCode::from(code)
}
