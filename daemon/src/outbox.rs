//! Messages that wait for one client to read them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// The end into which messages are put, already encoded.
///
/// Bounded by bytes, because messages have from 4 bytes to 64 kB. Overflow: the message is not taken; whoever posts it closes
/// the connection as too slow.
#[derive(Clone)]
pub(crate) struct Outbox {
    // Unbounded in number; each message counts with what it costs at least.
    queue: mpsc::UnboundedSender<Bytes>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
}

/// The end from which they are sent.
pub(crate) struct Inbox {
    queue: mpsc::UnboundedReceiver<Bytes>,
    waiting: Arc<AtomicUsize>,
    /// What the message last taken still counts.
    taken: usize,
}

/// The client does not read what it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A queue for messages of so many bytes together.
pub(crate) fn new(limit: usize) -> (Outbox, Inbox) {
    let (sender, queue) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Outbox { queue: sender, waiting: waiting.clone(), limit }, Inbox { queue, waiting, taken: 0 })
}

impl Outbox {
    pub(crate) fn post(&self, message: Bytes) -> Result<(), Full> {
        let cost = cost(&message);
        if self.waiting.load(Ordering::Relaxed) + cost > self.limit {
            return Err(Full);
        }
        self.waiting.fetch_add(cost, Ordering::Relaxed);
        // Fails when the connection has ended; its task says so to the room.
        drop(self.queue.send(message));
        Ok(())
    }
}

impl Inbox {
    /// The next message; none when nobody can post any more. It counts until the one after it is asked for.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.waiting.fetch_sub(std::mem::take(&mut self.taken), Ordering::Relaxed);
        let message = self.queue.recv().await?;
        self.taken = cost(&message);
        Some(message)
    }
}

/// Messages are small: half of most is the handle, its place in the queue and what the allocator adds. Less than
/// [`LINE_COST`](vchat_proto::wire::limits::LINE_COST), so that a queue for a whole history takes it.
const fn cost(message: &Bytes) -> usize {
    message.len() + 96
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_or_is_being_sent_counts() {
        let message = Bytes::from_static(&[7; 1000]);
        let (outbox, mut inbox) = new(2 * cost(&message));
        outbox.post(message.clone()).expect("room");
        outbox.post(message.clone()).expect("room");
        assert_eq!(outbox.post(Bytes::new()), Err(Full));
        assert_eq!(inbox.next().await.as_ref(), Some(&message));
        assert_eq!(outbox.post(message.clone()), Err(Full), "the first is being sent");
        assert_eq!(inbox.next().await.as_ref(), Some(&message));
        outbox.post(message.clone()).expect("the first has been sent");
        drop(outbox);
        assert_eq!(inbox.next().await, Some(message));
        assert_eq!(inbox.next().await, None);
    }

    #[tokio::test]
    async fn crumbs_count_too() {
        let (outbox, _inbox) = new(100_000);
        let posted = (0..100_000).take_while(|_| outbox.post(Bytes::new()).is_ok()).count();
        assert!((500..2000).contains(&posted), "{posted}");
    }
}
