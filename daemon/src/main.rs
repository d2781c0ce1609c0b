//! vchatd: the relay of a vchat.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use vchatd::config::{Config, Flags, LogFormat, Output, Task};
use vchatd::control::{self, AskError, Request};
use vchatd::handover::{self, Inheritance};
use vchatd::server::Server;
use vchatd::service;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match flags.clone().resolve() {
        Ok(Task::Run(config)) => *config,
        Ok(Task::Check(config)) => {
            say(&config.to_string());
            return ExitCode::SUCCESS;
        }
        Ok(Task::Ask { control, request, output }) => return ask(&control, &request, output),
        Err(e) => return fail(2, &e),
    };
    start_log(config.log);
    match run(config, flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(1, &format!("{e:#}")),
    }
}

/// One thread: at these packet sizes a shared runtime costs more per datagram than it gains.
#[tokio::main(flavor = "current_thread")]
async fn run(config: Config, flags: Flags) -> anyhow::Result<()> {
    handover::remember_program();
    let server = if flags.takes_over() {
        Server::take_over(config, Inheritance::receive().await?).await?
    } else {
        Server::bind_with(config, service::sockets()?).await?
    };
    for addr in server.local_addrs() {
        say(&format!("listening on {addr}"));
    }
    if let Some(addr) = server.metrics_addr() {
        say(&format!("metrics on http://{addr}/metrics"));
    }
    if let Some(link) = server.first_invite().await? {
        say(&format!(
            "nobody is paired yet; the administrator comes in, within an hour, by\n  vchat-client {link}"
        ));
    }
    let (reload, reloads) = mpsc::channel(1);
    tokio::spawn(read_again(flags, signal(SignalKind::hangup())?, reload));
    server.run(stop_signal()?, reloads).await
}

/// Reads the settings again whenever the operator asks for it. Wrong ones are not taken.
async fn read_again(flags: Flags, mut asked: Signal, reload: mpsc::Sender<Config>) {
    while asked.recv().await.is_some() {
        service::reloading();
        match flags.clone().resolve() {
            Ok(Task::Run(config)) => {
                if reload.send(*config).await.is_err() {
                    return;
                }
            }
            Ok(Task::Check(_) | Task::Ask { .. }) => {}
            Err(e) => {
                tracing::error!("the settings stay as they are: {e}");
                service::ready();
            }
        }
    }
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
    let journal = (format == LogFormat::Journald).then(tracing_journald::layer);
    if let Some(Ok(journal)) = journal {
        // As fields `VCHAT_PARTICIPANT` and so on: journalctl VCHAT_PARTICIPANT=7.
        let journal = journal.with_field_prefix(Some("VCHAT".into())).with_syslog_identifier("vchatd".into());
        return tracing_subscriber::registry().with(filter).with(journal).init();
    }
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text | LogFormat::Journald => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    if let Some(Err(e)) = journal {
        tracing::warn!("there is no journal here ({e}): the log goes to stderr");
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
