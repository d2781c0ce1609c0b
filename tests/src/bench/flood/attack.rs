//! The attack: first packets of connections that never come about.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use vchat_certs::tls::{Purpose, ServerTrust, client_config};

use super::initial::{CID, DATAGRAM, Hello, LONG_INITIAL, Retry, VERSION_1};
use crate::bench::guest;
use crate::netem::Random;

/// What the relay is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::bench) enum Kind {
    /// Good first packets from addresses that never answer
    Spoofed,
    /// The same from addresses that answer a Retry, and then nothing
    Unfinished,
    /// What looks like a first packet and is noise
    Garbage,
}

/// Packets made, and where they go.
pub(in crate::bench) struct Attack {
    kind: Kind,
    relay: SocketAddr,
    hello: Hello,
    packets: Vec<Vec<u8>>,
}

/// What an attack has done.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bench) struct Done {
    /// First packets sent.
    pub(in crate::bench) sent: u64,
    /// Retries that came back and were answered.
    pub(in crate::bench) retries: u64,
}

/// An attack under way, until [`Self::stop`], or its time is over.
pub(in crate::bench) struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Done>>,
}

impl Attack {
    /// Makes the packets.
    pub(in crate::bench) fn prepare(kind: Kind, relay: SocketAddr) -> anyhow::Result<Self> {
        let (tls, _) = client_config(&guest::identity()?, ServerTrust::FirstUse, Purpose::Call)?;
        let hello = Hello::new(tls)?;
        let mut random = Random::new(1, 0);
        let packet = |_| match kind {
            Kind::Spoofed | Kind::Unfinished => hello.datagram(&random.bits().to_be_bytes(), &[]),
            Kind::Garbage => Ok(noise(&mut random)),
        };
        let packets = (0..PACKETS).map(packet).collect::<anyhow::Result<_>>()?;
        Ok(Self { kind, relay, hello, packets })
    }

    /// Sends `rate` packets a second for `limit` at most, from a thread of its own.
    pub(in crate::bench) fn start(self, rate: u32, limit: Duration) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || self.run(rate, limit, &stopped));
        Running { stop, thread }
    }

    fn run(&self, rate: u32, limit: Duration, stop: &AtomicBool) -> anyhow::Result<Done> {
        let answers = self.kind == Kind::Unfinished;
        let sockets = (0..SOCKETS).map(|_| Socket::open(answers)).collect::<anyhow::Result<Vec<_>>>()?;
        let (mut done, mut random) = (Done::default(), Random::new(2, 0));
        let (start, mut skipped) = (Instant::now(), 0);
        while start.elapsed() < limit && !stop.load(Ordering::Relaxed) {
            let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64 - skipped;
            // Who was kept waiting does not make up for it: a burst would be another attack.
            let late = (due - done.sent).saturating_sub(u64::from(rate) / 50);
            skipped += late;
            for _ in done.sent..due - late {
                let bits = random.bits();
                let from = Ipv4Addr::from(0x7f01_0000 + (bits as u32) % SOURCES);
                let packet = &self.packets[done.sent as usize % PACKETS];
                sockets[(bits >> 32) as usize % SOCKETS].send(self.relay, from.into(), packet)?;
                done.sent += 1;
            }
            if answers {
                for socket in &sockets {
                    done.retries += socket.answer(self.relay, &self.hello)?;
                }
            }
            std::thread::sleep(TICK);
        }
        Ok(done)
    }
}

impl Running {
    pub(in crate::bench) fn stop(self) -> anyhow::Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the attack panicked")?
    }
}

/// A socket that sends from any address of this machine.
struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    fn open(answers: bool) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a socket")?;
        let state = UdpSocketState::new((&socket).into()).context("cannot set up a socket")?;
        // Answers to forged addresses reach nobody; here the least buffer there is loses them.
        state.set_recv_buffer_size((&socket).into(), if answers { 1 << 20 } else { 0 })?;
        Ok(Self { socket, state })
    }

    fn send(&self, to: SocketAddr, from: IpAddr, contents: &[u8]) -> anyhow::Result<()> {
        let transmit =
            Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: Some(from) };
        match self.state.try_send((&self.socket).into(), &transmit) {
            // As a network would lose it.
            Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => Err(e).context("cannot send"),
            _ => Ok(()),
        }
    }

    /// Answers the Retries that have come, and says how many.
    fn answer(&self, relay: SocketAddr, hello: &Hello) -> anyhow::Result<u64> {
        let (mut buffer, mut answered) = (vec![0; 1 << 16], 0);
        loop {
            let mut meta = [RecvMeta::default()];
            let received =
                self.state.recv((&self.socket).into(), &mut [IoSliceMut::new(&mut buffer)], &mut meta);
            let ([meta], Ok(1)) = (meta, received) else { return Ok(answered) };
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                if let (Some(retry), Some(own)) = (Retry::parse(datagram), meta.dst_ip) {
                    self.send(relay, own, &hello.datagram(retry.source, retry.token)?)?;
                    answered += 1;
                }
            }
        }
    }
}

/// An Initial's cleartext with noise behind it.
fn noise(random: &mut Random) -> Vec<u8> {
    let mut packet = vec![LONG_INITIAL | (random.bits() as u8 & 0x0f)];
    packet.extend(VERSION_1);
    for _ in 0..2 {
        packet.push(CID as u8);
        packet.extend(random.bits().to_be_bytes());
    }
    // No token, and the length of all that follows.
    packet.push(0);
    packet.extend(((DATAGRAM - packet.len() - 2) as u16 | 0x4000).to_be_bytes());
    while packet.len() < DATAGRAM {
        packet.extend(random.bits().to_be_bytes());
    }
    packet.truncate(DATAGRAM);
    packet
}

/// Different packets, sent round and round: when one comes again the relay has long forgotten it.
const PACKETS: usize = 20_000;

/// Source ports.
const SOCKETS: usize = 16;

/// Source addresses, all of this machine: 127.1.0.0 and those after it.
const SOURCES: u32 = 0x00f0_0000;

/// Between bursts of packets: as long as a thread can sleep, so that a burst has two packets or three and the relay has no quiet moment.
const TICK: Duration = Duration::from_micros(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_from_forged_addresses_at_the_rate_asked_for() -> anyhow::Result<()> {
        let victim = UdpSocket::bind("127.0.0.1:0")?;
        victim.set_read_timeout(Some(Duration::from_secs(60)))?;
        let attack =
            Attack::prepare(Kind::Garbage, victim.local_addr()?)?.start(1000, Duration::from_secs(60));
        let mut sources = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let mut packet = [0; 2000];
            let (length, from) = victim.recv_from(&mut packet)?;
            assert_eq!((length, &packet[1..5]), (DATAGRAM, &VERSION_1[..]));
            assert!(from.ip().is_loopback());
            sources.insert(from);
        }
        assert!(sources.len() > 40, "{sources:?}");
        assert!(attack.stop()?.sent >= 50);
        Ok(())
    }
}
