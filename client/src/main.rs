//! vchat-client: see, hear and write to each other through a vchat relay.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use vchat_client::cli::{Cli, Task};
use vchat_client::net::{self, PairError};
use vchat_client::{call, devices};
use vchat_proto::id::RoomName;

fn main() -> ExitCode {
    let started = Instant::now();
    let task = match Cli::parse().resolve() {
        Ok(task) => task,
        Err(why) => return fail(2, &why),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    match task {
        Task::Call(config) => match call::run(&config, started) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(e.code(), &e),
        },
        Task::Pair(config) => match net::pair(&config) {
            Ok(paired) => {
                say(&format!("paired with {}, whose fingerprint is {}", paired.relay, paired.pin));
                if !paired.rooms.is_empty() {
                    let rooms: Vec<&str> = paired.rooms.iter().map(RoomName::as_str).collect();
                    say(&format!("for the rooms: {}", rooms.join(", ")));
                }
                say(&format!("now: vchat-client --relay {}", paired.relay));
                ExitCode::SUCCESS
            }
            Err(e) => fail(code(&e), &e),
        },
        Task::Invite(config) => match net::invite(&config) {
            Ok(invited) => {
                let (text, hint) = invited.show(config.json);
                say(&text);
                if !hint.is_empty() {
                    eprintln!("{hint}");
                }
                ExitCode::SUCCESS
            }
            Err(e) => fail(code(&e), &e),
        },
        Task::History(config) => match net::history(&config) {
            Ok(read) => {
                let (text, hint) = read.show(config.json);
                if !text.is_empty() {
                    say(&text);
                }
                if !hint.is_empty() {
                    eprintln!("{hint}");
                }
                ExitCode::SUCCESS
            }
            Err(e) => fail(code(&e), &e),
        },
        Task::Devices { json } => {
            say(&devices::list(json));
            ExitCode::SUCCESS
        }
    }
}

/// The exit code where something was asked of a relay without a call.
const fn code(error: &PairError) -> u8 {
    match error {
        PairError::Unreachable(..) => 3,
        PairError::Refused(_) => 4,
        PairError::Local(_) => 1,
    }
}

/// Prints what was asked for; a reader that is gone is no reason to fail.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn fail(code: u8, error: &impl std::fmt::Display) -> ExitCode {
    eprintln!("vchat-client: {error}");
    ExitCode::from(code)
}

/// The crate that talks to PulseAudio calls the end of its own connection an error.
const DEFAULT_LOG: &str = "warn,pulseaudio=off";
