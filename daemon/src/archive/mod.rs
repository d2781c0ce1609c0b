//! The chat of all rooms, kept by one thread.
//!
//! The thread owns the [`Book`]. What waits for it when it is free becomes one transaction, so the more is written at once the
//! less each line costs; and nothing is answered before it is on the disk.

mod book;
mod calendar;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use vchat_proto::id::{ChatId, RoomName};
use vchat_proto::room::{Author, Kept, Post, Stored};

pub(crate) use self::book::Retention;
use self::book::{Book, BookError};
use self::calendar::Calendar;
use crate::registry::unix_ms_now;
use crate::stats::ChatStats;

/// The way to the thread. It ends with the last of these.
#[derive(Clone)]
pub(crate) struct Archive(mpsc::Sender<Job>, Arc<ChatStats>);

/// What became of a post, for the room that it came from.
pub(crate) struct Receipt {
    pub(crate) author: Author,
    pub(crate) id: ChatId,
    pub(crate) stored: Stored,
}

/// It was not done; the log says why.
#[derive(Debug, thiserror::Error)]
#[error("the chat cannot be read or written; the relay's log says why")]
pub(crate) struct Failed;

/// Where the receipts of a room go. Never full: a room waits for at most so many.
type Receipts = mpsc::Sender<Receipt>;

enum Job {
    Open {
        room: RoomName,
        answer: oneshot::Sender<Result<Kept, Failed>>,
    },
    /// `asked`: when.
    Store {
        room: RoomName,
        post: Post,
        receipts: Receipts,
        asked: Instant,
    },
    Page {
        room: RoomName,
        before: u64,
        limit: u32,
        answer: oneshot::Sender<Result<Kept, Failed>>,
    },
    Forget {
        now_ms: u64,
    },
    Retain(Retention),
    Answer(oneshot::Sender<()>),
    Stop,
}

impl Archive {
    /// Opens the file in the state directory and starts the thread. A file that is damaged is moved aside, and another begun. The
    /// receiver resolves when the thread has ended.
    ///
    /// # Errors
    /// There is no file and none can be made, or it is of a later version.
    pub(crate) fn start(
        state_dir: &Path,
        retention: Retention,
    ) -> anyhow::Result<(Self, oneshot::Receiver<()>)> {
        let book = Book::open(state_dir, retention)?;
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let (ending, ended) = oneshot::channel();
        let stats = Arc::new(ChatStats::default());
        let counted = stats.clone();
        let run = move || {
            // The file is closed before anybody can see that the thread has ended.
            drop(work(book, &mut queue, &counted));
            drop(queue);
            drop(ending);
        };
        std::thread::Builder::new().name("archive".into()).spawn(run)?;
        Ok((Self(jobs, stats), ended))
    }

    /// What became of the lines so far.
    pub(crate) const fn stats(&self) -> &Arc<ChatStats> {
        &self.1
    }

    /// What is kept of a room's chat.
    pub(crate) async fn open(&self, room: RoomName) -> Result<Kept, Failed> {
        self.ask(|answer| Job::Open { room, answer }).await
    }

    /// Lines of a room with smaller numbers than `before`, the newest `limit` of them, oldest first.
    pub(crate) async fn page(&self, room: RoomName, before: u64, limit: u32) -> Result<Kept, Failed> {
        self.ask(|answer| Job::Page { room, before, limit, answer }).await
    }

    /// Stores a line. The receipt comes when it is on the disk, or cannot be; where nothing more can wait for the disk, at once.
    pub(crate) fn store(&self, room: &RoomName, post: Post, receipts: &Receipts) {
        let asked = Instant::now();
        let job = Job::Store { room: room.clone(), post, receipts: receipts.clone(), asked };
        if let Err(mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) =
            self.0.try_send(job)
            && let Job::Store { post, receipts, .. } = job
        {
            self.1.failed.add(1);
            give(&receipts, &post, Stored::Failed);
        }
    }

