//! One connection to the relay: its two streams as queues of messages.

use prost::Message;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportErrorCode};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vchat_certs::pin::Pin;
use vchat_proto::session::Loss;
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::limits::MAX_MESSAGE;
use vchat_proto::wire::{STREAM_CHAT, STREAM_CONTROL, pb};

use super::reach::Connected;

/// A live connection. Dropping it ends its tasks, not the connection.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    endpoint: Endpoint,
    /// Overflow: the relay reads so slowly that the connection counts as lost.
    control: mpsc::Sender<pb::ClientControl>,
    chat: mpsc::Sender<pb::ChatUp>,
    incoming: mpsc::Receiver<Incoming>,
    _tasks: JoinSet<()>,
}

/// What comes over the streams.
pub(crate) enum Incoming {
    Control(pb::RelayControl),
    Chat(pb::ChatDown),
    Lost(Loss),
}

impl Link {
    /// Opens the two streams. Also tells the key of the relay at the other end.
    pub(crate) async fn open(connected: Connected) -> Result<(Self, Pin), Loss> {
        let Connected { connection, endpoint, pin } = connected;
        let (incoming_in, incoming) = mpsc::channel(QUEUE);
        let (control, control_out) = mpsc::channel(QUEUE);
        let (chat, chat_out) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let (send, receive) = connection.open_bi().await.map_err(|e| loss(&e))?;
        tasks.spawn(write(send, STREAM_CONTROL, control_out));
        tasks.spawn(read(receive, incoming_in.clone(), Incoming::Control));
        let (send, receive) = connection.open_bi().await.map_err(|e| loss(&e))?;
        tasks.spawn(write(send, STREAM_CHAT, chat_out));
        tasks.spawn(read(receive, incoming_in.clone(), Incoming::Chat));
        let closed = connection.clone();
        tasks.spawn(async move {
            let why = loss(&closed.closed().await);
            drop(incoming_in.send(Incoming::Lost(why)).await);
        });
        Ok((Self { connection, endpoint, control, chat, incoming, _tasks: tasks }, pin))
    }

    pub(crate) fn send_control(&self, message: pb::ClientControl) {
        if self.control.try_send(message).is_err() {
            self.give_up();
        }
    }

    pub(crate) fn send_chat(&self, message: pb::ChatUp) {
        if self.chat.try_send(message).is_err() {
            self.give_up();
        }
    }

    /// The next message; `Lost` is the last one.
    pub(crate) async fn next(&mut self) -> Incoming {
        match self.incoming.recv().await {
            Some(incoming) => incoming,
            None => std::future::pending().await,
        }
    }

    /// Closes the connection with our goodbye and waits until that is sent.
    pub(crate) async fn close(self) {
        vchat_quic::close(&self.connection, vchat_proto::wire::close::CloseCode::Goodbye);
        self.endpoint.wait_idle().await;
    }

    fn give_up(&self) {
        self.connection.close(quinn::VarInt::from_u32(0), b"the relay does not read");
    }
}

/// What a broken connection means for the session.
pub(crate) fn loss(error: &ConnectionError) -> Loss {
    match vchat_quic::close_code(error) {
        Some(code) => Loss::Closed(code),
        None => Loss::Network(match error {
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                "it takes nobody from this network for some minutes, after too many failed attempts".into()
            }
            other => other.to_string(),
        }),
    }
}

async fn read<M: Message + Default>(
    mut stream: RecvStream,
    to: mpsc::Sender<Incoming>,
    wrap: fn(M) -> Incoming,
) {
    let mut deframer = Deframer::new(MAX_MESSAGE);
    // An end or an error of a stream shows in the connection's close; a stream that merely ends has nothing to say.
    while let Ok(Some(chunk)) = stream.read_chunk(READ_CHUNK, true).await {
        deframer.push(&chunk.bytes);
        loop {
            match deframer.pop() {
                Ok(Some(message)) => {
                    if to.send(wrap(message)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    let why = Loss::Network(format!("the relay sent what is no message: {e}"));
                    drop(to.send(Incoming::Lost(why)).await);
                    return;
                }
            }
        }
    }
}

async fn write<M: Message>(mut stream: SendStream, kind: u8, mut queue: mpsc::Receiver<M>) {
    if stream.write_all(&[kind]).await.is_err() {
        return;
    }
    while let Some(message) = queue.recv().await {
        if stream.write_all(&frame(&message)).await.is_err() {
            return;
        }
    }
}

/// Messages that may wait on either side; more than the outbox of a session.
const QUEUE: usize = 256;
const READ_CHUNK: usize = 16 * 1024;
