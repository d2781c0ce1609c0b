//! One client's connection, from the end of the handshake to the goodbye.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use vchat_certs::pin::{Pin, peer_pin};
use vchat_certs::tls::Purpose;
use vchat_proto::admission::Outcome;
use vchat_proto::bucket::TokenBucket;
use vchat_proto::hop;
use vchat_proto::id::{DisplayName, ParticipantId, RoomName};
use vchat_proto::units::Bitrate;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::datagram::DatagramError;
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::hop::{Packet, Report};
use vchat_proto::wire::limits::{
    HELLO_TIMEOUT, MAX_CLIENT_MESSAGE, MAX_HELLO, MAX_HISTORY, MAX_MESSAGE, MEDIA_RATE,
};
use vchat_proto::wire::{STREAM_CHAT, STREAM_CONTROL, pb};

use crate::admin;
use crate::history;
use crate::keys::{self, Shown};
use crate::outbox::{self, Inbox, Outbox};
use crate::pairing::{self, Desk};
use crate::probe;
use crate::registry::{Admission, Device, Ledger, unix_ms_now};
use crate::room::{Command, Join, Joined, Link, ToReceiver, sleep_until};
use crate::seats::Seat;
use crate::sender;
use crate::server::{Attempt, Shared};
use crate::stats::{ClientStats, Dropped, RoomNumber};

/// Serves a client that has met the relay with the key `relay`: pairs it, or takes it into a room until it leaves, breaks the
/// protocol or vanishes.
pub(crate) async fn serve(connection: Connection, relay: Pin, shared: &Shared, attempt: Attempt) {
    let Some(pin) = peer_pin(connection.peer_identity()) else {
        return vchat_quic::close(&connection, CloseCode::Protocol);
    };
    // Only the relay has its key.
    if pin == relay {
        attempt.settle(Outcome::Member);
        return probe::answer(&connection).await;
    }
    match purpose(&connection) {
        Some(Purpose::Pair) => {
            let desk = Desk { registry: shared.registry.clone(), relay, keys: shared.keys.clone() };
            attempt.settle(pairing::serve(&connection, pin, &desk).await);
        }
        Some(purpose @ (Purpose::Call | Purpose::Admin | Purpose::History)) => {
            let entry = shared.members.enter(pin, &connection);
            match admit(pin, shared).await {
                Ok(device) => {
                    attempt.settle(Outcome::Member);
                    match purpose {
                        Purpose::Admin => admin::serve(&connection, &device, shared).await,
                        Purpose::History => history::serve(&connection, &device, shared).await,
                        Purpose::Call | Purpose::Pair => call(connection, device, relay, shared).await,
                    }
                }
                Err(code) => {
                    tracing::info!(address = %connection.remote_address(), fingerprint = %pin, "refused a device: {}", code.reason());
                    shared.stats.events().refused(code);
                    vchat_quic::close(&connection, code);
                    let stranger = matches!(code, CloseCode::NotPaired | CloseCode::Revoked);
                    attempt.settle(if stranger { Outcome::Failed { proven: true } } else { Outcome::Gone });
                }
            }
            drop(entry);
        }
        None => vchat_quic::close(&connection, CloseCode::Protocol),
    }
}

/// Whether one more may come into any room.
fn has_room(shared: &Shared) -> Result<(), CloseCode> {
    if shared.ceilings.borrow().reached {
        return Err(CloseCode::Overloaded);
    }
    let most = shared.settings.borrow().limits.max_clients as usize;
    if shared.stats.participants() < most { Ok(()) } else { Err(CloseCode::RelayFull) }
}

/// What both sides agreed on in the handshake.
fn purpose(connection: &Connection) -> Option<Purpose> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Purpose::of_alpn(&data.protocol?)
}

/// Looks the client's key up: the one gate between strangers and everything below.
async fn admit(pin: Pin, shared: &Shared) -> Result<Device, CloseCode> {
    let first_use = shared.settings.borrow().trust_on_first_use;
    let look_up = move |l: &mut Ledger| {
        if first_use { l.admission_on_first_use(unix_ms_now(), pin) } else { l.admission(pin) }
    };
    // The registry fails only with the whole relay.
    let known = shared.registry.ask(look_up).await.map_err(|_| CloseCode::ShuttingDown)?;
    let device = match known {
        Ok(Admission::Member(device)) => device,
        Ok(Admission::Revoked) => return Err(CloseCode::Revoked),
        Ok(Admission::Unknown) => return Err(CloseCode::NotPaired),
        Err(e) => {
            tracing::error!("a device could not be looked up: {e}");
            return Err(CloseCode::ShuttingDown);
        }
    };
    if !shared.members.is_within_limits(Instant::now(), pin) {
        return Err(CloseCode::TooFast);
    }
    Ok(device)
}