    /// Forgets what is too old, now and then. Never ends.
    pub(crate) async fn keep_tidy(self) {
        let mut tick = tokio::time::interval_at((Instant::now() + SETTLED).into(), TIDY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut calendar = Calendar::default();
        loop {
            tick.tick().await;
            let now_ms = calendar.time(Instant::now(), unix_ms_now());
            // When there is too much else to do, the next hour is as good.
            drop(self.0.try_send(Job::Forget { now_ms }));
        }
    }

    /// Waits until the thread has got as far as this.
    pub(crate) async fn answers(&self) {
        let (answer, answered) = oneshot::channel();
        if self.0.send(Job::Answer(answer)).await.is_ok() {
            drop(answered.await);
        }
    }

    /// Keeps so much from now on.
    pub(crate) async fn retain(&self, retention: Retention) {
        drop(self.0.send(Job::Retain(retention)).await);
    }

    /// Ends the thread when it has done what it was asked before, whoever may still want to ask.
    pub(crate) async fn stop(&self) {
        drop(self.0.send(Job::Stop).await);
    }

    /// Waits until the thread has ended.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, Failed>>) -> Job) -> Result<T, Failed> {
        let (answer, answered) = oneshot::channel();
        self.0.send(job(answer)).await.map_err(|_| Failed)?;
        answered.await.unwrap_or(Err(Failed))
    }
}

/// Works until nobody can ask any more.
fn work(mut book: Book, queue: &mut mpsc::Receiver<Job>, stats: &ChatStats) -> Book {
    let (mut complained, mut stops) = (false, false);
    while !stops && let Some(first) = queue.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.len() < BATCH
            && let Ok(job) = queue.try_recv()
        {
            jobs.push(job);
        }
        stops = jobs.iter().any(|job| matches!(job, Job::Stop));
        let answers = match book.transaction(|book| jobs.iter().map(|job| answer(book, job)).collect()) {
            Ok(answers) => {
                // Reading works on a full disk, too.
                if complained && jobs.iter().any(|job| matches!(job, Job::Store { .. })) {
                    tracing::info!("chat is stored again");
                    complained = false;
                }
                answers
            }
            Err(e) => {
                // Once, not for each line: a disk stays full for hours.
                if !complained {
                    tracing::error!("chat cannot be stored: {e}");
                }
                complained = !book.mend(&e);
                Vec::new()
            }
        };
        let mut answers = answers.into_iter();
        jobs.into_iter().for_each(|job| {
            let answer = answers.next();
            count(stats, &job, answer.as_ref());
            send(job, answer);
        });
    }
    book
}

/// What is answered when the transaction is committed.
enum Answer {
    Kept(Kept),
    Stored(Stored),
    Done,
}

fn answer(book: &mut Book, job: &Job) -> Result<Answer, BookError> {
    match job {
        Job::Open { room, .. } => book.kept(room).map(Answer::Kept),
        Job::Store { room, post, .. } => book.store(room, post).map(Answer::Stored),
        Job::Page { room, before, limit, .. } => book.page(room, *before, *limit).map(Answer::Kept),
        Job::Forget { now_ms } => book.forget(*now_ms).map(|()| Answer::Done),
        Job::Retain(retention) => {
            book.retain(*retention);
            Ok(Answer::Done)
        }
        Job::Answer(_) | Job::Stop => Ok(Answer::Done),
    }
}

fn count(stats: &ChatStats, job: &Job, answer: Option<&Answer>) {
    let Job::Store { asked, .. } = job else { return };
    stats.broken.set(0);
    match answer {
        Some(Answer::Stored(Stored::New { .. })) => stats.stored.record(asked.elapsed()),
        Some(Answer::Stored(Stored::Known(_))) => stats.known.add(1),
        _ => {
            stats.failed.add(1);
            stats.broken.set(1);
        }
    }
}

/// `None`: nothing of the transaction was done.
fn send(job: Job, answer: Option<Answer>) {
    // Those who asked may be gone.
    match (job, answer) {
        (Job::Store { post, receipts, .. }, Some(Answer::Stored(stored))) => give(&receipts, &post, stored),
        (Job::Store { post, receipts, .. }, _) => give(&receipts, &post, Stored::Failed),
        (Job::Open { answer, .. } | Job::Page { answer, .. }, Some(Answer::Kept(kept))) => {
            drop(answer.send(Ok(kept)));
        }
        (Job::Open { answer, .. } | Job::Page { answer, .. }, _) => drop(answer.send(Err(Failed))),
        (Job::Answer(answer), _) => drop(answer.send(())),
        (Job::Forget { .. } | Job::Retain(_) | Job::Stop, _) => {}
    }
}

fn give(receipts: &Receipts, post: &Post, stored: Stored) {
    drop(receipts.try_send(Receipt { author: post.author, id: post.id, stored }));
}

/// Jobs that may wait: those of a few full rooms whose members all come back at once.
const QUEUE: usize = 4096;
/// Jobs of one transaction, so that the first does not wait long for the last.
const BATCH: usize = 256;
/// How often old lines are looked for.
const TIDY: Duration = Duration::from_secs(3600);
/// Before the first look: a machine that starts with a wrong clock has set it by then.
const SETTLED: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
