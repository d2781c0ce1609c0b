//! A relay, and clients made by hand, over real QUIC.
#![allow(dead_code, reason = "each test program uses a part")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use serde_json::Value;
use vchat_certs::code::Code;
use vchat_certs::identity::Identity;
use vchat_certs::invite::Link;
use vchat_certs::pake;
use vchat_certs::pin::Pin;
use vchat_certs::tls::{Purpose, ServerTrust, client_config};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::{STREAM_CHAT, STREAM_CONTROL, pb};
use vchatd::config::Config;
use vchatd::control::{AskError, Invite, Request, ask};
use vchatd::server::Server;

/// A running relay with a state directory of its own.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    pub(crate) pin: Pin,
    pub(crate) config: Config,
    pub(crate) state: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Relay {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let mut config = Config::private("127.0.0.1:0".parse().expect("an address"), state.path());
        change(&mut config);
        let mut relay =
            Self { addr: config.listen[0], pin: Pin([0; 32]), config, state, stop: None, running: None };
        relay.run().await;
        relay
    }

    async fn run(&mut self) {
        let begun = std::time::Instant::now();
        let server = loop {
            match Server::bind(self.config.clone()).await {
                Ok(server) => break server,
                // The socket of the one before lives until its last client has heard the farewell, and an attempt that failed
                // for that gives the directory back a moment later.
                Err(e) => {
                    let text = format!("{e:#}");
                    assert!(text.contains("in use") || text.contains("another vchatd"), "{text}");
                    assert!(begun.elapsed() < PATIENCE, "{text}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        (self.addr, self.pin) = (server.local_addrs()[0], server.pin());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        self.stop = Some(stop);
        self.running = Some(tokio::spawn(async move {
            let (_nothing, reloads) = tokio::sync::mpsc::channel(1);
            server.run(async { drop(stopped.await) }, reloads).await.expect("ran");
        }));
    }

    /// Ends the relay and starts it again at the same address.
    pub(crate) async fn restart(&mut self) {
        self.stop_and(|_| Ok(0)).await;
    }

    /// The same, with a change of what it has written down in between.
    pub(crate) async fn stop_and(
        &mut self,
        change: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<usize>,
    ) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            running.await.expect("no panic");
        }
        let db = rusqlite::Connection::open(self.state.path().join("vchatd.db")).expect("opened");
        change(&db).expect("changed");
        drop(db);
        self.config.listen = vec![self.addr];
        self.run().await;
    }

    /// Asks as the operator does.
    pub(crate) async fn ask(&self, request: Request) -> Result<Value, AskError> {
        let control: PathBuf = self.config.control.clone();
        tokio::task::spawn_blocking(move || ask(&control, &request)).await.expect("no panic")
    }

    pub(crate) async fn invite(&self, invite: Invite) -> Value {
        self.ask(Request::Invite(invite)).await.expect("invited")
    }

    /// A link for one device and any room.
    pub(crate) async fn link(&self) -> Link {
        link_of(&self.invite(invite()).await)
    }

    pub(crate) async fn code(&self) -> Code {
        let answer = self.invite(Invite { code: true, ..invite() }).await;
        answer["code"].as_str().expect("a code").parse().expect("a code")
    }

    /// A new device that the relay knows.
    pub(crate) async fn device(&self) -> Identity {
        let identity = identity();
        let paired = pair_by_link(self.addr, &identity, &self.link().await).await;
        assert!(matches!(paired, Ok(pb::pair_down::Body::Paired(_))), "{paired:?}");
        identity
    }

    /// A new device in a room.
    pub(crate) async fn guest(&self, room: &str) -> Guest {
        Guest::join(self.addr, &self.device().await, room).await.expect("a member")
    }

    /// One that wants to hear the others.
    pub(crate) async fn listener(&self, room: &str) -> Guest {
        let subscriptions = Some(pb::Subscriptions { audio: true, video: true });
        let hello = pb::Hello { subscriptions, ..hello_to(room) };
        Guest::say_hello(self.addr, &self.device().await, hello).await.expect("a member")
    }

    /// One that may send sound.
    pub(crate) async fn speaker(&self, room: &str) -> Guest {
        let hello = pb::Hello { publish: vec![pb::TrackKind::Microphone.into()], ..hello_to(room) };
        Guest::say_hello(self.addr, &self.device().await, hello).await.expect("a member")
    }

    pub(crate) async fn devices(&self) -> Vec<Value> {
        self.ask(Request::Devices).await.expect("listed").as_array().expect("a list").clone()
    }
}

pub(crate) fn invite() -> Invite {
    Invite { uses: 1, ttl_s: 3600, ..Invite::default() }
}

pub(crate) fn link_of(answer: &Value) -> Link {
    answer["link"].as_str().expect("a link").parse().expect("a link")
}

pub(crate) fn identity() -> Identity {
    let home = tempfile::tempdir().expect("a directory");
    Identity::load_or_create(home.path()).expect("an identity")
}

/// A connection, its relay's key unchecked. The relay may close it a moment later.
pub(crate) async fn connect(
    addr: SocketAddr,
    identity: &Identity,
    purpose: Purpose,
) -> Result<Line, ConnectionError> {
    let (tls, _) = client_config(identity, ServerTrust::FirstUse, purpose).expect("settings");
    let endpoint = vchat_quic::client_endpoint(addr, tls).expect("a socket");
    let connection = endpoint.connect(addr, "vchat").expect("started").await?;
    Ok(Line { connection, _endpoint: endpoint })
}

/// A connection and its socket.
pub(crate) struct Line {
    pub(crate) connection: Connection,
    _endpoint: Endpoint,
}

/// A client in a room.
pub(crate) struct Guest {
    pub(crate) line: Line,
    pub(crate) control: Stream,
    pub(crate) welcome: pb::Welcome,
}

impl Guest {
    /// Joins a room and waits for the welcome.
    pub(crate) async fn join(
        relay: SocketAddr,
        identity: &Identity,
        room: &str,
    ) -> Result<Self, ConnectionError> {
        Self::say_hello(relay, identity, hello_to(room)).await
    }

    /// The same with this hello.
    pub(crate) async fn say_hello(
        relay: SocketAddr,
        identity: &Identity,
        hello: pb::Hello,
    ) -> Result<Self, ConnectionError> {
        let line = connect(relay, identity, Purpose::Call).await?;
        let closed = line.connection.clone();
        let join = async {
            let mut control = Stream::open(&line.connection).await?;
            control.send_bytes(&[STREAM_CONTROL]).await?;
            control.send(&control_up(pb::client_control::Body::Hello(hello))).await?;
            match control.receive::<pb::RelayControl>().await?.body {
                Some(pb::relay_control::Body::Welcome(welcome)) => Some((control, welcome)),
                other => panic!("no welcome: {other:?}"),
            }
        };
        match join.await {
            Some((control, welcome)) => Ok(Self { line, control, welcome }),
            None => Err(closed.closed().await),
        }
    }

    /// Opens the chat stream.
    pub(crate) async fn chat(&self) -> Stream {
        let mut chat = Stream::open(&self.line.connection).await.expect("a stream");
        chat.send_bytes(&[STREAM_CHAT]).await.expect("written");
        chat
    }

    pub(crate) fn is_here(&self) -> bool {
        self.line.connection.close_reason().is_none()
    }
}

/// A stream of messages.
pub(crate) struct Stream {
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    deframer: Deframer,
}

impl Stream {
    pub(crate) async fn open(connection: &Connection) -> Option<Self> {
        let (send, receive) = connection.open_bi().await.ok()?;
        Some(Self { send, receive, deframer: Deframer::new(1 << 16) })
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.send.write_all(bytes).await.ok()
    }

    pub(crate) async fn send(&mut self, message: &impl Message) -> Option<()> {
        self.send_bytes(&frame(message)).await
    }

    /// The next message; none when the stream or the connection has ended.
    pub(crate) async fn receive<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some(message) = self.deframer.pop().expect("a message") {
                return Some(message);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.receive.read_chunk(1 << 16, true)).await;
            let chunk = chunk.expect("an answer, or an end").ok().flatten()?;
            self.deframer.push(&chunk.bytes);
        }
    }
}

