//! `vchat-demo`: a call of two people on this machine, as `make demo` shows it.
//!
//! Ann and Bob are two real clients with a relay between them. With a display their windows stay until they are closed;
//! without, they are opened on a display without a screen, typed into, and photographed. Either way the delays measured
//! are told in the end.
//!
//! | module | job |
//! |---|---|
//! | `devices` | which camera, microphone, speaker and display there are, and who takes what |
//! | `stage` | starts and ends the programs |
//! | `script` | what happens in the windows when nobody is there |
//! | `verdict` | what was seen and heard, and whether that is a call |
//! | `stop` | Ctrl-C |

mod devices;
mod script;
mod stage;
mod stop;
mod verdict;

use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

pub use self::devices::Options;
use self::devices::Plan;
use self::stage::Stage;
use self::stop::Stop;
use self::verdict::{Checks, Verdict};

/// Shows a call. Returns whether it was one: each saw the other's picture move, heard the other, and, where nobody sat at
/// the windows, read the other's words.
pub fn run(options: &Options, photos: &Path) -> anyhow::Result<bool> {
    let stop = Stop::watch()?;
    let plan = Plan::make(options)?;
    say(&plan.to_string())?;
    let mut stage = Stage::start(&plan)?;
    let theatre = stage.take_display();
    let checks = match &theatre {
        None => {
            say("Two windows are open: Ann's and Bob's. Close both, or press Ctrl-C here, to end the call.")?;
            while !stop.is_asked() && !stage.is_over()? {
                thread::sleep(LOOK);
            }
            Checks { chat: None }
        }
        Some(theatre) => {
            let chat = script::play(&mut stage, theatre, &stop, photos)?;
            say(&format!("What the windows showed: {0}/ann.png and {0}/bob.png", photos.display()))?;
            Checks { chat: Some(chat) }
        }
    };
    let statistics = stage.end()?;
    let verdict = Verdict::of(&statistics, checks);
    say(&verdict.to_string())?;
    Ok(verdict.is_good())
}

fn say(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Closing a window is noticed this soon.
const LOOK: Duration = Duration::from_millis(50);
