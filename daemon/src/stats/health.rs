//! Whether the relay works, for those who ask from outside.

use std::time::Duration;

use tokio::time::timeout;

use crate::probe::Probe;
use crate::server::Shared;

/// What there is to say: good news if `well`.
pub(super) struct Health {
    pub(super) well: bool,
    /// A line each.
    pub(super) lines: Vec<String>,
}

/// Asks everything on which calls depend. Chat that cannot be stored is told but is no failure: calls go on without it.
pub(super) async fn examine(shared: &Shared, probe: &Probe) -> Health {
    let registry = timeout(PATIENCE, shared.registry.ask(|_| ()));
    let archive = timeout(PATIENCE, shared.rooms.archive().answers());
    let (registry, archive, probed) = tokio::join!(registry, archive, probe.verdict(PATIENCE));
    let mut lines = Vec::new();
    if let Err(why) = probed {
        lines.push(why);
    }
    if !matches!(registry, Ok(Ok(()))) {
        lines.push("the registry of devices does not answer".into());
    }
    if archive.is_err() {
        lines.push("the archive of chat does not answer".into());
    }
    let load = *shared.stats.load().borrow();
    let late = load.short.loop_delay;
    if late > LATE {
        lines.push(format!("the relay is overloaded: somebody waited for {} ms", late.as_millis()));
    }
    let well = lines.is_empty();
    if well {
        lines.push("ok".into());
    }
    if shared.rooms.archive().stats().broken.get() > 0 {
        lines.push("chat cannot be stored: the last line was not".into());
    }
    lines.push(format!("memory {} MB", load.memory_bytes / 1_000_000));
    Health { well, lines }
}

/// What answers later than this does not work.
const PATIENCE: Duration = Duration::from_secs(2);
/// As long as a wait must be for sound to break off at the largest playout buffer.
const LATE: Duration = Duration::from_millis(500);
