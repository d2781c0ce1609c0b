//! The task that sends one receiver its media.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::SendDatagramError;
use tokio::sync::{mpsc, watch};
use vchat_proto::hop::{Sender, Settings};
use vchat_proto::id::ParticipantId;
use vchat_proto::units::Bitrate;
use vchat_proto::wire::hop::Report;
use vchat_proto::wire::limits::MAX_DATAGRAM;

use crate::ceilings::Ceilings;
use crate::room::{Command, ToReceiver, sleep_until};
use crate::stats::ClientStats;

/// Where the task gets what it needs, and whom it tells.
pub(crate) struct Ways {
    pub(crate) from_room: mpsc::Receiver<ToReceiver>,
    /// What the receiver reports of what was sent.
    pub(crate) reports: mpsc::Receiver<Report>,
    pub(crate) to_room: mpsc::Sender<Command>,
    /// How much video each receiver may have of what the relay may send.
    pub(crate) ceilings: watch::Receiver<Ceilings>,
    pub(crate) stats: Arc<ClientStats>,
}

/// Takes media from the room as fast as it comes and hands it to QUIC as the hop to the receiver bears it ([`Sender`]); tells
/// the room what that is. Ends with the connection.
pub(crate) async fn run(connection: quinn::Connection, receiver: ParticipantId, mut ways: Ways) {
    let mut sender = Sender::new(Instant::now(), Settings { start: START, video_max: FIRST_VIDEO });
    let mut told = Told::default();
    // What the room has for this receiver.
    let mut wanted = FIRST_VIDEO;
    // The datagram at QUIC's door, which is closed: its own window is a fuse that rarely blows.
    let mut at_door: Option<Bytes> = None;
    loop {
        let timeout = if at_door.is_some() { None } else { sender.poll_timeout() };
        tokio::select! {
            next = ways.from_room.recv() => {
                let Some(next) = next else { return };
                take(&mut sender, next, &mut wanted);
                while let Ok(next) = ways.from_room.try_recv() {
                    take(&mut sender, next, &mut wanted);
                }
            }
            report = ways.reports.recv() => {
                let Some(report) = report else { return };
                sender.handle_report(Instant::now(), &report);
            }
            passed = door(&connection, at_door.as_ref()) => {
                if !passed {
                    return;
                }
                ways.stats.sent.count(at_door.take().map_or(0, |datagram| datagram.len()));
            }
            () = sleep_until(timeout) => {}
        }
        sender.handle_timeout(Instant::now());
        while at_door.is_none()
            && let Some(datagram) = sender.poll_datagram(Instant::now())
        {
            if connection.datagram_send_buffer_space() < MAX_DATAGRAM {
                at_door = Some(datagram);
            } else {
                ways.stats.sent.count(datagram.len());
                match connection.send_datagram(datagram) {
                    // On a path with small packets what does not fit is lost, like any other.
                    Ok(()) | Err(SendDatagramError::TooLarge) => {}
                    Err(_) => return,
                }
            }
        }
        while let Some(refresh) = sender.poll_refresh() {
            // Lost when the room is overloaded; the queue asks again.
            drop(ways.to_room.try_send(Command::RefreshNeeded(receiver, refresh)));
        }
        if told.is_due(Instant::now(), &sender) {
            let share = ways.ceilings.borrow().share;
            sender.set_video_max(share.map_or(wanted, |share| share.min(wanted)));
            ways.stats.note_hop(&sender);
            let target = sender.video_target();
            let budget = share.map_or(target, |share| share.min(target));
            drop(ways.to_room.try_send(Command::Hop(receiver, budget, sender.residual_loss())));
        }
    }
}

fn take(sender: &mut Sender, item: ToReceiver, wanted: &mut Bitrate) {
    match item {
        ToReceiver::Media(header, body) => sender.push(Instant::now(), header, body),
        ToReceiver::TrackEnded(track) => sender.forget(track),
        ToReceiver::VideoMax(max) => {
            *wanted = max;
            sender.set_video_max(max);
        }
    }
}

/// Waits until QUIC has taken the datagram. False when the connection is lost.
async fn door(connection: &quinn::Connection, datagram: Option<&Bytes>) -> bool {
    match datagram {
        Some(datagram) => matches!(
            connection.send_datagram_wait(datagram.clone()).await,
            Ok(()) | Err(SendDatagramError::TooLarge)
        ),
        None => std::future::pending().await,
    }
}

/// What the room was told of this hop last.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
}

impl Told {
    /// Whether the room should be told now.
    fn is_due(&mut self, now: Instant, sender: &Sender) -> bool {
        if !sender.is_measured() || self.at.is_some_and(|t| now < t + TELL_EVERY) {
            return false;
        }
        self.at = Some(now);
        true
    }
}

/// What a hop bears before it is known: sound, and a picture of somebody.
const START: Bitrate = Bitrate::from_kbps(400);
/// What the room has to show, until it says more.
const FIRST_VIDEO: Bitrate = Bitrate::from_kbps(1_000);
/// Soon enough for the room to react to a narrow hop before its queue is felt.
const TELL_EVERY: Duration = Duration::from_millis(100);
