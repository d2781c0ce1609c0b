//! `vchat-bench`: what a call is like, measured on real programs.
//!
//! | module | job |
//! |---|---|
//! | `options` | the command line, checked |
//! | `profile` | the networks |
//! | `stage` | relay, lines, devices and clients of a call |
//! | `call` | one call of two: waits, collects |
//! | `group` | one call of four of whom one has a bad line |
//! | `pixels`, `clip` | delay and freezes of pictures; a film to compare pictures with |
//! | `sound`, `chirps` | gaps and delay of sound |
//! | `speech`, `stoi` | somebody who speaks, and how well that is understood |
//! | `traffic`, `chat`, `cpu` | bytes on the lines, messages, time computed |
//! | `outages`, `step` | how a call recovers, how it follows the rate of a link |
//! | `metrics` | all figures by name |
//! | `bars` | what they have to reach |
//! | `report` | the calls of one command as text or JSON |
//! | `table`, `page`, `anchor` | all calls as a page beside another system's figures |
//! | `machine` | where all this was measured |
//! | `flood` | a call while its relay is flooded |
//! | `kills`, `crowd` | a relay that is killed: the chat, and how long people notice |
//! | `succession` | a relay that another process takes over from |
//! | `soak` | a relay for a long time |
//! | `posts` | how fast chat is stored |
//! | `memory` | what clients and strangers can make a relay hold |
//! | `stoi` | how well speech is understood |
//! | `guest`, `attendee`, `writer` | clients made by hand, their sound and pictures, their chat |
//! | `resident` | the memory of a process |

mod anchor;
mod attendee;
mod bars;
mod call;
mod chat;
mod chirps;
mod clip;
mod cpu;
pub mod crowd;
pub mod flood;
mod group;
mod guest;
pub mod kills;
mod machine;
pub mod memory;
mod metrics;
mod options;
mod outages;
mod page;
mod pixels;
pub mod posts;
mod profile;
mod report;
mod resident;
pub mod soak;
mod sound;
mod speech;
mod stage;
mod step;
pub mod stoi;
pub mod succession;
mod table;
mod traffic;
mod writer;

use std::io::Write;
use std::time::Duration;

pub use crowd::{RestartOptions, run_restart};
pub use flood::{FloodOptions, run_flood};
pub use kills::{KillsOptions, chat_while_killed, run_kills};
pub use memory::{MemoryOptions, run_memory};
pub use options::{CallOptions, TableOptions};
pub use posts::{ChatOptions, run_chat};
pub use profile::Profile;
pub use soak::{ShortConnections, SoakOptions, run_soak, short_connections};
pub use succession::{HandoverOptions, run_handover};
pub use table::run_table;

use self::machine::Machine;
use self::metrics::Measured;
use self::options::Setup;
use self::report::{Report, Row};

/// Measures one call, or the two of which the profile makes one figure.
fn measure(setup: &Setup, seconds: Duration, seed: u64) -> anyhow::Result<Measured> {
    let time = setup.profile.time(seconds);
    if setup.profile.clients() == 2 {
        call::measure(setup, time, seed)
    } else {
        group::measure(setup, time, seed)
    }
}

/// Measures calls as the options say, and prints the result to stdout and the progress to stderr.
///
/// A target that is missed is reported and is no error.
pub fn run_call(options: &CallOptions) -> anyhow::Result<()> {
    let machine = Machine::read();
    let setups = options.setups();
    let mut rows: Vec<Row> = setups.into_iter().map(Row::new).collect();
    let mut stderr = std::io::stderr();
    // Round by round, so that a busy minute of the machine touches all setups alike.
    for round in 1..=options.runs {
        for row in &mut rows {
            writeln!(stderr, "run {round} of {}: {}", options.runs, row.setup)?;
            row.runs.push(measure(&row.setup, options.seconds, u64::from(round))?);
        }
    }
    let report = Report { machine, seconds: options.seconds, rows };
    let text = if options.json { report.json().to_string() } else { report.to_string() };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
