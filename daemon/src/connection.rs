//! One client's connection, from the end of the handshake to the goodbye.

use std::sync::PoisonError;
use std::time::Instant;

use prost::Message;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use vchat_certs::pin::{Pin, peer_pin};
use vchat_proto::bucket::TokenBucket;
use vchat_proto::id::{DisplayName, ParticipantId, RoomName};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::datagram::{DatagramError, Media};
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::limits::{CHAT_HISTORY, HELLO_TIMEOUT, MAX_HELLO, MAX_MESSAGE, MEDIA_RATE};
use vchat_proto::wire::{STREAM_CHAT, STREAM_CONTROL, pb};

use crate::room::{Command, Join, Link, ToReceiver};
use crate::sender;
use crate::server::Shared;

/// Serves a client until it leaves, breaks the protocol or vanishes.
pub(crate) async fn serve(connection: Connection, shared: &Shared) {
    let Some(pin) = peer_pin(connection.peer_identity()) else {
        return vchat_quic::close(&connection, CloseCode::Protocol);
    };
    let address = connection.remote_address();
    let guest = match tokio::time::timeout(HELLO_TIMEOUT, greet(&connection, pin, shared)).await {
        Ok(Ok(guest)) => guest,
        Ok(Err(Gone::Connection)) => return tracing::debug!(%address, "left before the hello"),
        Ok(Err(Gone::Refused(code))) => {
            tracing::info!(%address, "refused a client: {}", code.reason());
            return vchat_quic::close(&connection, code);
        }
        Err(_) => return vchat_quic::close(&connection, CloseCode::HelloTimeout),
    };
    let (id, room) = (guest.id, guest.room.clone());
    tracing::info!(participant = id.0, %address, fingerprint = %pin, new_device = guest.new_device, agent = %guest.agent, "joined");
    let end = attend(&connection, guest, shared.started).await;
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
            // By the room, which has told the others.
            Some(ConnectionError::LocallyClosed) => pb::LeaveReason::Removed,
            Some(ConnectionError::ApplicationClosed(c)) if c.error_code.into_inner() == 0 => {
                pb::LeaveReason::Goodbye
            }
            _ => pb::LeaveReason::Lost,
        },
    };
    tracing::info!(participant = id.0, "left: {}", in_words(reason));
    // Fails only when the room itself has ended.
    drop(room.send(Command::Leave(id, reason)).await);
}

const fn in_words(reason: pb::LeaveReason) -> &'static str {
    match reason {
        pb::LeaveReason::Goodbye => "goodbye",
        pb::LeaveReason::Timeout => "nothing heard any more",
        pb::LeaveReason::Removed => "removed",
        pb::LeaveReason::Lost | pb::LeaveReason::Unspecified => "connection lost",
    }
}

/// A client that has been taken into a room.
struct Guest {
    id: ParticipantId,
    new_device: bool,
    agent: String,
    room: mpsc::Sender<Command>,
    control: Stream<pb::RelayControl>,
    chat: mpsc::Receiver<pb::ChatDown>,
    media: mpsc::Receiver<ToReceiver>,
}

/// A stream of which the relay reads with a deframer and writes messages from a queue.
struct Stream<Down> {
    receive: RecvStream,
    deframer: Deframer,
    send: SendStream,
    queue: mpsc::Receiver<Down>,
}

/// Why a client was not taken in.
enum Gone {
    Connection,
    Refused(CloseCode),
}

/// Why a client's time in a room is over.
enum End {
    Goodbye,
    Protocol(CloseCode),
    Connection,
}

