//! Reaching a relay: names, addresses, the first that answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn::{Connection, ConnectionError, Endpoint};
use tokio::task::JoinSet;
use vchat_certs::authority::Authority;
use vchat_certs::identity::Identity;
use vchat_certs::pin::{Pin, peer_pin};
use vchat_certs::tls::{Purpose, ServerTrust, client_config};
use vchat_lan::Found;

/// A connection whose other end has proved its key, but has not welcomed us yet.
pub(crate) struct Connected {
    pub(crate) connection: Connection,
    /// Keeps the socket open.
    pub(crate) endpoint: Endpoint,
    pub(crate) pin: Pin,
}

impl Connected {
    /// Waits until the close of the connection is sent; the other side notices in time also without.
    pub(crate) async fn farewell(&self) {
        drop(tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await);
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Unreached {
    /// The relay shows this key, which is none of those that are trusted.
    OtherKey(Pin),
    /// The relay closed the connection.
    Closed(ConnectionError),
    /// Anything else, in words.
    Network(String),
}

/// Who we are, whom we trust, and what for.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) identity: Identity,
    pub(crate) trust: ServerTrust,
    pub(crate) purpose: Purpose,
}

/// Looks up the addresses of a relay.
pub(crate) async fn look_up(relay: &Authority) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::net::lookup_host((relay.host.as_str(), relay.port));
    let lookup = tokio::time::timeout(TIMEOUT, lookup).await.unwrap_or_else(|e| Err(e.into()));
    let mut addrs: Vec<SocketAddr> =
        lookup.map_err(|e| format!("cannot find {}: {e}", relay.host))?.collect();
    // A relay on this machine that listens on IPv4 alone leaves the attempt at ::1 without an answer.
    addrs.sort_by_key(|a| a.ip().is_loopback() && a.is_ipv6());
    Ok(addrs)
}

/// Looks for relays on the local network, until one of these keys is among them or, without any, until the time is over.
///
/// What is found is hearsay: whoever uses it verifies the key by connecting.
pub(crate) async fn look_around(wanted: Vec<Pin>) -> Result<Vec<Found>, String> {
    let search = move || {
        let mut seen_at: Option<Instant> = None;
        vchat_lan::browse(LOOK_AROUND, |found| {
            if seen_at.is_none() && found.iter().any(|f| wanted.contains(&f.pin)) {
                seen_at = Some(Instant::now());
            }
            // Its further addresses come a moment later.
            seen_at.is_some_and(|at| at.elapsed() >= SETTLE)
        })
    };
    let found = tokio::task::spawn_blocking(search).await.map_err(|e| e.to_string())?;
    found.map_err(|e| format!("cannot look around on this network: {e}"))
}

/// Connects to whichever of these addresses of one relay answers first.
pub(crate) async fn connect(addrs: Vec<SocketAddr>, terms: &Terms) -> Result<Connected, Unreached> {
    let mut attempts = JoinSet::new();
    for (i, addr) in addrs.into_iter().enumerate() {
        let terms = terms.clone();
        attempts.spawn(async move {
            // Addresses are tried one after the other without waiting for the first to fail (RFC 8305, section 5).
            tokio::time::sleep(STAGGER.saturating_mul(i as u32)).await;
            tokio::time::timeout(TIMEOUT, attempt(addr, &terms)).await
        });
    }
    let mut worst = Unreached::Network("it has no address".into());
    while let Some(result) = attempts.join_next().await {
        match result {
            Ok(Ok(Ok(connected))) => return Ok(connected),
            // Another key at one address does not mean that the relay is not at another; but if it is not, that is what to tell.
            Ok(Ok(Err(other_key @ Unreached::OtherKey(_)))) => worst = other_key,
            _ if matches!(worst, Unreached::OtherKey(_)) => {}
            Ok(Ok(Err(other))) => worst = other,
            Ok(Err(_)) => {
                worst = Unreached::Network("no answer; is the relay running, and does UDP reach it?".into());
            }
            Err(e) => worst = Unreached::Network(e.to_string()),
        }
    }
    Err(worst)
}

async fn attempt(addr: SocketAddr, terms: &Terms) -> Result<Connected, Unreached> {
    let failed = |e: String| Unreached::Network(e);
    let Terms { identity, trust, purpose } = terms;
    let (tls, refused) =
        client_config(identity, trust.clone(), *purpose).map_err(|e| failed(e.to_string()))?;
    let endpoint = vchat_quic::client_endpoint(addr, tls).map_err(|e| failed(e.to_string()))?;
    // The name is not sent (no SNI) and not checked (the key is).
    let connecting = endpoint.connect(addr, "vchat").map_err(|e| failed(e.to_string()))?;
    let connection = connecting.await.map_err(|e| match refused.take() {
        Some(theirs) => Unreached::OtherKey(theirs),
        None => Unreached::Closed(e),
    })?;
    let pin = peer_pin(connection.peer_identity()).ok_or_else(|| failed("the relay shows no key".into()))?;
    Ok(Connected { connection, endpoint, pin })
}

/// RFC 8305 recommends 250 ms between attempts.
const STAGGER: Duration = Duration::from_millis(250);
/// Several retransmissions of the first packet; longer would only keep the user in doubt.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A relay answers within a tenth of a second; one that has just answered somebody else, within a second of that (RFC 6762,
/// section 6).
const LOOK_AROUND: Duration = Duration::from_secs(3);
/// Between the answers of the two address families.
const SETTLE: Duration = Duration::from_millis(100);
/// For a close to be sent and answered.
const FAREWELL: Duration = Duration::from_millis(200);