/// Serves a device that may be here.
async fn call(connection: Connection, device: Device, relay: Pin, shared: &Shared) {
    let (address, pin) = (connection.remote_address(), device.pin);
    shared.registry.tell(move |l| drop(l.seen(unix_ms_now(), pin)));
    let greeting =
        without_media(&connection, Gone::Refused(CloseCode::Protocol), greet(&connection, device, shared));
    let guest = match tokio::time::timeout(HELLO_TIMEOUT, greeting).await {
        Ok(Ok(guest)) => guest,
        Ok(Err(Gone::Connection)) => return tracing::debug!(%address, "left before the hello"),
        Ok(Err(Gone::Refused(code))) => {
            tracing::info!(%address, "refused a client: {}", code.reason());
            shared.stats.events().refused(code);
            return vchat_quic::close(&connection, code);
        }
        Err(_) => {
            shared.stats.events().refused(CloseCode::HelloTimeout);
            return vchat_quic::close(&connection, CloseCode::HelloTimeout);
        }
    };
    vchat_quic::welcome(&connection);
    let (id, room) = (guest.id, guest.room.clone());
    tracing::info!(participant = id.0, %address, fingerprint = %pin, agent = %guest.agent, "joined");
    let present = shared.stats.enter(guest.room_number, id, &connection, guest.stats.clone());
    let end = attend(&connection, guest, Keys { device: pin, relay }, shared).await;
    let reason = match end {
        End::Goodbye => {
            // Whoever said goodbye and stays would hold a place among the connections for nothing.
            vchat_quic::close(&connection, CloseCode::Goodbye);
            pb::LeaveReason::Goodbye
        }
        End::Protocol(code) => {
            vchat_quic::close(&connection, code);
            pb::LeaveReason::Removed
        }
        End::Connection => match connection.close_reason() {
            Some(ConnectionError::TimedOut) => pb::LeaveReason::Timeout,
            // By the room, which has told the others, or because the device was revoked.
            Some(ConnectionError::LocallyClosed) => pb::LeaveReason::Removed,
            Some(ConnectionError::ApplicationClosed(c)) if c.error_code.into_inner() == 0 => {
                pb::LeaveReason::Goodbye
            }
            _ => pb::LeaveReason::Lost,
        },
    };
    tracing::info!(participant = id.0, "left: {}", in_words(reason));
    drop(present);
    shared.stats.events().left(reason);
    shared.registry.tell(move |l| drop(l.seen(unix_ms_now(), pin)));
    // Fails only when the room itself has ended.
    drop(room.send(Command::Leave(id, connection.stable_id(), reason)).await);
}

const fn in_words(reason: pb::LeaveReason) -> &'static str {
    match reason {
        pb::LeaveReason::Goodbye => "goodbye",
        pb::LeaveReason::Timeout => "nothing heard any more",
        pb::LeaveReason::Removed => "removed",
        pb::LeaveReason::Lost | pb::LeaveReason::Unspecified => "connection lost",
    }
}

/// The keys of both ends of a connection.
#[derive(Clone, Copy)]
struct Keys {
    device: Pin,
    relay: Pin,
}

/// A client that has been taken into a room.
struct Guest {
    id: ParticipantId,
    agent: String,
    room: mpsc::Sender<Command>,
    room_number: RoomNumber,
    control: Stream,
    /// Into the queue that `control` writes from.
    control_in: Outbox,
    chat: Inbox,
    media: mpsc::Receiver<ToReceiver>,
    stats: Arc<ClientStats>,
}

/// A stream of which the relay reads with a deframer and writes messages from a queue.
struct Stream {
    receive: RecvStream,
    deframer: Deframer,
    send: SendStream,
    queue: Inbox,
}

/// Why a client was not taken in.
enum Gone {
    Connection,
    Refused(CloseCode),
}

/// Why a stream or a client's time in a room is over.
pub(crate) enum End {
    Goodbye,
    Protocol(CloseCode),
    Connection,
}

