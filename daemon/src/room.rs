//! The task of one room: owns its state machine and carries its outputs to the connections.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use vchat_proto::cc::Loss;
use vchat_proto::hop::Refresh;
use vchat_proto::id::{DisplayName, ParticipantId, RoomName, TrackId};
use vchat_proto::room::{Kept, Older, Output, Room};
use vchat_proto::units::Bitrate;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::datagram::{Media, MediaHeader};
use vchat_proto::wire::framing::frame;
use vchat_proto::wire::limits::MAX_PENDING;
use vchat_proto::wire::pb;

use crate::archive::{Archive, Failed, Receipt};
use crate::ceilings::Limits;
use crate::outbox::Outbox;
use crate::rooms::Rooms;
use crate::stats::{ClientStats, Dropped, RoomNumber};

/// Commands that may wait for a room. Media beyond that is dropped by whoever brings it; others wait for their turn.
pub(crate) const COMMANDS: usize = 1024;

/// What connections ask of a room.
pub(crate) enum Command {
    Join(Box<Join>),
    Control(ParticipantId, u64, pb::ClientControl),
    Chat(ParticipantId, pb::ChatUp),
    Media(ParticipantId, Media),
    /// What is sent of a track to this receiver needs a refresh.
    RefreshNeeded(ParticipantId, Refresh),
    /// What the hop to this receiver bears of video, and its losses.
    Hop(ParticipantId, Bitrate, Loss),
    /// Another process takes over; everybody is to send there from this time of the relay's clock on.
    GoAway {
        at_us: u64,
    },
    /// The connection that has this stable id is gone.
    Leave(ParticipantId, usize, pb::LeaveReason),
}

pub(crate) struct Join {
    pub(crate) pin: [u8; 32],
    /// The number that this client has had in this room.
    pub(crate) seat: Option<ParticipantId>,
    pub(crate) name: DisplayName,
    pub(crate) hello: pb::Hello,
    /// Those that hold now.
    pub(crate) limits: Limits,
    pub(crate) link: Link,
    pub(crate) answer: oneshot::Sender<Result<Joined, CloseCode>>,
}

/// Who somebody is in the room that took him in.
pub(crate) struct Joined {
    pub(crate) id: ParticipantId,
    /// The room for those who read metrics.
    pub(crate) room: RoomNumber,
}

/// The way to one participant's connection.
pub(crate) struct Link {
    pub(crate) connection: quinn::Connection,
    /// Overflow: the connection is closed as too slow; it can come back and catch up.
    pub(crate) control: Outbox,
    /// Overflow: as for control.
    pub(crate) chat: Outbox,
    /// Overflow: the newest is dropped; the receiver's sender task only falls this far behind when the machine is
    /// overloaded, and the receiver asks for a key frame.
    pub(crate) media: mpsc::Sender<ToReceiver>,
    pub(crate) stats: Arc<ClientStats>,
}

/// What a receiver's sender task is given.
pub(crate) enum ToReceiver {
    Media(MediaHeader, Bytes),
    TrackEnded(TrackId),
    /// The most video there is for it, payload only.
    VideoMax(Bitrate),
}

/// Where a room's chat is stored.
struct Shelf {
    archive: Archive,
    name: RoomName,
    /// Overflow: there is none, a room waits for fewer.
    receipts: mpsc::Sender<Receipt>,
    /// Pages that are being read, at most one for each participant.
    pages: JoinSet<(ParticipantId, Older, Option<Kept>)>,
}

impl Shelf {
    /// Reads a page in its own time: neither the room nor the archive waits for the other.
    fn read(&mut self, to: ParticipantId, older: Older) {
        let (archive, name) = (self.archive.clone(), self.name.clone());
        let page = async move { archive.page(name, older.before, older.lines()).await };
        self.pages.spawn(async move { (to, older, page.await.ok()) });
    }
}

/// Runs a room until it has been empty for [`LINGER`], or is the one that has been empty longest when there are too many.
pub(crate) async fn run(mut commands: mpsc::Receiver<Command>, rooms: Rooms, name: RoomName) {
    let archive = rooms.archive().clone();
    // A room without its chat is still a room.
    let kept = archive.open(name.clone()).await;
    let kept = kept.unwrap_or_else(|Failed| Kept { history: random(), ..Kept::default() });
    let mut room = Room::new(kept);
    let open = rooms.stats().open_room();
    let (receipts, mut stored) = mpsc::channel(MAX_PENDING);
    let mut shelf = Shelf { archive, name: name.clone(), receipts, pages: JoinSet::new() };
    let mut links: BTreeMap<ParticipantId, Link> = BTreeMap::new();
    let mut empty_since = Instant::now();
    loop {
        let timeout = room.poll_timeout();
        let linger = room.is_empty().then_some(empty_since + LINGER);
        let command = tokio::select! {
            biased;
            // Before the commands, of which there may always be one more.
            () = sleep_until(timeout) => {
                room.handle_timeout(Instant::now());
                deliver(&mut room, &mut links, &mut shelf);
                continue;
            }
            Some(Receipt { author, id, stored }) = stored.recv() => {
                room.handle_stored(author, id, stored);
                deliver(&mut room, &mut links, &mut shelf);
                continue;
            }
            Some(Ok((to, older, found))) = shelf.pages.join_next() => {
                room.handle_page(to, older, found);
                deliver(&mut room, &mut links, &mut shelf);
                continue;
            }
            command = commands.recv() => command,
            () = sleep_until(linger) => None,
            () = rooms.crowded(), if room.is_empty() => None,
        };
        let Some(command) = command else { break };
        if rooms.is_quiet() && matches!(command, Command::Chat(..)) {
            continue;
        }
        let occupied = !room.is_empty();
        handle(&mut room, &mut links, open.number, command);
        deliver(&mut room, &mut links, &mut shelf);
        if occupied == room.is_empty() {
            empty_since = Instant::now();
            rooms.note_occupied(!occupied);
        }
    }
    // Whoever is just joining finds the queue closed and asks for the room again.
    commands.close();
    rooms.ended(&name);
}