fn hello_to(room: &str) -> pb::Hello {
    pb::Hello { room: room.into(), name: "ann".into(), ..pb::Hello::default() }
}

pub(crate) fn control_up(body: pb::client_control::Body) -> pb::ClientControl {
    pb::ClientControl { body: Some(body) }
}

pub(crate) fn hello(room: &str) -> Bytes {
    let hello = pb::Hello { room: room.into(), name: "mallory".into(), ..pb::Hello::default() };
    frame(&control_up(pb::client_control::Body::Hello(hello)))
}

pub(crate) fn pair_up(body: pb::pair_up::Body) -> pb::PairUp {
    pb::PairUp { body: Some(body) }
}

/// What a relay answers, or how it closes instead.
pub(crate) type PairAnswer = Result<pb::pair_down::Body, ConnectionError>;

pub(crate) async fn pair_by_link(addr: SocketAddr, identity: &Identity, link: &Link) -> PairAnswer {
    let line = connect(addr, identity, Purpose::Pair).await?;
    let body =
        pb::PairByLink { token: link.token.as_bytes().to_vec(), name: "ann".into(), ..Default::default() };
    exchange(&line, &mut None, pb::pair_up::Body::Link(body)).await
}

/// Sends a message on the pairing stream, which is opened if need be, and waits for the answer.
pub(crate) async fn exchange(
    line: &Line,
    stream: &mut Option<Stream>,
    body: pb::pair_up::Body,
) -> PairAnswer {
    let talk = async {
        if stream.is_none() {
            *stream = Stream::open(&line.connection).await;
        }
        let stream = stream.as_mut()?;
        stream.send(&pair_up(body)).await?;
        stream.receive::<pb::PairDown>().await?.body
    };
    match talk.await {
        Some(body) => Ok(body),
        None => Err(line.connection.closed().await),
    }
}

