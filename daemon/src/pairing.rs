//! A stranger's connection, in which a device becomes known.
//!
//! What is here can reach the [`Registry`] and nothing else: no room, no member. That is the whole of what an unpaired
//! client can talk to.

use std::time::{Duration, Instant};

use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::watch;
use vchat_certs::code::Code;
use vchat_certs::codes::Attempt;
use vchat_certs::invite::Token;
use vchat_certs::pake::{EXPORTER_LABEL, Exporter, Relay};
use vchat_certs::pin::Pin;
use vchat_proto::admission::Outcome;
use vchat_proto::id::{DisplayName, RoomName};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::limits::{MAX_PAIRING, PAIRING_TIMEOUT};
use vchat_proto::wire::pb;

use crate::connection::{End, next, without_media};
use crate::keys::Shown;
use crate::registry::{CodeBegin, Device, Refusal, Registry, Role, unix_ms_now};

/// Everything that strangers can reach.
pub(crate) struct Desk {
    pub(crate) registry: Registry,
    /// The pin of the key with which the relay has met this stranger.
    pub(crate) relay: Pin,
    /// The relay's keys by now.
    pub(crate) keys: watch::Receiver<Shown>,
}

impl Desk {
    /// Whether the relay has changed its key meanwhile. The stranger would then remember one that is no longer used.
    fn is_outdated(&self) -> bool {
        self.keys.borrow().current.pin() != self.relay
    }
}

/// Pairs a client, or refuses it, and closes the connection. The outcome is for the admission of later attempts.
pub(crate) async fn serve(connection: &Connection, pin: Pin, desk: &Desk) -> Outcome {
    let address = connection.remote_address();
    let pairing = without_media(connection, PROTOCOL, pair(connection, pin, desk));
    let (code, outcome) = match tokio::time::timeout(PAIRING_TIMEOUT, pairing).await {
        Ok(Ok(Answer::Paired)) => (CloseCode::Goodbye, Outcome::Paired),
        Ok(Ok(Answer::Refused)) => (CloseCode::Goodbye, FAILED),
        Ok(Ok(Answer::Unable)) => (CloseCode::Goodbye, Outcome::Gone),
        Ok(Err(End::Protocol(code))) => (code, FAILED),
        Ok(Err(End::Goodbye | End::Connection)) => return FAILED,
        Err(_) => (CloseCode::HelloTimeout, FAILED),
    };
    if code == CloseCode::Goodbye {
        farewell(connection).await;
    } else {
        tracing::debug!(%address, "a pairing was broken off: {}", code.reason());
        vchat_quic::close(connection, code);
    }
    outcome
}

/// Closes a connection whose one answer is written.
pub(crate) async fn farewell(connection: &Connection) {
    // The client closes when it has the answer; a close from here might overtake it.
    drop(tokio::time::timeout(FAREWELL, connection.closed()).await);
    vchat_quic::close(connection, CloseCode::Goodbye);
}

enum Answer {
    Paired,
    Refused,
    /// For a reason that is not the client's fault.
    Unable,
}

async fn pair(connection: &Connection, pin: Pin, desk: &Desk) -> Result<Answer, End> {
    let (mut send, mut receive) = connection.accept_bi().await.map_err(|_| End::Connection)?;
    let mut deframer = Deframer::new(MAX_PAIRING);
    let (result, proof) = match read(&mut receive, &mut deframer).await? {
        pb::pair_up::Body::Link(link) => (by_link(link, pin, desk).await?, Vec::new()),
        pb::pair_up::Body::Code(code) => {
            let exchange = Exchange { connection, pin, desk };
            exchange.run(code, &mut send, &mut receive, &mut deframer).await?
        }
        pb::pair_up::Body::Proof(_) => return Err(PROTOCOL),
    };
    let (body, answer) = match result {
        Ok((device, room)) => {
            tracing::info!(fingerprint = %pin, "paired a device");
            (pb::pair_down::Body::Paired(paired(&device, room, proof)), Answer::Paired)
        }
        Err(why) => {
            let ours = matches!(
                why,
                pb::PairRefusal::Busy
                    | pb::PairRefusal::Full
                    | pb::PairRefusal::Name
                    | pb::PairRefusal::Unspecified
            );
            let answer = if ours { Answer::Unable } else { Answer::Refused };
            tracing::info!(address = %connection.remote_address(), "refused to pair a device: {why:?}");
            (pb::pair_down::Body::Refused(pb::PairRefused { why: why.into() }), answer)
        }
    };
    write(&mut send, body).await?;
    // Fails only when it is finished already.
    drop(send.finish());
    Ok(answer)
}

/// The answer of the registry, or why it is no.
type Verdict = Result<(Device, Option<RoomName>), pb::PairRefusal>;

async fn by_link(link: pb::PairByLink, pin: Pin, desk: &Desk) -> Result<Verdict, End> {
    let Some(token) = Token::from_bytes(&link.token) else { return Err(PROTOCOL) };
    let Ok(name) = DisplayName::parse(&link.name) else { return Ok(Err(pb::PairRefusal::Name)) };
    if desk.is_outdated() {
        return Ok(Err(pb::PairRefusal::Busy));
    }
    let redeemed = desk.registry.ask(move |l| l.redeem_link(unix_ms_now(), &token, pin, &name)).await;
    Ok(verdict(redeemed.map_err(|_| End::Connection)?))
}

/// Pairing by a code.
struct Exchange<'a> {
    connection: &'a Connection,
    pin: Pin,
    desk: &'a Desk,
}

