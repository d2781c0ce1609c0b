//! Ending before the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Whether the user or the system wants the demo to end: Ctrl-C, SIGTERM, or a terminal that was closed.
///
/// From [`Self::watch`] on these signals end the program no more by themselves, so that the clients are ended in order.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn watch() -> anyhow::Result<Self> {
        let stop = Self(Arc::default());
        let asked = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot watch for signals")?;
        // Set up before this returns: a signal that comes at once must not be missed.
        let guard = runtime.enter();
        let mut signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        drop(guard);
        let watch = move || {
            runtime.block_on(async {
                let [interrupt, terminate, hangup] = &mut signals;
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            asked.0.store(true, Ordering::Relaxed);
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(watch)
            .context("cannot watch for signals")?;
        Ok(stop)
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
