//! Pairing: the client's side of the first contact.

use std::time::Duration;

use quinn::ConnectionError;
use vchat_certs::code::Code;
use vchat_certs::invite::Link;
use vchat_certs::known::KnownError;
use vchat_certs::pake::{Client, EXPORTER_LABEL, Exporter};
use vchat_certs::pin::Pin;
use vchat_certs::tls::{Purpose, ServerTrust};
use vchat_proto::id::{DisplayName, RoomName};
use vchat_proto::session::{End, Loss};
use vchat_proto::wire::limits::{MAX_PAIRING, PAIRING_TIMEOUT};
use vchat_proto::wire::pb;

use super::connect::{Connector, label_of, list};
use super::link::loss;
use super::reach::{self, Connected, Terms, Unreached};
use super::talk::{Talk, alone};
use crate::cli::{Invite, PairConfig, Target};

/// What came of a pairing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paired {
    /// What the relay is called from now on.
    pub relay: String,
    /// Its key.
    pub pin: Pin,
    /// Our own.
    pub ours: Pin,
    /// The rooms that we may enter; any, if there is none.
    pub rooms: Vec<RoomName>,
    /// The room that the invite was for.
    pub room: Option<RoomName>,
    /// Whether we may invite others.
    pub admin: bool,
}

/// Pairs with a relay, as `vchat-client pair` does. Blocks until it is done.
///
/// # Errors
/// As for [`pair`]; or no identity, or no runtime.
pub fn run(config: &PairConfig) -> Result<Paired, PairError> {
    alone(&config.relay, &config.config_dir, &config.state_dir, async |connector| {
        let (paired, closed) = pair(connector, &config.invite, &config.name).await?;
        closed.farewell().await;
        Ok(paired)
    })
}

/// Why a pairing failed; in one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The relay cannot be reached.
    #[error("the relay {0} cannot be reached: {1}")]
    Unreachable(Target, String),
    /// It refuses, or is not who it should be.
    #[error("{0}")]
    Refused(String),
    /// Something is wrong on this machine.
    #[error("{0}")]
    Local(String),
}

impl From<PairError> for End {
    fn from(error: PairError) -> Self {
        match error {
            PairError::Unreachable(_, why) => Self::Unreachable(why),
            PairError::Refused(why) | PairError::Local(why) => Self::Untrusted(why),
        }
    }
}

/// Makes this device and the relay known to each other, and writes the relay's key down. Also returns the connection, which
/// is closed and is to live until that is sent.
///
/// # Errors
/// See [`PairError`]. What the relay may have written down by then does no harm: the same device may use the same link again.
pub(crate) async fn pair(
    connector: &mut Connector,
    invite: &Invite,
    name: &DisplayName,
) -> Result<(Paired, Connected), PairError> {
    let wanted = match invite {
        Invite::Link(link) => vec![link.pin],
        Invite::Code(_) => Vec::new(),
    };
    let addrs = match connector.target() {
        Target::Relay(relay) => reach::look_up(relay).await,
        Target::Lan => one_of(reach::look_around(wanted.clone()).await, &wanted),
    };
    let addrs = addrs.map_err(|why| PairError::Unreachable(connector.target().clone(), why))?;
    // Before the invite is spent. Of a relay of the local network nothing but its key is known.
    if let (Invite::Link(link), Target::Relay(relay)) = (invite, connector.target()) {
        connector.check(&relay.to_string(), link.pin).map_err(|e| PairError::Refused(e.to_string()))?;
    }
    let trust = match invite {
        Invite::Link(link) => ServerTrust::Pinned(vec![link.pin]),
        // Whose key it is shows in the exchange.
        Invite::Code(_) => ServerTrust::FirstUse,
    };
    let terms = Terms { identity: connector.identity().clone(), trust, purpose: Purpose::Pair };
    let mut waited = Duration::ZERO;
    loop {
        let connected =
            reach::connect(addrs.clone(), &terms).await.map_err(|e| unreached(connector, invite, e))?;
        let label = label_of(connector.target(), connected.pin);
        connector.check(&label, connected.pin).map_err(|e| PairError::Refused(e.to_string()))?;
        let talk = tokio::time::timeout(PAIRING_TIMEOUT, talk(&connected, connector.our_pin(), invite, name));
        let answer = match talk.await {
            Ok(answer) => answer,
            Err(_) => Err(Broken::Why("it does not answer".into())),
        };
        vchat_quic::close(&connected.connection, vchat_proto::wire::close::CloseCode::Goodbye);
        match answer {
            Ok(Answer::Paired(paired)) => {
                let paired = remember(connector, label, connected.pin, paired)?;
                return Ok((paired, connected));
            }
            // Somebody else tries the same code, or the relay still waits for an attempt of ours that was broken off. Nothing of
            // the code was shown: only before that is this answer taken.
            Ok(Answer::Refused(pb::PairRefusal::Busy)) if waited < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
                waited += PAUSE;
            }
            Ok(Answer::Refused(why)) => return Err(PairError::Refused(refused(connector.target(), why))),
            Err(Broken::Impostor) => {
                return Err(PairError::Refused(impostor(connector.target(), connected.pin)));
            }
            Err(Broken::Why(why)) => return Err(PairError::Unreachable(connector.target().clone(), why)),
        }
    }
}

