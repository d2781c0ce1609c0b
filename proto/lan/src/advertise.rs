//! The relay's side: announcing it for as long as it runs.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use mdns_sd::{IfKind, IfPredicate, MDNS_PORT, ServiceInfo};
use vchat_certs::pin::Pin;

use crate::found::{mark, plain, tame};
use crate::responder::Responder;
use crate::{LanError, SERVICE_TYPE, TXT_VERSION};

/// Announces a relay until it is dropped, which withdraws it.
///
/// A thread of its own does the work, so that no trouble of mDNS reaches the relay: should the thread of `mdns-sd` die
/// of a packet, or hold more than it should, it is started anew within two seconds.
///
/// Dropping waits for the goodbyes to be sent: a millisecond or two, at most about a second when the link is flooded.
#[derive(Debug)]
pub struct Advertisement {
    /// Gone only while dropping, which ends the thread.
    pins: Option<SyncSender<Pin>>,
    thread: Option<JoinHandle<()>>,
}

impl Advertisement {
    /// Announces the relay with this pin, which people know as `name` and which listens on the UDP addresses `listen`.
    ///
    /// An address is announced on its own interface. `0.0.0.0` stands for every IPv4 address of the machine and `[::]`
    /// for every address, both loopback included, whatever they are at the time; so a relay that listens on loopback
    /// addresses alone is heard on the loopback interface alone. Each distinct port becomes an instance of its own,
    /// which [`browse`](crate::browse()) puts together again by the pin.
    ///
    /// `name` loses what would mislead and is cut to 45 bytes; it may be empty.
    ///
    /// Returns before anything is sent. Without any interface this announces nothing until there is one. On Linux the
    /// loopback interface carries no IPv6 multicast, so a relay that listens on `[::1]` alone is not found.
    pub fn start(name: &str, listen: &[SocketAddr], pin: Pin) -> Result<Self, LanError> {
        let responder = Responder::start(MDNS_PORT, Relay::new(name, listen, pin)?)?;
        // One is enough: the thread takes it at once.
        let (sender, pins) = sync_channel(1);
        let thread = thread::Builder::new().name("vchat-lan".into()).spawn(move || responder.run(&pins))?;
        Ok(Self { pins: Some(sender), thread: Some(thread) })
    }

    /// Announces the relay under another pin from now on, and withdraws it under the old one.
    pub fn set_pin(&mut self, pin: Pin) {
        if let Some(pins) = &self.pins {
            // It fails only if the thread is gone, and then nothing is announced at all.
            let _ = pins.send(pin);
        }
    }
}

impl Drop for Advertisement {
    fn drop(&mut self) {
        self.pins = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What is announced.
pub(crate) struct Relay {
    name: String,
    listen: Vec<SocketAddr>,
    pub(crate) pin: Pin,
}

impl Relay {
    pub(crate) fn new(name: &str, listen: &[SocketAddr], pin: Pin) -> Result<Self, LanError> {
        let listen: Vec<_> = listen.iter().copied().filter(|a| a.port() != 0).collect();
        if listen.is_empty() {
            return Err(LanError::NoAddress);
        }
        Ok(Self { name: tame(name, MAX_LABEL - MAX_MARK), listen, pin })
    }

    /// One for each port.
    pub(crate) fn services(&self) -> Result<Vec<ServiceInfo>, LanError> {
        let ports: BTreeSet<_> = self.listen.iter().map(SocketAddr::port).collect();
        ports.into_iter().map(|port| self.service(port)).collect()
    }

    /// Says of an address of this machine and of its interface whether the relay is reached there.
    pub(crate) fn reach(&self) -> impl Fn(IpAddr, Option<u32>) -> bool + Send + Sync + use<> {
        let listen = self.listen.clone();
        move |ip, interface| listens(&listen, ip, interface)
    }

    fn service(&self, port: u16) -> Result<ServiceInfo, LanError> {
        let pin = plain(&self.pin);
        let label = format!("{}{}", self.name, mark(&self.pin, port));
        // The host name is the instance's own, because withdrawing the instance withdraws the host's addresses.
        let host = format!("vchat-{}-{port}.local.", &pin[..HOST_PIN]);
        let txt = [("v", TXT_VERSION), ("pin", pin.as_str())];
        let mut service =
            ServiceInfo::new(SERVICE_TYPE, label.trim_start(), &host, (), port, &txt[..])?.enable_addr_auto();
        // No other relay has these names: see the crate's documentation.
        service.set_requires_probe(false);
        let listen: Vec<_> = self.listen.iter().copied().filter(|a| a.port() == port).collect();
        let wanted = IfPredicate::new(move |i| listens(&listen, i.ip(), i.index));
        service.set_interfaces(vec![IfKind::Predicate(wanted)]);
        Ok(service)
    }
}

/// Whether a relay that listens on `listen` is reached at an address of this machine.
fn listens(listen: &[SocketAddr], ip: IpAddr, interface: Option<u32>) -> bool {
    listen.iter().any(|addr| match addr {
        // `[::]` takes IPv4 too: `vchat_quic::relay_endpoint` opens it for both families.
        SocketAddr::V6(a) if a.ip().is_unspecified() => true,
        SocketAddr::V4(a) if a.ip().is_unspecified() => ip.is_ipv4(),
        SocketAddr::V6(a) if a.scope_id() != 0 && interface != Some(a.scope_id()) => false,
        _ => addr.ip() == ip,
    })
}

/// Longest label of a domain name (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;

/// What [`mark`] adds at most: ` (mfrg-gzdf:65535)`.
const MAX_MARK: usize = 18;

/// Characters of the pin in the host name: 80 bits, and the label stays short.
const HOST_PIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::addrs;

    #[test]
    fn an_address_is_announced_if_the_relay_is_reached_at_it() {
        for (listen, reached, not) in [
            ("[::]:1", &["10.0.0.1", "127.0.0.1", "fd00::1", "::1"][..], &[][..]),
            ("0.0.0.0:1", &["10.0.0.1", "127.0.0.1"], &["fd00::1", "::1"]),
            ("127.0.0.1:1", &["127.0.0.1"], &["10.0.0.1", "127.0.0.2", "::1"]),
            ("[fe80::1%2]:1", &["fe80::1"], &["fe80::2", "10.0.0.1"]),
            ("[fe80::1%3]:1", &[], &["fe80::1"]),
        ] {
            let listen = addrs([listen]);
            let on = |ip: &&str| listens(&listen, ip.parse().expect("an address"), Some(2));
            assert!(reached.iter().all(on) && !not.iter().any(on), "{listen:?}");
        }
    }
}