/// Reads the hello and joins the room that it names.
async fn greet(connection: &Connection, pin: Pin, shared: &Shared) -> Result<Guest, Gone> {
    let (send, mut receive) = connection.accept_bi().await.map_err(|_| Gone::Connection)?;
    if stream_type(&mut receive).await? != STREAM_CONTROL {
        return Err(Gone::Refused(CloseCode::Protocol));
    }
    let mut deframer = Deframer::new(MAX_HELLO);
    let hello = match next(&mut receive, &mut deframer).await {
        Ok(Some(pb::ClientControl { body: Some(pb::client_control::Body::Hello(hello)) })) => hello,
        Ok(None) => return Err(Gone::Connection),
        Ok(Some(_)) | Err(End::Goodbye | End::Protocol(_)) => return Err(Gone::Refused(CloseCode::Protocol)),
        Err(End::Connection) => return Err(Gone::Connection),
    };
    deframer.set_limit(MAX_MESSAGE);
    let bad_name = |_| Gone::Refused(CloseCode::BadName);
    let room_name = RoomName::parse(&hello.room).map_err(bad_name)?;
    let name = DisplayName::parse(&hello.name).map_err(bad_name)?;
    let new_device = shared.devices.lock().unwrap_or_else(PoisonError::into_inner).meet(pin);
    let agent: String = hello.agent.chars().filter(|c| !c.is_control()).take(64).collect();
    loop {
        let room = shared.rooms.enter(&room_name);
        let (control_in, control) = mpsc::channel(CONTROL_QUEUE);
        let (chat_in, chat) = mpsc::channel(CHAT_QUEUE);
        let (media_in, media) = mpsc::channel(MEDIA_QUEUE);
        let (answer, joined) = oneshot::channel();
        let link =
            Link { connection: connection.clone(), control: control_in, chat: chat_in, media: media_in };
        let join = Join { pin: pin.0, name: name.clone(), hello: hello.clone(), link, answer };
        drop(room.send(Command::Join(Box::new(join))).await);
        match joined.await {
            Ok(Ok(id)) => {
                let control = Stream { receive, deframer, send, queue: control };
                return Ok(Guest { id, new_device, agent, room, control, chat, media });
            }
            Ok(Err(code)) => return Err(Gone::Refused(code)),
            // The room ended in this very moment; the next one is new.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Carries everything between the connection and the room until one of them ends.
async fn attend(connection: &Connection, guest: Guest, started: Instant) -> End {
    let Guest { id, room, control, chat, media, .. } = guest;
    let mut tasks = JoinSet::new();
    tasks.spawn(sender::run(connection.clone(), media, room.clone()));
    tasks.spawn(read_media(connection.clone(), id, room.clone()));
    let Stream { receive, deframer, send, queue } = control;
    let to_room = room.clone();
    let control = async {
        let relay_us = || u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let command = |m: pb::ClientControl| {
            let leaves = matches!(m.body, Some(pb::client_control::Body::Goodbye(_)));
            (!leaves).then(|| Command::Control(id, relay_us(), m))
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
            end = read(receive, Deframer::new(MAX_MESSAGE), |m| Some(Command::Chat(id, m)), &room) => end,
            end = write(send, chat) => end,
        }
    };
    tokio::select! {
        end = control => end,
        end = chat => end,
        end = write(send, queue) => end,
        _ = connection.closed() => End::Connection,
    }
}

/// Reads messages and passes them on to the room, at the room's pace, until one is no command but a goodbye.
async fn read<M: Message + Default>(
    mut stream: RecvStream,
    mut deframer: Deframer,
    command: impl Fn(M) -> Option<Command>,
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

/// The next message of a stream; none at its end.
async fn next<M: Message + Default>(
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

async fn write<M: Message>(mut stream: SendStream, mut queue: mpsc::Receiver<M>) -> End {
    while let Some(message) = queue.recv().await {
        if stream.write_all(&frame(&message)).await.is_err() {
            return End::Connection;
        }
    }
    // The room let this connection go; the reason is on its way in the close.
    std::future::pending().await
}

async fn read_media(connection: Connection, id: ParticipantId, room: mpsc::Sender<Command>) {
    let mut limit = TokenBucket::new(MEDIA_RATE);
    while let Ok(datagram) = connection.read_datagram().await {
        // Too much is dropped, not punished: an encoder may overshoot. Here and not in the room, or one who sends too much
        // would take the others' places in its queue.
        if !limit.take(Instant::now(), 1) {
            continue;
        }
        match Media::parse(datagram) {
            // A full room drops the newest media: it is overloaded, and what waits is older.
            Ok(media) => drop(room.try_send(Command::Media(id, media))),
            Err(DatagramError::UnknownKind(_)) => {}
            Err(e) => {
                tracing::debug!(participant = id.0, "bad datagram: {e}");
                return vchat_quic::close(&connection, CloseCode::Protocol);
            }
        }
    }
}

async fn stream_type(stream: &mut RecvStream) -> Result<u8, Gone> {
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map_err(|_| Gone::Connection)?;
    Ok(byte[0])
}

/// A join to a full room: one message about each of the others, and their changes for a while.
const CONTROL_QUEUE: usize = 1024;
/// The whole history and what is said meanwhile.
const CHAT_QUEUE: usize = CHAT_HISTORY + 256;
/// A second of several people's video.
const MEDIA_QUEUE: usize = 1024;
/// Bytes to take from a stream at once.
const READ_CHUNK: usize = 16 * 1024;