/// Reads the hello and joins the room that it names.
async fn greet(connection: &Connection, device: Device, shared: &Shared) -> Result<Guest, Gone> {
    let (send, mut receive) = connection.accept_bi().await.map_err(|_| Gone::Connection)?;
    if stream_type(&mut receive).await? != STREAM_CONTROL {
        return Err(Gone::Refused(CloseCode::Protocol));
    }
    let mut deframer = Deframer::new(MAX_HELLO);
    let mut hello = match next(&mut receive, &mut deframer).await {
        Ok(Some(pb::ClientControl { body: Some(pb::client_control::Body::Hello(hello)) })) => hello,
        Ok(None) => return Err(Gone::Connection),
        Ok(Some(_)) | Err(End::Goodbye | End::Protocol(_)) => return Err(Gone::Refused(CloseCode::Protocol)),
        Err(End::Connection) => return Err(Gone::Connection),
    };
    deframer.set_limit(MAX_CLIENT_MESSAGE);
    let room_name = room_of(&device, &hello.room).map_err(Gone::Refused)?;
    hello.room = room_name.as_str().into();
    let name = DisplayName::parse(&hello.name).map_err(|_| Gone::Refused(CloseCode::BadName))?;
    if shared.settings.borrow().trust_on_first_use {
        let (pin, name) = (device.pin, name.clone());
        shared.registry.tell(move |l| drop(l.name_newcomer(pin, &name)));
    }
    let seat = |id| Seat { room: &room_name, pin: device.pin, instance: hello.instance, id };
    let known = Some(ParticipantId(hello.participant));
    let known = known.filter(|id| shared.seats.is_proof(seat(*id), &hello.seat));
    let agent: String = hello.agent.chars().filter(|c| !c.is_control()).take(64).collect();
    // Who has been here has a place; their last connection may not even be missed yet.
    if known.is_none() {
        has_room(shared).map_err(Gone::Refused)?;
    }
    loop {
        if shared.rooms.is_quiet() {
            // Another process takes over, and those who are here are on their way there.
            return Err(Gone::Refused(CloseCode::ShuttingDown));
        }
        let limits = shared.settings.borrow().limits;
        let room = shared.rooms.enter(&room_name, limits.max_rooms as usize);
        let room = room.ok_or(Gone::Refused(CloseCode::RelayFull))?;
        let (control_in, control) = outbox::new(CONTROL_QUEUE);
        let (chat_in, chat) = outbox::new(CHAT_QUEUE);
        let (media_in, media) = mpsc::channel(MEDIA_QUEUE);
        let (answer, joined) = oneshot::channel();
        let stats = Arc::<ClientStats>::default();
        let link = Link {
            connection: connection.clone(),
            control: control_in.clone(),
            chat: chat_in,
            media: media_in,
            stats: stats.clone(),
        };
        let pin = device.pin.0;
        let (name, hello) = (name.clone(), hello.clone());
        let join = Join { pin, seat: known, name, hello, limits, link, answer };
        drop(room.send(Command::Join(Box::new(join))).await);
        match joined.await {
            Ok(Ok(Joined { id, room: room_number })) => {
                let proof = pb::Seat { proof: shared.seats.proof(seat(id)) };
                let body = pb::relay_control::Body::Seat(proof);
                // Full only where the task of this very client would find the same.
                drop(control_in.post(frame(&pb::RelayControl { body: Some(body) })));
                let control = Stream { receive, deframer, send, queue: control };
                return Ok(Guest { id, agent, room, room_number, control, control_in, chat, media, stats });
            }
            Ok(Err(code)) => return Err(Gone::Refused(code)),
            // The room ended in this very moment; the next one is new.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// The room that a device asks for, or that it is for when it names none, if the device may be there.
pub(crate) fn room_of(device: &Device, named: &str) -> Result<RoomName, CloseCode> {
    let default = || device.rooms.first().map_or(LOBBY, RoomName::as_str);
    let room = RoomName::parse(if named.is_empty() { default() } else { named });
    let room = room.map_err(|_| CloseCode::BadName)?;
    if device.may_enter(&room) { Ok(room) } else { Err(CloseCode::OtherRoom) }
}

/// Carries everything between the connection and the room until one of them ends.
async fn attend(connection: &Connection, guest: Guest, met: Keys, shared: &Shared) -> End {
    let Guest { id, room, control, control_in, chat, media, stats, .. } = guest;
    let mut tasks = JoinSet::new();
    let (to_sender, reports) = mpsc::channel(REPORT_QUEUE);
    let ways = sender::Ways {
        from_room: media,
        reports,
        ceilings: shared.ceilings.clone(),
        to_room: room.clone(),
        stats: stats.clone(),
    };
    tasks.spawn(sender::run(connection.clone(), id, ways));
    let rate = shared.settings.borrow().limits.client_rate();
    tasks.spawn(read_media(connection.clone(), id, room.clone(), to_sender, (rate, stats)));
    tasks.spawn(announce_next_key(connection.clone(), shared.keys.clone(), met.relay, control_in));
    let Stream { receive, deframer, send, queue } = control;
    let to_room = room.clone();
    let control = async {
        // The last receipt that was passed on: each costs the registry something, and once is enough.
        let mut receipt = None;
        let command = |m: pb::ClientControl| {
            let leaves = matches!(m.body, Some(pb::client_control::Body::Goodbye(_)));
            if let Some(pb::client_control::Body::NextKeyStored(stored)) = &m.body {
                next_key_stored(shared, met, stored, &mut receipt);
            }
            (!leaves).then(|| Command::Control(id, shared.clock_us(), m))
        };
        read(receive, deframer, command, &to_room).await
    };
    let chat = async {
        let Ok((send, mut receive)) = connection.accept_bi().await else { return End::Connection };
        match stream_type(&mut receive).await {
            Ok(STREAM_CHAT) => {}
            Ok(_) => return End::Protocol(CloseCode::Protocol),
            Err(_) => return End::Connection,
        }
        tokio::select! {
            end = read(receive, Deframer::new(MAX_CLIENT_MESSAGE), |m| Some(Command::Chat(id, m)), &room) => end,
            end = write(send, chat) => end,
        }
    };
    tokio::select! {
        end = control => end,
        end = chat => end,
        end = write(send, queue) => end,
        _ = connection.closed() => End::Connection,
        // One that ends alone would leave the client without its media.
        _ = tasks.join_next() => End::Connection,
    }
}

/// Reads messages and passes them on to the room, at the room's pace, until one is no command but a goodbye.
async fn read<M: Message + Default>(
    mut stream: RecvStream,
    mut deframer: Deframer,
    mut command: impl FnMut(M) -> Option<Command>,
    room: &mpsc::Sender<Command>,
) -> End {
    loop {
        match next::<M>(&mut stream, &mut deframer).await {
            Ok(Some(message)) => {
                let Some(command) = command(message) else { return End::Goodbye };
                if room.send(command).await.is_err() {
                    return End::Connection;
                }
            }
            Ok(None) => return End::Goodbye,
            Err(end) => return end,
        }
    }
}

/// Tells a client of the relay's next key, now and whenever that changes.
async fn announce_next_key(
    connection: Connection,
    mut keys: watch::Receiver<Shown>,
    met: Pin,
    control: Outbox,
) {
    loop {
        let body = pb::relay_control::Body::NextKey(keys.borrow_and_update().announcement(met));
        if control.post(frame(&pb::RelayControl { body: Some(body) })).is_err() {
            return vchat_quic::close(&connection, CloseCode::TooSlow);
        }
        if keys.changed().await.is_err() {
            // Another process takes over; this client may stay until it has gone there.
            return std::future::pending().await;
        }
    }
}

/// A client has the next key on its disk. What it says of any other key is of no interest.
fn next_key_stored(shared: &Shared, met: Keys, stored: &pb::NextKeyStored, receipt: &mut Option<Pin>) {
    let next = shared.keys.borrow().next.as_ref().map(|next| next.pin);
    if let Some(next) = next.filter(|next| next.0[..] == stored.pin[..] && *receipt != Some(*next)) {
        *receipt = Some(next);
        let rotate = shared.rotate.clone();
        shared.registry.tell(move |l| {
            if l.next_key_stored(met.device, next).is_ok() {
                // A full queue has a look in it already.
                drop(rotate.try_send(keys::Command::Look));
            }
        });
    }
}

/// The next message of a stream; none at its end.
pub(crate) async fn next<M: Message + Default>(
    stream: &mut RecvStream,
    deframer: &mut Deframer,
) -> Result<Option<M>, End> {
    loop {
        match deframer.pop() {
            Ok(Some(message)) => return Ok(Some(message)),
            Ok(None) => {}
            Err(e) => {
                tracing::debug!("bad message: {e}");
                return Err(End::Protocol(CloseCode::Protocol));
            }
        }
        match stream.read_chunk(READ_CHUNK, true).await {
            Ok(Some(chunk)) => deframer.push(&chunk.bytes),
            Ok(None) => return Ok(None),
            Err(_) => return Err(End::Connection),
        }
    }
}

async fn write(mut stream: SendStream, mut queue: Inbox) -> End {
    while let Some(message) = queue.next().await {
        if stream.write_all(&message).await.is_err() {
            return End::Connection;
        }
    }
    // The room let this connection go; the reason is on its way in the close.
    std::future::pending().await
}

/// Takes what a participant sends, reports on it, and passes its reports on to the task that sends to it.
async fn read_media(
    connection: Connection,
    id: ParticipantId,
    room: mpsc::Sender<Command>,
    to_sender: mpsc::Sender<Report>,
    (rate, stats): (Option<Bitrate>, Arc<ClientStats>),
) {
    let mut limit = TokenBucket::new(MEDIA_RATE);
    let mut bytes = rate.map(bytes_of);
    let mut receiver = hop::Receiver::new(Instant::now());
    loop {
        let datagram = tokio::select! {
            datagram = connection.read_datagram() => {
                let Ok(datagram) = datagram else { return };
                stats.received.count(datagram.len());
                Some(datagram)
            }
            () = sleep_until(receiver.poll_timeout()) => None,
        };
        let now = Instant::now();
        // Too much is dropped, not punished: an encoder may overshoot. Here and not in the room, or one who sends too much
        // would take the others' places in its queue.
        let within = |datagram: &Bytes| {
            is_within(&mut limit, now, 1, &stats)
                && bytes.as_mut().is_none_or(|bytes| is_within(bytes, now, datagram.len() as u32, &stats))
        };
        if let Some(datagram) = datagram.filter(within) {
            // A copy, because quinn gives out parts of what it read from the socket at once, up to 64 kB: what waits for
            // receivers or joiners would keep all of that.
            match Packet::parse(Bytes::copy_from_slice(&datagram)) {
                // When more wait than can have been made, the newest may go.
                Ok((_, Packet::Report(report))) => drop(to_sender.try_send(report)),
                Ok((number, packet)) => receiver.handle_packet(now, number, datagram.len(), packet),
                Err(DatagramError::UnknownKind(_)) => {}
                Err(e) => {
                    tracing::debug!(participant = id.0, "bad datagram: {e}");
                    return vchat_quic::close(&connection, CloseCode::Protocol);
                }
            }
            let mut first = true;
            while let Some(media) = receiver.poll_media() {
                // What came in one bundle, or was restored at once, counts one by one.
                if !std::mem::take(&mut first) && !is_within(&mut limit, now, 1, &stats) {
                    continue;
                }
                // A full room drops the newest media: it is overloaded, and what waits is older.
                if room.try_send(Command::Media(id, media)).is_err() {
                    stats.drop_one(Dropped::RoomBusy);
                }
            }
        }
        if let Some(report) = receiver.poll_report(now) {
            stats.sent.count(report.len());
            stats.note_uplink(receiver.totals());
            if connection.send_datagram(report).is_err() {
                return;
            }
        }
    }
}

/// Whether one more datagram is within what a client may send; counts those that are not.
fn is_within(limit: &mut TokenBucket, now: Instant, cost: u32, stats: &ClientStats) -> bool {
    let within = limit.take(now, cost);
    if !within {
        stats.drop_one(Dropped::TooFast);
    }
    within
}

/// A bucket of the bytes that a client may send at this rate, with room for two seconds of it and a key frame.
fn bytes_of(rate: Bitrate) -> TokenBucket {
    let per_second = u32::try_from(rate.bps() / 8).unwrap_or(u32::MAX);
    TokenBucket::new((per_second, per_second.saturating_mul(2).saturating_add(KEY_FRAME)))
}

/// Does something with a client that has no business sending datagrams yet: what nobody reads would wait in quinn.
pub(crate) async fn without_media<T, E>(
    connection: &Connection,
    otherwise: E,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::select! {
        biased;
        done = work => done,
        // When the connection ends, the work notices too and says how.
        Ok(_) = connection.read_datagram() => Err(otherwise),
    }
}

async fn stream_type(stream: &mut RecvStream) -> Result<u8, Gone> {
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map_err(|_| Gone::Connection)?;
    Ok(byte[0])
}

/// The room of those who name none and are bound to none.
const LOBBY: &str = "lobby";
/// Bytes for a join to a full room: the welcome of 40 kB, and some 800 changes of the others.
const CONTROL_QUEUE: usize = 160 * 1024;
/// Bytes for the whole history, a page of what is older, and as many as three members may post at once when they come back.
const CHAT_QUEUE: usize = MAX_HISTORY + MAX_MESSAGE + 3 * 32 * 1024;
/// A second of several people's video.
const MEDIA_QUEUE: usize = 1024;
/// Reports that wait for the task that sends: it reads them at once, and each tells more than those before it.
const REPORT_QUEUE: usize = 8;
/// Bytes of a large key frame of 360 lines.
const KEY_FRAME: u32 = 64 * 1024;
/// Bytes to take from a stream at once.
const READ_CHUNK: usize = 4 * 1024;
