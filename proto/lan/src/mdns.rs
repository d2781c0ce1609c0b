//! The thread of `mdns-sd`: started on chosen addresses, ended with its handle.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mdns_sd::{Error, IfKind, IfPredicate, ServiceDaemon};
use socket2::{Domain, Protocol, Socket, Type};

use crate::LanError;

/// A running thread of `mdns-sd`. Dropping it withdraws what it announces and ends it.
pub(crate) struct Daemon(ServiceDaemon);

impl Daemon {
    /// Starts one that uses only the addresses of this machine for which `wanted` says so, given the address and the
    /// index of its interface, now and whenever addresses change.
    pub(crate) fn start(
        port: u16,
        wanted: impl Fn(IpAddr, Option<u32>) -> bool + Send + Sync + 'static,
    ) -> Result<Self, LanError> {
        check_sockets(port)?;
        let daemon = Self(ServiceDaemon::new_with_port(port)?);
        // Commands are taken in order, so nothing is sent on the other interfaces.
        let unwanted = IfPredicate::new(move |interface| !wanted(interface.ip(), interface.index));
        daemon.disable_interface(IfKind::Predicate(unwanted))?;
        Ok(daemon)
    }
}

impl Deref for Daemon {
    type Target = ServiceDaemon;

    fn deref(&self) -> &ServiceDaemon {
        &self.0
    }
}

impl Drop for Daemon {
    /// The thread does not end by itself when its handle goes, and it answers once the goodbyes are with the kernel.
    fn drop(&mut self) {
        let started = Instant::now();
        while let Some(left) = FAREWELL.checked_sub(started.elapsed()) {
            match self.0.shutdown() {
                Ok(ended) => {
                    // It has the order: it ends even if that takes longer than we wait.
                    drop(ended.recv_timeout(left));
                    return;
                }
                Err(Error::Again) => sleep(FULL_QUEUE),
                Err(_) => return,
            }
        }
        tracing::debug!("mDNS is too busy to be ended");
    }
}

/// `mdns-sd` opens its sockets in its thread and keeps quiet when that fails, so see first whether it can.
/// An address family that is switched off is no error while there is the other.
fn check_sockets(port: u16) -> io::Result<()> {
    let open = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())
    };
    open(Ipv4Addr::UNSPECIFIED.into()).or_else(|error| open(Ipv6Addr::UNSPECIFIED.into()).map_err(|_| error))
}

/// Longest wait for the goodbyes, which take about a millisecond unless the link is flooded.
const FAREWELL: Duration = Duration::from_millis(500);

/// The queue of commands holds 100 and is full only while the thread reads a flood of packets.
const FULL_QUEUE: Duration = Duration::from_millis(10);
