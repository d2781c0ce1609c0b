//! `vchat-bench`: what a call is like, measured on real programs.
//!
//! | module | job |
//! |---|---|
//! | `options` | the command line, checked |
//! | `profile` | the networks |
//! | `call` | one call: starts everything, waits, collects |
//! | `pixels`, `chirps`, `cpu` | delay of pictures, delay of sound, time computed |
//! | `report` | many calls as a table or JSON, and which targets they meet |
//! | `machine` | where all this was measured |
//! | `flood` | a call while its relay is flooded |
//! | `memory` | what clients and strangers can make a relay hold |
//! | `stoi` | how well speech is understood |
//! | `guest`, `resident` | clients made by hand, the memory of a process |

mod call;
mod chirps;
mod cpu;
pub mod flood;
mod guest;
mod machine;
pub mod memory;
mod options;
mod pixels;
mod profile;
mod report;
mod resident;
pub mod stoi;

use std::io::Write;

pub use flood::{FloodOptions, run_flood};
pub use memory::{MemoryOptions, run_memory};
pub use options::CallOptions;
pub use profile::Profile;

use self::machine::Machine;
use self::report::{Report, Row};

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
            row.runs.push(call::measure(&row.setup, options.seconds, u64::from(round))?);
        }
    }
    let report = Report { machine, seconds: options.seconds, rows };
    let text = if options.json { report.json().to_string() } else { report.to_string() };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
