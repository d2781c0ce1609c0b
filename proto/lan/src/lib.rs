//! How relays are found on a local network: advertise and browse by mDNS/DNS-SD, alike on relay and client.
//!
//! A relay runs an [`Advertisement`]; a client calls [`browse()`] and gets every relay that answers as a [`Found`].
//!
//! # On the wire
//! Multicast DNS (RFC 6762) with service discovery (RFC 6763), so any DNS-SD browser shows relays too. For each UDP
//! port a relay listens on there is one instance of the service type `_vchat._udp.local.`:
//!
//! ```text
//! instance  <name> (<pin, 2 groups>:<port>)     Attic (mfrg-gzdf:4433)
//! SRV       vchat-<pin, 16 characters>-<port>.local., the port
//! TXT       v=1 pin=<52 characters of base32, no dashes>
//! A, AAAA   of each interface the addresses of that interface, nothing of the others
//! ```
//!
//! Instance and host name hold a part of the pin and the port, so they are unique without asking the network first:
//! nothing is renamed when two relays have one name, and a restarted relay does not argue with its own past.
//!
//! # Nothing here is proof
//! Anybody on the network may announce any name, pin and address. A [`Found`] is a *hint* where the owner of a pin may
//! be reached. The caller connects with TLS and demands that pin; only that proves who answers.
//!
//! # Limits of `mdns-sd`
//! The crate underneath runs a thread per [`Advertisement`] and per [`browse()`]. It leaves out point-to-point
//! interfaces (tunnels), looks for changed addresses every five seconds, and answers for one record at most once a
//! second, so a browser may get its answer only to its second question, after a second. It also keeps records nobody
//! asked for; the advertisement starts it anew when they become too many.
//! Whoever floods the link faster than one core reads can still make it hold more, until the flood ends.

mod advertise;
mod browse;
mod found;
mod mdns;
mod responder;
#[cfg(test)]
mod tests;

use std::io;

pub use advertise::Advertisement;
pub use browse::browse;
pub use found::{Found, MAX_ADDRS, MAX_RELAYS};

/// Why nothing can be announced or found.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// There is no address with a port to announce.
    #[error("the relay listens on no address")]
    NoAddress,
    /// The system gives no multicast socket or no thread, as in a sandbox.
    #[error("the system does not let mDNS start: {0}")]
    System(#[from] io::Error),
    /// `mdns-sd` refuses.
    #[error("mDNS does not start: {0}")]
    Mdns(String),
}

impl From<mdns_sd::Error> for LanError {
    fn from(error: mdns_sd::Error) -> Self {
        Self::Mdns(error.to_string())
    }
}

/// The service type; `vchat` is within the 15 characters that RFC 6763, section 7.2 allows.
const SERVICE_TYPE: &str = "_vchat._udp.local.";

/// Version of the TXT record's meaning. Another one is not understood, so such a relay is not listed.
const TXT_VERSION: &str = "1";
