//! Clients made by hand: of a client they are what a relay sees, without devices and codecs.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use prost::Message;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use serde_json::Value;
use vchat_certs::identity::Identity;
use vchat_certs::invite::Link;
use vchat_certs::tls::{Purpose, ServerTrust, client_config};
use vchat_proto::id::{ParticipantId, TrackId};
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::limits::MAX_MESSAGE;
use vchat_proto::wire::{STREAM_CHAT, STREAM_CONTROL, pb};

use crate::harness::{Relay, bin};

/// Makes devices that a relay knows.
pub(super) async fn devices(relay: &Relay, count: usize) -> anyhow::Result<Vec<Identity>> {
    let mut invite = Command::new(bin("vchatd")?);
    invite.args(["invite", "--json", "--uses", &count.to_string(), "--state-dir"]).arg(relay.state());
    invite.env_remove("VCHATD_CONFIG");
    let output = invite.output().context("cannot run vchatd")?;
    ensure!(output.status.success(), "no invite: {}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).context("an invite as JSON")?;
    let link: Link = answer["link"].as_str().context("a link")?.parse().context("a link")?;
    let mut devices = Vec::new();
    for _ in 0..count {
        let identity = identity()?;
        pair(relay.address(), &identity, &link).await.context("cannot pair a device")?;
        devices.push(identity);
    }
    Ok(devices)
}

/// A key that no relay knows.
pub(super) fn identity() -> anyhow::Result<Identity> {
    let home = tempfile::tempdir()?;
    Identity::load_or_create(home.path()).context("cannot make a key")
}

async fn pair(relay: SocketAddr, identity: &Identity, link: &Link) -> anyhow::Result<()> {
    let line = Line::open(relay, identity, Purpose::Pair).await?;
    let link =
        pb::PairByLink { token: link.token.as_bytes().to_vec(), name: "bench".into(), ..Default::default() };
    let mut stream = Stream::open(&line.connection).await?;
    stream.send(&pb::PairUp { body: Some(pb::pair_up::Body::Link(link)) }).await?;
    match stream.receive::<pb::PairDown>().await?.body {
        Some(pb::pair_down::Body::Paired(_)) => Ok(()),
        other => bail!("not paired but {other:?}"),
    }
}

/// A connection and its socket.
pub(super) struct Line {
    pub(super) connection: Connection,
    endpoint: Endpoint,
}

impl Line {
    /// Connects to a relay, whatever its key.
    pub(super) async fn open(
        relay: SocketAddr,
        identity: &Identity,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        let (tls, _) = client_config(identity, ServerTrust::FirstUse, purpose)?;
        Self::new(vchat_quic::client_endpoint(relay, tls)?, relay).await
    }

    /// Connects from a socket of its own.
    pub(super) async fn new(endpoint: Endpoint, relay: SocketAddr) -> anyhow::Result<Self> {
        let connection = endpoint.connect(relay, "vchat")?.await?;
        Ok(Self { connection, endpoint })
    }

    /// Connects from another address of this machine. The relay holds failures, and many handshakes, against addresses.
    pub(super) async fn open_from(
        from: Ipv4Addr,
        relay: SocketAddr,
        identity: &Identity,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        let (tls, _) = client_config(identity, ServerTrust::FirstUse, purpose)?;
        let mut endpoint = Endpoint::client((from, 0).into())?;
        endpoint.set_default_client_config(vchat_quic::client_config(tls)?);
        Self::new(endpoint, relay).await
    }

    /// Is gone without a word, as when the power fails.
    pub(super) fn vanish(self) -> anyhow::Result<()> {
        // From this socket nothing reaches a relay at an IPv4 address, the farewell neither.
        Ok(self.endpoint.rebind(UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?)?)
    }
}

/// A client in a room.
pub(super) struct Guest {
    pub(super) line: Line,
    pub(super) control: Stream,
    pub(super) id: ParticipantId,
    /// In the order in which they were asked for.
    pub(super) tracks: Vec<TrackId>,
}

impl Guest {
    /// Connects and joins a room, with these tracks to send and everything to receive.
    pub(super) async fn join(
        relay: SocketAddr,
        identity: &Identity,
        room: &str,
        publish: &[pb::TrackKind],
    ) -> anyhow::Result<Self> {
        Self::enter(Line::open(relay, identity, Purpose::Call).await?, room, publish).await
    }

    /// Joins a room over a connection.
    pub(super) async fn enter(line: Line, room: &str, publish: &[pb::TrackKind]) -> anyhow::Result<Self> {
        let mut control = Stream::open(&line.connection).await?;
        control.send.write_all(&[STREAM_CONTROL]).await?;
        let hello = pb::Hello {
            room: room.into(),
            name: "bench".into(),
            publish: publish.iter().map(|kind| (*kind).into()).collect(),
            subscriptions: Some(pb::Subscriptions { audio: true, video: true }),
            instance: line.connection.stable_id() as u64,
            ..pb::Hello::default()
        };
        control.send(&control_up(pb::client_control::Body::Hello(hello))).await?;
        let Some(pb::relay_control::Body::Welcome(welcome)) =
            control.receive::<pb::RelayControl>().await?.body
        else {
            bail!("no welcome");
        };
        let you = welcome.you.context("a welcome says who one is")?;
        let track = |t: &pb::Track| u16::try_from(t.id).map(TrackId).context("a track id");
        let tracks = you.tracks.iter().map(track).collect::<anyhow::Result<_>>()?;
        Ok(Self { line, control, id: ParticipantId(you.id), tracks })
    }

    /// Opens the chat stream and asks for all there is.
    pub(super) async fn chat(&self) -> anyhow::Result<Stream> {
        let mut chat = Stream::open(&self.line.connection).await?;
        chat.send.write_all(&[STREAM_CHAT]).await?;
        chat.send(&pb::ChatUp { body: Some(pb::chat_up::Body::Resume(pb::Resume::default())) }).await?;
        Ok(chat)
    }
}

pub(super) const fn control_up(body: pb::client_control::Body) -> pb::ClientControl {
    pb::ClientControl { body: Some(body) }
}

/// A stream of messages.
pub(super) struct Stream {
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
    deframer: Deframer,
}

impl Stream {
    pub(super) async fn open(connection: &Connection) -> anyhow::Result<Self> {
        let (send, receive) = connection.open_bi().await?;
        Ok(Self { send, receive, deframer: Deframer::new(MAX_MESSAGE) })
    }

    pub(super) async fn send(&mut self, message: &impl Message) -> anyhow::Result<()> {
        Ok(self.send.write_all(&frame(message)).await?)
    }

    pub(super) async fn receive<M: Message + Default>(&mut self) -> anyhow::Result<M> {
        loop {
            if let Some(message) = self.deframer.pop()? {
                return Ok(message);
            }
            let chunk = self.receive.read_chunk(MAX_MESSAGE, true).await?.context("the stream ended")?;
            self.deframer.push(&chunk.bytes);
        }
    }
}
