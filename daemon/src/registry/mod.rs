//! Who may come in: devices, invites and codes, kept by one thread.
//!
//! The thread owns the [`Ledger`] and does what it is asked, one thing after the other; a commit waits for the disk there and
//! nowhere else. Connections ask when they begin and end, never for a message or a datagram.

mod devices;
mod invites;
mod ledger;
#[cfg(test)]
mod tests;

use tokio::sync::{mpsc, oneshot};

pub(crate) use self::devices::{Admission, Device, Role, SelectError};
pub(crate) use self::invites::{CodeBegin, Grant, Invited, OpenInvites, Refusal};
pub(crate) use self::ledger::{Ledger, unix_ms_now};

enum Job {
    Do(Box<dyn FnOnce(&mut Ledger) + Send>),
    Stop,
}

/// The way to the thread. It ends with the last of these.
#[derive(Clone)]
pub(crate) struct Registry(mpsc::Sender<Job>);

/// The thread has ended, which only a bug makes it do: the relay stops.
#[derive(Debug, thiserror::Error)]
#[error("the registry of devices has failed")]
pub(crate) struct Closed;

impl Registry {
    /// Starts the thread. The receiver resolves when it has ended and the directory is free for another relay.
    pub(crate) fn start(mut ledger: Ledger) -> std::io::Result<(Self, oneshot::Receiver<()>)> {
        let (sender, mut jobs) = mpsc::channel::<Job>(QUEUE);
        let (ending, ended) = oneshot::channel::<()>();
        let work = move || {
            while let Some(Job::Do(job)) = jobs.blocking_recv() {
                job(&mut ledger);
            }
            drop(ledger);
            drop(ending);
        };
        std::thread::Builder::new().name("registry".into()).spawn(work)?;
        Ok((Self(sender), ended))
    }

    /// Asks and waits for the answer. What was asked is done even when nobody waits any more.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Ledger) -> T + Send + 'static,
    ) -> Result<T, Closed> {
        let (answer, answered) = oneshot::channel();
        // The asker may be gone by then.
        let job = Box::new(move |ledger: &mut Ledger| drop(answer.send(question(ledger))));
        self.0.send(Job::Do(job)).await.map_err(|_| Closed)?;
        answered.await.map_err(|_| Closed)
    }

    /// Tells something that nobody waits for. Overflow: it is not done, so only what may be lost is told like this.
    pub(crate) fn tell(&self, news: impl FnOnce(&mut Ledger) + Send + 'static) {
        drop(self.0.try_send(Job::Do(Box::new(news))));
    }

    /// Ends the thread when it has done what it was asked before, whoever may still want to ask.
    pub(crate) async fn stop(&self) {
        drop(self.0.send(Job::Stop).await);
    }

    /// Waits until the thread has ended.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Every connection asks for one thing at a time.
const QUEUE: usize = 1024;
