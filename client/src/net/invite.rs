//! Inviting others, as an administrator of a relay.

use chrono::{DateTime, Local, SecondsFormat};
use serde_json::json;
use vchat_certs::code::Code;
use vchat_certs::invite::Link;
use vchat_certs::tls::Purpose;
use vchat_proto::id::misleads;
use vchat_proto::session::Loss;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::limits::PAIRING_TIMEOUT;
use vchat_proto::wire::pb;

use super::connect::{Connector, not_paired};
use super::link::loss;
use super::pair::PairError;
use super::talk::{Talk, alone};
use crate::cli::{InviteConfig, Target};

/// A new invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invited {
    /// A link or a code.
    pub secret: String,
    /// Whether it is a code.
    pub is_code: bool,
    /// When it is over, milliseconds since 1970 UTC.
    pub expires_ms: u64,
    /// What the relay is called.
    pub relay: String,
}

impl Invited {
    /// The invite as it is shown: what was asked for, for stdout; and what helps, for stderr.
    #[must_use]
    pub fn show(&self, json: bool) -> (String, String) {
        let Self { secret, is_code, relay, .. } = self;
        let expires = i64::try_from(self.expires_ms).ok().and_then(DateTime::from_timestamp_millis);
        let expires = expires.unwrap_or_default();
        if json {
            let (link, code) = if *is_code { (None, Some(secret)) } else { (Some(secret), None) };
            let expires = expires.to_rfc3339_opts(SecondsFormat::Secs, true);
            return (json!({"link": link, "code": code, "expires": expires}).to_string(), String::new());
        }
        let command = if *is_code {
            format!("vchat-client pair --relay {relay} --code {secret}")
        } else {
            format!("vchat-client {secret}")
        };
        let until = expires.with_timezone(&Local).format("%Y-%m-%d %H:%M");
        (secret.clone(), format!("Good until {until}. The invited person runs\n  {command}"))
    }
}

/// Asks the relay for an invite. Blocks until it has answered.
///
/// # Errors
/// The relay cannot be reached, or does not do it.
pub fn run(config: &InviteConfig) -> Result<Invited, PairError> {
    alone(&config.relay, &config.config_dir, &config.state_dir, async |connector| {
        ask(connector, config).await
    })
}

async fn ask(connector: &Connector, config: &InviteConfig) -> Result<Invited, PairError> {
    let refused = |loss| failure(connector.target(), loss);
    let connected = connector.connect(Purpose::Admin).await.map_err(refused)?;
    // The relay knows better what it is called, unless its operator has not said so.
    let relay = match connector.target() {
        Target::Relay(relay) => relay.to_string(),
        Target::Lan => String::new(),
    };
    let request = pb::InviteRequest {
        rooms: config.rooms.iter().map(|room| room.as_str().into()).collect(),
        uses: config.uses,
        ttl_s: config.ttl_s,
        code: config.code,
        admin: config.admin,
        relay: relay.clone(),
    };
    let message = pb::AdminUp { body: Some(pb::admin_up::Body::Invite(request)) };
    let exchange = async {
        let mut talk = Talk::open(&connected.connection, MAX_ANSWER).await?;
        talk.exchange::<pb::AdminUp, pb::AdminDown>(&message).await
    };
    let answer = tokio::time::timeout(PAIRING_TIMEOUT, exchange).await;
    vchat_quic::close(&connected.connection, CloseCode::Goodbye);
    connected.farewell().await;
    match answer {
        Ok(Ok(pb::AdminDown { body: Some(pb::admin_down::Body::Invite(made)) })) => {
            let is_code = made.link.is_empty();
            // What is printed is a link or a code and nothing else that a relay might send.
            let secret = if is_code {
                made.code.parse::<Code>().map(|code| code.to_string()).map_err(|e| e.to_string())
            } else {
                made.link.parse::<Link>().map(|link| link.to_string()).map_err(|e| e.to_string())
            };
            let secret = secret.map_err(|e| refused(Loss::Network(e)))?;
            let relay = if relay.is_empty() { "auto".into() } else { relay };
            Ok(Invited { secret, is_code, expires_ms: made.expires_ms, relay })
        }
        Ok(Ok(pb::AdminDown { body: Some(pb::admin_down::Body::Failed(why)) })) => {
            Err(PairError::Local(why.chars().map(|c| if misleads(c) { ' ' } else { c }).collect()))
        }
        Ok(Ok(pb::AdminDown { body: None })) => {
            Err(refused(Loss::Network("its answer makes no sense".into())))
        }
        Ok(Err(error)) => Err(refused(loss(&error))),
        Err(_) => Err(refused(Loss::Network("it does not answer".into()))),
    }
}

/// Why a relay has not done what it was asked for without a call.
pub(crate) fn failure(target: &Target, loss: Loss) -> PairError {
    match loss {
        Loss::Network(why) => PairError::Unreachable(target.clone(), why),
        Loss::Untrusted(why) => PairError::Refused(why),
        Loss::Closed(CloseCode::NotPaired) => PairError::Refused(not_paired(target, None)),
        Loss::Closed(CloseCode::NotAdmin) => PairError::Refused(format!(
            "the relay {target} takes invites only from administrators, which this device is not"
        )),
        Loss::Closed(code) => PairError::Refused(format!("the relay {target} refuses: {}", code.reason())),
    }
}

/// A link with the longest host name.
const MAX_ANSWER: usize = 1024;
