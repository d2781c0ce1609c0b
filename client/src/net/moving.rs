//! The connections beside the present one while the relay is taken over by another process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use vchat_certs::pin::Pin;
use vchat_proto::hop;
use vchat_proto::session::Loss;

use super::link::{Incoming, Link};
use super::run::Connecting;

/// The connection to the process that takes over, until it is the present one.
#[derive(Default)]
pub(crate) struct Next {
    pub(crate) connecting: Option<Connecting>,
    pub(crate) link: Option<(Link, Pin)>,
}

/// What comes of it.
pub(crate) enum NextNews {
    Connected(Result<(Link, Pin), Loss>),
    Incoming(Incoming),
}

impl Next {
    /// What happens next; never, while there is no such connection.
    pub(crate) async fn next(&mut self) -> NextNews {
        match (&mut self.connecting, &mut self.link) {
            (Some(connecting), _) => {
                let connected = connecting.await;
                self.connecting = None;
                NextNews::Connected(connected)
            }
            (None, Some((link, _))) => NextNews::Incoming(link.next().await),
            (None, None) => std::future::pending().await,
        }
    }
}

/// The connection that a move has left behind, for what is still on its way.
pub(crate) struct Before {
    link: Link,
    /// What came over the hop from the relay.
    pub(crate) receiver: hop::Receiver,
    /// When our media go another way.
    pub(crate) switch_at: Instant,
}

impl Before {
    pub(crate) const fn new(link: Link, receiver: hop::Receiver, switch_at: Instant) -> Self {
        Self { link, receiver, switch_at }
    }

    pub(crate) const fn connection(&self) -> &quinn::Connection {
        &self.link.connection
    }

    pub(crate) const fn hop(&mut self) -> (&quinn::Connection, &mut hop::Receiver) {
        (&self.link.connection, &mut self.receiver)
    }

    /// When nothing comes over it any more.
    pub(crate) fn until(&self) -> Instant {
        self.switch_at + LINGER
    }

    /// When something is due; `sends`: our media still go this way.
    pub(crate) fn poll_timeout(&self, sends: bool) -> Option<Instant> {
        let next = if sends { self.switch_at } else { self.until() };
        Some(self.receiver.poll_timeout().map_or(next, |report| report.min(next)))
    }

    /// The next datagram; none when the connection is lost.
    pub(crate) async fn datagram(before: Option<&mut Self>) -> Option<Bytes> {
        let Some(before) = before else { return std::future::pending().await };
        let connection = before.link.connection.clone();
        loop {
            tokio::select! {
                datagram = connection.read_datagram() => return datagram.ok(),
                // Of its streams only the end is of interest.
                incoming = before.link.next() => if let Incoming::Lost(_) = incoming {
                    return None;
                },
            }
        }
    }

    pub(crate) fn into_link(self) -> Link {
        self.link
    }

    /// Says goodbye, without making anybody wait.
    pub(crate) fn close(self) {
        tokio::spawn(async move { drop(tokio::time::timeout(FAREWELL, self.link.close()).await) });
    }
}

/// Some of the others may have been late to get their new connection, and send on the old one until then.
const LINGER: Duration = Duration::from_secs(2);
/// For the goodbye and its acknowledgement.
const FAREWELL: Duration = Duration::from_millis(500);