impl Exchange<'_> {
    /// Runs the exchange. Also gives the proof for the client when it paired.
    async fn run(
        &self,
        hello: pb::PairByCode,
        send: &mut SendStream,
        receive: &mut RecvStream,
        deframer: &mut Deframer,
    ) -> Result<(Verdict, Vec<u8>), End> {
        let Ok(name) = DisplayName::parse(&hello.name) else {
            return Ok((Err(pb::PairRefusal::Name), Vec::new()));
        };
        let exporter = exporter(self.connection)?;
        let nameplate = u16::try_from(hello.nameplate).unwrap_or(0);
        let begun = self.desk.registry.ask(move |l| l.begin_code(Instant::now(), nameplate)).await;
        let (attempt, code, made_up) =
            match begun.map_err(|_| End::Connection)?.map_err(|_| End::Connection)? {
                CodeBegin::With { attempt, code, made_up } => (attempt, code, made_up),
                CodeBegin::Busy => return Ok((Err(pb::PairRefusal::Busy), Vec::new())),
            };
        let mut guard = Guard { attempt: Some(attempt), registry: &self.desk.registry };
        let shown = self.show(&code, &hello.share, &exporter, (send, receive, deframer)).await?;
        // Nobody can have proved a code that was made up.
        let Some(proof) = shown.filter(|_| !made_up) else {
            guard.was_wrong().await?;
            return Ok((Err(pb::PairRefusal::Code), Vec::new()));
        };
        if self.desk.is_outdated() {
            return Err(End::Connection);
        }
        let Some(attempt) = guard.attempt.take() else { return Err(End::Connection) };
        let pin = self.pin;
        let redeem = move |l: &mut crate::registry::Ledger| {
            l.redeem_code(unix_ms_now(), Instant::now(), attempt, pin, &name)
        };
        let redeemed = self.desk.registry.ask(redeem).await.map_err(|_| End::Connection)?;
        Ok((verdict(redeemed), proof))
    }

    /// Exchanges shares and takes the client's proof. Gives the relay's proof if that is right, none if it is wrong.
    async fn show(
        &self,
        code: &Code,
        share: &[u8],
        exporter: &Exporter,
        (send, receive, deframer): (&mut SendStream, &mut RecvStream, &mut Deframer),
    ) -> Result<Option<Vec<u8>>, End> {
        let Ok((relay, share)) = Relay::answer(code, self.pin, self.desk.relay, share, exporter) else {
            return Ok(None);
        };
        write(send, pb::pair_down::Body::Share(pb::PairShare { share })).await?;
        let pb::pair_up::Body::Proof(proof) = read(receive, deframer).await? else { return Err(PROTOCOL) };
        Ok(relay.check(&proof.proof).ok())
    }
}

/// An attempt at a code that is given back if the exchange ends early, however it does.
struct Guard<'a> {
    attempt: Option<Attempt>,
    registry: &'a Registry,
}

impl Guard<'_> {
    async fn was_wrong(&mut self) -> Result<(), End> {
        match self.attempt.take() {
            Some(attempt) => {
                self.registry.ask(move |l| l.code_was_wrong(attempt)).await.map_err(|_| End::Connection)
            }
            None => Ok(()),
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            let registry = self.registry.clone();
            // Fails only with the whole relay.
            tokio::spawn(async move { registry.ask(move |l| l.abandon_code(attempt)).await });
        }
    }
}

fn verdict(redeemed: Result<(Device, Option<RoomName>), Refusal>) -> Verdict {
    redeemed.map_err(|why| match why {
        Refusal::Unknown => pb::PairRefusal::Unknown,
        Refusal::Used => pb::PairRefusal::Used,
        Refusal::Expired => pb::PairRefusal::Expired,
        Refusal::Code => pb::PairRefusal::Code,
        Refusal::Revoked => pb::PairRefusal::Revoked,
        Refusal::Full => pb::PairRefusal::Full,
        Refusal::Ledger(e) => {
            tracing::error!("a device could not be stored: {e}");
            pb::PairRefusal::Unspecified
        }
    })
}

fn paired(device: &Device, room: Option<RoomName>, proof: Vec<u8>) -> pb::Paired {
    let rooms = device.rooms.iter().map(|room| room.as_str().into()).collect();
    let room = room.map_or_else(String::new, |room| room.as_str().into());
    pb::Paired { proof, rooms, admin: device.role == Role::Admin, room }
}

/// What belongs to this TLS session alone.
fn exporter(connection: &Connection) -> Result<Exporter, End> {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).map_err(|_| End::Connection)?;
    Ok(exporter)
}

async fn read(receive: &mut RecvStream, deframer: &mut Deframer) -> Result<pb::pair_up::Body, End> {
    match next::<pb::PairUp>(receive, deframer).await? {
        Some(pb::PairUp { body: Some(body) }) => Ok(body),
        Some(pb::PairUp { body: None }) => Err(PROTOCOL),
        None => Err(End::Connection),
    }
}

async fn write(send: &mut SendStream, body: pb::pair_down::Body) -> Result<(), End> {
    send.write_all(&frame(&pb::PairDown { body: Some(body) })).await.map_err(|_| End::Connection)
}

const PROTOCOL: End = End::Protocol(CloseCode::Protocol);

/// The handshake is done, so the address is real.
const FAILED: Outcome = Outcome::Failed { proven: true };

/// For the answer to arrive and the client's close to come back; a round trip to anywhere.
const FAREWELL: Duration = Duration::from_secs(1);