fn handle(room: &mut Room, links: &mut BTreeMap<ParticipantId, Link>, number: RoomNumber, command: Command) {
    let now = Instant::now();
    match command {
        Command::Join(join) => {
            let Join { pin, seat, name, hello, limits, link, answer } = *join;
            room.set_limits(limits.max_participants as usize, limits.client_video());
            let joined = room.join(now, pin, seat, name, &hello);
            match joined {
                Ok(id) => {
                    if let Some(old) = links.insert(id, link) {
                        vchat_quic::close(&old.connection, CloseCode::Goodbye);
                    }
                    if answer.send(Ok(Joined { id, room: number })).is_err() {
                        // The connection broke while it joined.
                        room.leave(now, id, pb::LeaveReason::Lost);
                        links.remove(&id);
                    }
                }
                Err(code) => drop(answer.send(Err(code))),
            }
        }
        Command::Control(from, relay_us, message) => room.handle_control(now, relay_us, from, message),
        Command::Chat(from, message) => room.handle_chat(now, unix_ms(), from, message),
        Command::Media(from, media) => room.handle_media(now, from, &media),
        Command::RefreshNeeded(from, Refresh { track, decoded }) => {
            room.request_refresh(now, from, track, decoded);
        }
        Command::Hop(to, budget, loss) => {
            room.handle_budget(now, to, budget);
            room.handle_loss(now, to, (loss.rate * 1e3) as u32, loss.burst_ms());
        }
        Command::GoAway { at_us } => {
            let body = pb::relay_control::Body::GoAway(pb::GoAway { at_us });
            let message = frame(&pb::RelayControl { body: Some(body) });
            // Who does not read finds the connection closed in a moment, and comes back by itself.
            links.values().for_each(|link| drop(link.control.post(message.clone())));
        }
        // Unless it has come back on another connection meanwhile.
        Command::Leave(id, connection, reason) => {
            if links.get(&id).is_none_or(|link| link.connection.stable_id() == connection) {
                room.leave(now, id, reason);
                links.remove(&id);
            }
        }
    }
}

/// Carries everything that the room has to say to the connections.
fn deliver(room: &mut Room, links: &mut BTreeMap<ParticipantId, Link>, shelf: &mut Shelf) {
    let mut slow = Vec::new();
    // What is said to everybody is encoded, and kept while it waits, once.
    let mut said: Option<(pb::ChatDown, Bytes)> = None;
    while let Some(output) = room.poll_output() {
        match output {
            Output::Media(to, header, body) => {
                if let Some(link) = links.get(&to)
                    && link.media.try_send(ToReceiver::Media(header, body)).is_err()
                {
                    link.stats.drop_one(Dropped::ReceiverBusy);
                }
            }
            Output::Page(to, older) => shelf.read(to, older),
            Output::Store(post) => shelf.archive.store(&shelf.name, post, &shelf.receipts),
            Output::VideoWanted(to, rate) => {
                if let Some(link) = links.get(&to) {
                    drop(link.media.try_send(ToReceiver::VideoMax(rate)));
                }
            }
            Output::Control(to, message) => {
                if let Some(link) = links.get(&to)
                    && link.control.post(frame(&message)).is_err()
                {
                    slow.push(to);
                }
            }
            Output::Chat(to, message) => {
                let Some(link) = links.get(&to) else { continue };
                let bytes = match &said {
                    Some((said, bytes)) if *said == message => bytes.clone(),
                    _ => frame(&message),
                };
                if link.chat.post(bytes.clone()).is_err() {
                    slow.push(to);
                }
                said = Some((message, bytes));
            }
            Output::TrackEnded(track) => {
                for link in links.values() {
                    drop(link.media.try_send(ToReceiver::TrackEnded(track)));
                }
            }
            Output::Close(id, code) => {
                if let Some(link) = links.remove(&id) {
                    tracing::info!(participant = id.0, "closing a connection: {}", code.reason());
                    vchat_quic::close(&link.connection, code);
                }
            }
        }
    }
    // The connection's own task reports that it left.
    for link in slow.into_iter().filter_map(|id| links.remove(&id)) {
        vchat_quic::close(&link.connection, CloseCode::TooSlow);
    }
}

/// Sleeps until a time, or for ever without one.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A random number that is not secret: std's hasher keys are random.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// How long an empty room stays, for people who drop out together and come back.
pub(crate) const LINGER: Duration = Duration::from_secs(600);
