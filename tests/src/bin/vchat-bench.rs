//! Figures of vchat on this machine.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vchat_tests::bench::{CallOptions, run_call};

/// Measures vchat with real programs, codecs and sound servers.
#[derive(Parser)]
#[command(name = "vchat-bench", version)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Calls of two clients through a relay, all on this machine
    #[command(
        long_about = "Calls of two clients through a relay, all on this machine.

Both send the test card, whose barcode tells when a picture was taken, and chirps that are played into their microphones.
Measured are, from what was really shown and heard: the delay of pictures and sound, pictures a second, freezes; and the
processor time of clients and relay, bit rates, and the time to the first picture.",
        after_help = "Example: ten seconds each of three calls on a bad network, as JSON:
  vchat-bench call --profile loss5 --json"
    )]
    Call(CallOptions),
}

fn main() -> ExitCode {
    let Args { what: What::Call(options) } = Args::parse();
    match run_call(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without stderr there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "vchat-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
