//! vchatd: the relay of a vchat.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use vchatd::config::{Config, Flags, LogFormat, Output, Task};
use vchatd::control::{self, AskError, Request};
use vchatd::server::Server;

fn main() -> ExitCode {
    let config = match Flags::parse().resolve() {
        Ok(Task::Run(config)) => *config,
        Ok(Task::Ask { control, request, output }) => return ask(&control, &request, output),
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
    if let Some(link) = server.first_invite().await? {
        say(&format!(
            "nobody is paired yet; the administrator comes in, within an hour, by\n  vchat-client {link}"
        ));
    }
    server.run(stop_signal()?).await
}

/// Passes a command on to the running relay.
fn ask(control: &Path, request: &Request, output: Output) -> ExitCode {
    match control::ask(control, request) {
        Ok(answer) => {
            let shown = control::show(request, &answer, output, std::io::stdout().is_terminal());
            say(&shown.text);
            if !shown.hint.is_empty() {
                eprintln!("{}", shown.hint);
            }
            ExitCode::SUCCESS
        }
        Err(e @ AskError::NotRunning { .. }) => fail(3, &e),
        Err(e @ AskError::Failed(_)) => fail(1, &e),
    }
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