enum Answer {
    Paired(pb::Paired),
    Refused(pb::PairRefusal),
}

enum Broken {
    /// The relay does not have the code, so it is not the one that gave it out.
    Impostor,
    Why(String),
}

async fn talk(
    connected: &Connected,
    ours: Pin,
    invite: &Invite,
    name: &DisplayName,
) -> Result<Answer, Broken> {
    let talk = Talk::open(&connected.connection, MAX_PAIRING).await.map_err(lost)?;
    let mut stream = Stream { connected, talk };
    match invite {
        Invite::Link(link) => by_link(&mut stream, link, name).await,
        Invite::Code(code) => by_code(&mut stream, ours, code, name).await,
    }
}

async fn by_link(stream: &mut Stream<'_>, link: &Link, name: &DisplayName) -> Result<Answer, Broken> {
    let token = link.token.as_bytes().to_vec();
    let first = pb::PairByLink { token, name: name.as_str().into(), agent: AGENT.into() };
    match stream.exchange(pb::pair_up::Body::Link(first)).await? {
        pb::pair_down::Body::Paired(paired) => Ok(Answer::Paired(paired)),
        pb::pair_down::Body::Refused(refused) => Ok(Answer::Refused(refused.why())),
        pb::pair_down::Body::Share(_) => Err(nonsense()),
    }
}

async fn by_code(
    stream: &mut Stream<'_>,
    ours: Pin,
    code: &Code,
    name: &DisplayName,
) -> Result<Answer, Broken> {
    let connection = &stream.connected.connection;
    let mut exporter: Exporter = [0; 32];
    let exported = connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]);
    exported.map_err(|_| Broken::Why("TLS gives no exporter".into()))?;
    let (client, share) = Client::start(code, ours, stream.connected.pin);
    let nameplate = code.nameplate().into();
    let first = pb::PairByCode { nameplate, share, name: name.as_str().into(), agent: AGENT.into() };
    let share = match stream.exchange(pb::pair_up::Body::Code(first)).await? {
        pb::pair_down::Body::Share(share) => share.share,
        pb::pair_down::Body::Refused(refused) => return Ok(Answer::Refused(refused.why())),
        pb::pair_down::Body::Paired(_) => return Err(Broken::Impostor),
    };
    let (client, proof) = client.prove(&share, &exporter).map_err(|_| Broken::Impostor)?;
    match stream.exchange(pb::pair_up::Body::Proof(pb::PairProof { proof })).await? {
        pb::pair_down::Body::Paired(paired) => {
            client.check(&paired.proof).map_err(|_| Broken::Impostor)?;
            Ok(Answer::Paired(paired))
        }
        // Whoever has our proof can test one guess with it. It gets no second one by an answer on which we would try again.
        pb::pair_down::Body::Refused(refused) if refused.why() != pb::PairRefusal::Busy => {
            Ok(Answer::Refused(refused.why()))
        }
        pb::pair_down::Body::Refused(_) | pb::pair_down::Body::Share(_) => Err(Broken::Impostor),
    }
}

struct Stream<'a> {
    connected: &'a Connected,
    talk: Talk,
}

impl Stream<'_> {
    /// Sends a message and waits for the answer.
    async fn exchange(&mut self, body: pb::pair_up::Body) -> Result<pb::pair_down::Body, Broken> {
        let message = pb::PairUp { body: Some(body) };
        let answer = self.talk.exchange::<pb::PairUp, pb::PairDown>(&message).await.map_err(lost)?;
        answer.body.ok_or_else(nonsense)
    }
}

