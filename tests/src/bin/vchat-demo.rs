//! A call on this machine, to see what vchat is like.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use vchat_tests::demo::{Options, run};

/// Calls Bob as Ann, with two clients and a relay on this machine, and tells the delays measured.
///
/// Ann takes this machine's camera and microphone where there are any. With a display both windows stay until they are
/// closed; without one, ten seconds of the call happen on a display without a screen, and pictures of both windows are
/// saved to target/demo.
#[derive(Parser)]
#[command(
    name = "vchat-demo",
    version,
    after_help = "Example: a film and a voice instead of a camera and a microphone
  vchat-demo --camera file:talk.y4m --mic file:talk.wav"
)]
struct Args {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let Args { options } = Args::parse();
    match run(&options, Path::new(PHOTOS)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Without stderr there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "vchat-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where pictures of the windows go, below the directory that `make demo` runs in.
const PHOTOS: &str = "target/demo";
