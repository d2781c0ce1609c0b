//! Somebody who writes, and checks that chat is what it has to be: every line once, in one order, without a gap.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use vchat_proto::stats::Distribution;
use vchat_proto::wire::pb;

use super::guest::{Guest, Stream};

/// The chat stream of a guest.
pub(super) struct Writer {
    stream: Stream,
    /// Different for each writer of a room.
    number: u32,
    written: u32,
    /// When what is not answered yet was written.
    waiting: BTreeMap<u32, Instant>,
    /// Own lines that have not come back.
    unseen: BTreeSet<u32>,
    /// The number of the next line; zero before it is known.
    next: u64,
    /// What became of its lines.
    pub(super) tally: Tally,
}

/// What became of lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) stored: u64,
    pub(super) refused: u64,
    /// From writing each to its acknowledgement.
    pub(super) delays: Distribution,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.refused += other.refused;
        self.delays.merge(&other.delays);
    }
}

impl Writer {
    pub(super) async fn open(guest: &Guest, number: u32) -> anyhow::Result<Self> {
        let stream = guest.chat().await?;
        let (waiting, unseen) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { stream, number, written: 0, waiting, unseen, next: 0, tally: Tally::default() })
    }

    /// Writes a line.
    pub(super) async fn write(&mut self, text: &str) -> anyhow::Result<()> {
        let (n, now) = (self.written, Instant::now());
        self.written += 1;
        self.waiting.insert(n, now);
        self.unseen.insert(n);
        let id = [MARK, &self.number.to_be_bytes(), &n.to_be_bytes()].concat();
        let post = pb::chat_up::Body::Post(pb::Post { id, text: text.into() });
        self.stream.send(&pb::ChatUp { body: Some(post) }).await
    }

    /// Takes what comes next. May be given up while it waits, and asked again.
    ///
    /// # Errors
    /// A line is missing or doubled, or the connection is gone.
    pub(super) async fn read(&mut self) -> anyhow::Result<()> {
        match self.stream.receive::<pb::ChatDown>().await?.body.context("an empty message")? {
            pb::chat_down::Body::History(history) => self.next = history.after_seq + 1,
            pb::chat_down::Body::Line(line) => {
                ensure!(line.seq == self.next, "line {} came where {} was due", line.seq, self.next);
                self.next += 1;
                if let Some(n) = self.own(&line.id) {
                    ensure!(self.unseen.remove(&n), "line {n} of writer {} is doubled", self.number);
                }
            }
            pb::chat_down::Body::Ack(ack) => {
                let delay = self.answered(&ack.id)?.as_micros();
                self.tally.stored += 1;
                self.tally.delays.record(i64::try_from(delay)?);
            }
            pb::chat_down::Body::Refusal(refusal) => {
                self.answered(&refusal.id)?;
                self.tally.refused += 1;
                if let Some(n) = self.own(&refusal.id) {
                    self.unseen.remove(&n);
                }
            }
            pb::chat_down::Body::Page(_) => bail!("a page came that nobody asked for"),
        }
        Ok(())
    }

    /// Waits until every line is answered and has come back.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        self.until(|writer| writer.waiting.is_empty() && writer.unseen.is_empty()).await
    }

    /// Waits for all lines up to this number.
    pub(super) async fn catch_up(&mut self, last: u64) -> anyhow::Result<()> {
        self.until(|writer| writer.next > last).await
    }

    /// Lines that are not answered.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The number of the last line that came; zero without one.
    pub(super) const fn last(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    async fn until(&mut self, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            let Ok(read) = tokio::time::timeout_at(end.into(), self.read()).await else {
                bail!(
                    "of {} lines of writer {}, {} were not answered and {} did not come back",
                    self.written,
                    self.number,
                    self.waiting.len(),
                    self.unseen.len()
                );
            };
            read?;
        }
        Ok(())
    }

    fn answered(&mut self, id: &[u8]) -> anyhow::Result<Duration> {
        let written = self.own(id).and_then(|n| self.waiting.remove(&n));
        Ok(written.context("an answer to nothing, or a second one")?.elapsed())
    }

    /// Which of its own lines has this identity.
    fn own(&self, id: &[u8]) -> Option<u32> {
        let n = id.strip_prefix(MARK)?.strip_prefix(&self.number.to_be_bytes())?;
        Some(u32::from_be_bytes(n.try_into().ok()?))
    }
}

/// An identity is 16 bytes.
const MARK: &[u8] = b"benchwri";

/// Far longer than a disk takes.
const PATIENCE: Duration = Duration::from_secs(10);
