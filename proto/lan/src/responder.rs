//! The work of an advertisement's thread.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use mdns_sd::{Error, Metrics, TryRecvError};
use vchat_certs::pin::Pin;

use crate::LanError;
use crate::advertise::Relay;
use crate::mdns::Daemon;

/// Announces a relay and keeps it announced.
pub(crate) struct Responder {
    mdns_port: u16,
    relay: Relay,
    /// `None` after a failure, until the next check.
    daemon: Option<Daemon>,
    /// The answer to the last check, when it comes.
    metrics: Option<mdns_sd::Receiver<Metrics>>,
}

impl Responder {
    pub(crate) fn start(mdns_port: u16, relay: Relay) -> Result<Self, LanError> {
        let daemon = Some(announce(mdns_port, &relay)?);
        Ok(Self { mdns_port, relay, daemon, metrics: None })
    }

    pub(crate) fn run(mut self, pins: &Receiver<Pin>) {
        loop {
            match pins.recv_timeout(CHECK) {
                Ok(pin) => self.rotate(pin),
                Err(RecvTimeoutError::Timeout) => self.check(MAX_HELD),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn rotate(&mut self, pin: Pin) {
        // The goodbye is said twice, 120 ms apart: it must not be to names that are announced again.
        if pin == self.relay.pin {
            return;
        }
        let old = self.relay.services();
        self.relay.pin = pin;
        let Some(daemon) = &self.daemon else { return };
        let replace = || {
            for service in old? {
                daemon.unregister(service.get_fullname())?;
            }
            self.relay.services()?.into_iter().try_for_each(|service| Ok(daemon.register(service)?))
        };
        if let Err::<(), LanError>(e) = replace() {
            tracing::warn!("the new key is announced a little later: {e}");
            self.daemon = None;
        }
    }

    /// Starts `mdns-sd` anew if its thread has died or holds more than `max` for others. It keeps what answers to
    /// nobody's question, and some of that for ever, so even an honest network makes it grow.
    /// A thread that does not answer is reading a flood and cannot be ended before that ends.
    fn check(&mut self, max: i64) {
        let answer = self.metrics.as_ref().map(mdns_sd::Receiver::try_recv);
        let fine = match answer {
            Some(Err(TryRecvError::Empty)) => return,
            Some(Err(TryRecvError::Disconnected)) => false,
            Some(Ok(metrics)) => held(&metrics) <= max,
            None => true,
        };
        self.metrics = None;
        match self.daemon.as_ref().filter(|_| fine).map(|daemon| daemon.get_metrics()) {
            Some(Ok(metrics)) => self.metrics = Some(metrics),
            Some(Err(Error::Again)) => {}
            Some(Err(_)) | None => self.restart(),
        }
    }

    fn restart(&mut self) {
        // Its end comes before the new beginning, or its goodbyes would withdraw what is new.
        let ended = self.daemon.take().is_some();
        match announce(self.mdns_port, &self.relay) {
            Ok(daemon) => {
                tracing::info!("mDNS is started anew");
                self.daemon = Some(daemon);
            }
            Err(e) if ended => tracing::warn!("the relay is not announced on the local network for now: {e}"),
            Err(e) => tracing::debug!("mDNS still does not start: {e}"),
        }
    }
}

fn announce(mdns_port: u16, relay: &Relay) -> Result<Daemon, LanError> {
    let daemon = Daemon::start(mdns_port, relay.reach())?;
    relay.services()?.into_iter().try_for_each(|service| daemon.register(service))?;
    Ok(daemon)
}

/// Records of others and timers for them.
fn held(metrics: &Metrics) -> i64 {
    HELD.iter().filter_map(|key| metrics.get(*key)).sum()
}

const HELD: [&str; 7] =
    ["cached-ptr", "cached-srv", "cached-txt", "cached-addr", "cached-nsec", "cached-subtype", "timer"];

/// How often `mdns-sd` is looked after. A flood that leaves it room to breathe makes it grow by 40 MB a second.
const CHECK: Duration = Duration::from_secs(1);

/// A record comes with three timers, and together they take 620 bytes, so this is about 16 MB. A network of hundreds of
/// honest devices stays below.
const MAX_HELD: i64 = 100_000;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Instant;

    use super::*;
    use crate::browse::browse_on;
    use crate::tests::{PATIENCE, a_pin, addrs};

    #[test]
    fn a_thread_that_dies_or_holds_too_much_is_started_anew() {
        // A port of its own, since this floods.
        let free = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mdns_port = free.local_addr().expect("an address").port();
        drop(free);
        let pin = a_pin();
        let relay = Relay::new("held", &addrs(["127.0.0.1:4433"]), pin).expect("a relay");
        let mut responder = Responder::start(mdns_port, relay).expect("advertising");
        let held_by = |responder: &Responder| {
            let metrics = responder.daemon.as_ref()?.get_metrics().ok()?;
            metrics.recv_timeout(PATIENCE).ok().map(|metrics| held(&metrics))
        };
        let found = || {
            let any = |found: &[crate::Found]| found.iter().any(|found| found.pin == pin);
            any(&browse_on(mdns_port, |ip| ip.is_loopback(), PATIENCE, any).expect("browsing"))
        };
        assert!(found());

        let (socket, started) = (UdpSocket::bind("127.0.0.1:0").expect("a socket"), Instant::now());
        for i in 0.. {
            assert!(started.elapsed() < PATIENCE, "it takes what nobody asked for");
            socket.send_to(&unasked_for(i), ("224.0.0.251", mdns_port)).expect("sending");
            if held_by(&responder).expect("running") > 100 {
                break;
            }
        }
        while held_by(&responder).expect("running") > 100 {
            assert!(started.elapsed() < PATIENCE, "it is started anew");
            responder.check(100);
        }
        assert!(found());

        let daemon = responder.daemon.as_ref().expect("running");
        drop(daemon.shutdown().expect("running").recv_timeout(PATIENCE));
        while held_by(&responder).is_none() {
            assert!(started.elapsed() < PATIENCE, "it is started anew");
            responder.check(100);
        }
        assert!(found());
    }

    /// A response with one SRV record, the number of which is in its name.
    fn unasked_for(number: u16) -> Vec<u8> {
        let mut packet = b"\0\0\x84\0\0\0\0\x01\0\0\0\0\x05".to_vec();
        packet.extend(format!("{number:05}").bytes());
        packet
            .extend(b"\x02_x\x04_udp\x05local\0\0\x21\0\x01\0\0\x0f\xff\0\x0f\0\0\0\0\0\x01\x01h\x05local\0");
        packet
    }
}
