//! Making a connection: name, addresses, trust.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint};
use tokio::task::JoinSet;
use vchat_certs::identity::Identity;
use vchat_certs::known::{KnownError, KnownHosts};
use vchat_certs::pin::{Pin, peer_pin};
use vchat_certs::tls::{Purpose, ServerTrust, client_config};
use vchat_proto::session::Loss;

use crate::cli::Authority;

/// Knows who we are and which relays we trust.
///
/// Until devices are paired, a relay is trusted on first use: its key is remembered under the name it was called by, and
/// another key under that name is a hard stop.
pub(crate) struct Connector {
    relay: Authority,
    identity: Identity,
    known: KnownHosts,
    /// The key that the relay had when it first took us in. Holds for this run even where it could not be written down.
    met: Option<Pin>,
}

/// A connection whose other end has shown its key, but has not welcomed us yet.
pub(crate) struct Connected {
    pub(crate) connection: Connection,
    /// Keeps the socket open.
    pub(crate) endpoint: Endpoint,
    pub(crate) pin: Pin,
}

impl Connector {
    pub(crate) fn new(relay: Authority, config_dir: &Path, state_dir: &Path) -> Result<Self, String> {
        let identity = Identity::load_or_create(config_dir).map_err(|e| e.to_string())?;
        let known = KnownHosts::open(&state_dir.join("known_relays")).map_err(|e| e.to_string())?;
        Ok(Self { relay, identity, known, met: None })
    }

    pub(crate) const fn our_pin(&self) -> Pin {
        self.identity.pin()
    }

    /// Remembers the relay's key after its welcome. True when it was not known before.
    ///
    /// # Errors
    /// It could not be written down; or, [`KnownError::Changed`], another program has met this relay with another key
    /// since we looked.
    pub(crate) fn remember(&mut self, pin: Pin) -> Result<bool, KnownError> {
        let label = self.relay.to_string();
        if self.met.replace(pin).is_some() || self.known.get(&label).is_some() {
            return Ok(false);
        }
        self.known.remember(&label, pin)?;
        Ok(true)
    }

    fn pinned(&self) -> Option<Pin> {
        self.known.get(&self.relay.to_string()).map(|r| r.pin).or(self.met)
    }

    /// Connects to whichever address of the relay answers first.
    pub(crate) fn connect(&self) -> impl Future<Output = Result<Connected, Loss>> + Send + use<> {
        let relay = self.relay.clone();
        let pinned = self.pinned();
        let (identity, ours) = (self.identity.clone(), self.identity.pin());
        async move {
            let lookup = tokio::net::lookup_host((relay.host.as_str(), relay.port));
            let lookup = tokio::time::timeout(TIMEOUT, lookup).await.unwrap_or_else(|e| Err(e.into()));
            let mut addrs: Vec<SocketAddr> =
                lookup.map_err(|e| network(format!("cannot find {}: {e}", relay.host)))?.collect();
            let mut attempts = JoinSet::new();
            // A relay on this machine that listens on IPv4 alone leaves the attempt at ::1 without an answer.
            addrs.sort_by_key(|a| a.ip().is_loopback() && a.is_ipv6());
            for (i, addr) in addrs.into_iter().enumerate() {
                let identity = identity.clone();
                attempts.spawn(async move {
                    // Addresses are tried one after the other without waiting for the first to fail (RFC 8305, section 5).
                    tokio::time::sleep(STAGGER.saturating_mul(i as u32)).await;
                    tokio::time::timeout(TIMEOUT, attempt(addr, &identity, pinned)).await
                });
            }
            let mut worst = network(format!("{} has no address", relay.host));
            while let Some(result) = attempts.join_next().await {
                match result {
                    Ok(Ok(Ok(connected))) => return Ok(connected),
                    Ok(Ok(Err(Failure::OtherKey(theirs)))) => {
                        let pinned = pinned.map_or_else(String::new, |p| p.to_string());
                        return Err(Loss::Untrusted(format!(
                            "{relay} shows another key than before: {theirs} instead of {pinned} (ours: {ours}). Somebody may be \
                             in between. If the relay really has a new key, remove its line from known_relays in the state directory"
                        )));
                    }
                    Ok(Ok(Err(Failure::Other(loss)))) => worst = loss,
                    Ok(Err(_)) => {
                        worst = network("no answer; is the relay running, and does UDP reach it?".into())
                    }
                    Err(e) => worst = network(e.to_string()),
                }
            }
            Err(worst)
        }
    }
}

enum Failure {
    OtherKey(Pin),
    Other(Loss),
}

async fn attempt(addr: SocketAddr, identity: &Identity, pinned: Option<Pin>) -> Result<Connected, Failure> {
    let failed = |e: String| Failure::Other(network(e));
    let trust = pinned.map_or(ServerTrust::FirstUse, |pin| ServerTrust::Pinned(vec![pin]));
    let (tls, refused) = client_config(identity, trust, Purpose::Call).map_err(|e| failed(e.to_string()))?;
    let endpoint = vchat_quic::client_endpoint(addr, tls).map_err(|e| failed(e.to_string()))?;
    // The name is not sent (no SNI) and not checked (the key is).
    let connecting = endpoint.connect(addr, "vchat").map_err(|e| failed(e.to_string()))?;
    let connection = connecting.await.map_err(|e| match refused.take() {
        Some(theirs) => Failure::OtherKey(theirs),
        None => Failure::Other(loss(&e)),
    })?;
    let pin = peer_pin(connection.peer_identity()).ok_or_else(|| failed("the relay shows no key".into()))?;
    Ok(Connected { connection, endpoint, pin })
}

/// What a broken connection means for the session.
pub(crate) fn loss(error: &ConnectionError) -> Loss {
    match vchat_quic::close_code(error) {
        Some(code) => Loss::Closed(code),
        None => network(error.to_string()),
    }
}

const fn network(why: String) -> Loss {
    Loss::Network(why)
}

/// RFC 8305 recommends 250 ms between attempts.
const STAGGER: Duration = Duration::from_millis(250);
/// Several retransmissions of the first packet; longer would only keep the user in doubt.
const TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_cannot_be_written_down_still_holds_for_this_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let relay = Authority::parse("relay.example").expect("a relay");
        let mut connector = Connector::new(relay, dir.path(), &state).expect("an identity");
        assert_eq!(connector.pinned(), None);
        std::fs::write(&state, "a file where the directory should be").expect("written");
        assert!(connector.remember(Pin([7; 32])).is_err());
        assert_eq!(connector.pinned(), Some(Pin([7; 32])));
    }
}
