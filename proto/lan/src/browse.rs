//! The client's side: asking who is there.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mdns_sd::{MDNS_PORT, RecvTimeoutError, ServiceEvent};

use crate::found::{Found, Listing};
use crate::mdns::Daemon;
use crate::{LanError, SERVICE_TYPE};

/// Collects the relays that answer, until `enough` says so or `timeout` is over. Blocks: call it on a worker thread.
///
/// Asks on every interface, loopback included, and asks again after one, three and seven seconds. Most relays answer
/// within 0.1 s; give it two seconds or more to hear those that had answered somebody else in the second before.
///
/// `enough` sees all that is found so far, after every change and at least ten times a second. An address family or
/// an interface may add its addresses a little later, so rather wait a moment than stop at the first sight of
/// a relay. What has taken its leave is not in the list any more.
///
/// Each [`Found`] is a hint, however its pin looks: see the [crate's documentation](crate).
pub fn browse(timeout: Duration, enough: impl FnMut(&[Found]) -> bool) -> Result<Vec<Found>, LanError> {
    browse_on(MDNS_PORT, |_| true, timeout, enough)
}

/// As [`browse()`], on a port and on the addresses of this machine that are `wanted`.
pub(crate) fn browse_on(
    mdns_port: u16,
    wanted: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    timeout: Duration,
    mut enough: impl FnMut(&[Found]) -> bool,
) -> Result<Vec<Found>, LanError> {
    let daemon = Daemon::start(mdns_port, move |ip, _| wanted(ip))?;
    let events = daemon.browse(SERVICE_TYPE)?;
    let started = Instant::now();
    let (mut listing, mut relays) = (Listing::default(), Vec::new());
    while let Some(left) = timeout.checked_sub(started.elapsed()) {
        let changed = match events.recv_timeout(left.min(TICK)) {
            Ok(ServiceEvent::ServiceResolved(service)) => listing.update(&service),
            Ok(ServiceEvent::ServiceRemoved(_, fullname)) => listing.remove(&fullname),
            Ok(_) | Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                tracing::debug!("browsing ended early: mDNS died or was flooded");
                break;
            }
        };
        if changed {
            relays = listing.relays();
        }
        if enough(&relays) {
            break;
        }
    }
    Ok(relays)
}

/// How often `enough` is asked at least, so that a caller who has lost interest is noticed soon.
const TICK: Duration = Duration::from_millis(100);