fn remember(
    connector: &mut Connector,
    relay: String,
    pin: Pin,
    paired: pb::Paired,
) -> Result<Paired, PairError> {
    connector.paired(&relay, pin).map_err(|e| match e {
        KnownError::Changed { .. } => PairError::Refused(e.to_string()),
        other => PairError::Local(format!("paired, but this cannot be written down: {other}")),
    })?;
    let room = |text: &String| RoomName::parse(text).ok();
    let rooms = paired.rooms.iter().filter_map(room).collect();
    let called = match connector.target() {
        Target::Relay(_) => relay,
        Target::Lan => "auto".into(),
    };
    Ok(Paired {
        relay: called,
        pin,
        ours: connector.our_pin(),
        rooms,
        room: room(&paired.room),
        admin: paired.admin,
    })
}

/// The addresses of the relay that is meant, or of the only one there is.
fn one_of(
    found: Result<Vec<vchat_lan::Found>, String>,
    wanted: &[Pin],
) -> Result<Vec<std::net::SocketAddr>, String> {
    let mut found = found?;
    if !wanted.is_empty() {
        found.retain(|f| wanted.contains(&f.pin));
    }
    match &found[..] {
        [one] => Ok(one.addrs.clone()),
        [] => Err("it does not answer there; name it with --relay HOST".into()),
        several => Err(format!("there are several: {}. Name one with --relay", list(several))),
    }
}

fn unreached(connector: &Connector, invite: &Invite, error: Unreached) -> PairError {
    let target = connector.target();
    match (error, invite) {
        (Unreached::OtherKey(theirs), Invite::Link(link)) => PairError::Refused(format!(
            "the relay {target} is not the one of this invite: it shows the key {theirs} instead of {}. Somebody may be in \
             between, or the relay was set up anew; ask its operator for a new invite",
            link.pin
        )),
        (Unreached::OtherKey(theirs), Invite::Code(_)) => PairError::Refused(impostor(target, theirs)),
        (Unreached::Closed(e), _) => PairError::Unreachable(target.clone(), words(&e)),
        (Unreached::Network(why), _) => PairError::Unreachable(target.clone(), why),
    }
}

fn impostor(target: &Target, theirs: Pin) -> String {
    format!(
        "the relay {target} does not have this code: somebody may be in between (with the key {theirs}), or the code is another \
         relay's. Ask the operator for a new one"
    )
}

fn refused(target: &Target, why: pb::PairRefusal) -> String {
    let helps = matches!(
        why,
        pb::PairRefusal::Unknown
            | pb::PairRefusal::Used
            | pb::PairRefusal::Expired
            | pb::PairRefusal::Code
            | pb::PairRefusal::Revoked
    );
    let why = match why {
        pb::PairRefusal::Unknown => "it does not know this invite; it may have been taken back",
        pb::PairRefusal::Used => "this invite has been used",
        pb::PairRefusal::Expired => "this invite is over",
        pb::PairRefusal::Code => {
            "the code is wrong, used or over; after three wrong tries it is good no more"
        }
        pb::PairRefusal::Busy => "somebody else is trying the same code; try again in a moment",
        pb::PairRefusal::Revoked => "it has revoked this device since this invite was made",
        pb::PairRefusal::Name => "it does not take this name",
        pb::PairRefusal::Full => "it has as many devices as it can have",
        pb::PairRefusal::Unspecified => "it could not write this device down; its log says why",
    };
    let new_invite = if helps { ". Ask its operator for a new invite" } else { "" };
    format!("the relay {target} does not let this device in: {why}{new_invite}")
}

fn lost(error: ConnectionError) -> Broken {
    Broken::Why(words(&error))
}

fn words(error: &ConnectionError) -> String {
    match loss(error) {
        Loss::Closed(code) => code.reason().into(),
        Loss::Network(why) | Loss::Untrusted(why) => why,
    }
}

fn nonsense() -> Broken {
    Broken::Why("its answer makes no sense".into())
}

const AGENT: &str = concat!("vchat-client ", env!("CARGO_PKG_VERSION"));

/// How long to wait for a code that somebody else is trying: longer than a relay lets an attempt take.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);