/// Pairs by a code as an honest client does, with this view of the relay's key.
pub(crate) async fn pair_by_code(
    addr: SocketAddr,
    identity: &Identity,
    code: &Code,
    relay: Pin,
) -> PairAnswer {
    let line = connect(addr, identity, Purpose::Pair).await?;
    let mut stream = None;
    let (client, share) = pake::Client::start(code, identity.pin(), relay);
    let first = pb::PairByCode {
        nameplate: code.nameplate().into(),
        share,
        name: "ann".into(),
        ..Default::default()
    };
    let share = match exchange(&line, &mut stream, pb::pair_up::Body::Code(first)).await? {
        pb::pair_down::Body::Share(share) => share.share,
        other => return Ok(other),
    };
    let (client, proof) = client.prove(&share, &exporter(&line.connection)).expect("a share");
    let answer = exchange(&line, &mut stream, pb::pair_up::Body::Proof(pb::PairProof { proof })).await?;
    if let pb::pair_down::Body::Paired(paired) = &answer {
        client.check(&paired.proof).expect("the relay has the code too");
    }
    Ok(answer)
}

pub(crate) fn exporter(connection: &Connection) -> pake::Exporter {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, pake::EXPORTER_LABEL, &[]).expect("exported");
    exporter
}

/// Why the relay did not pair.
#[track_caller]
pub(crate) fn refusal(answer: PairAnswer) -> pb::PairRefusal {
    match answer {
        Ok(pb::pair_down::Body::Refused(refused)) => refused.why(),
        other => panic!("not refused: {other:?}"),
    }
}

/// The code with which the relay closes the connection, soon.
pub(crate) async fn code(connection: &Connection) -> CloseCode {
    match tokio::time::timeout(PATIENCE, connection.closed()).await {
        Ok(error) => close_code(&error),
        Err(_) => panic!("not closed"),
    }
}

#[track_caller]
pub(crate) fn close_code(error: &ConnectionError) -> CloseCode {
    vchat_quic::close_code(error).unwrap_or_else(|| panic!("not closed by the relay: {error}"))
}

/// Bounds a failure; far beyond what anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
