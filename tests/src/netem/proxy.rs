//! Impaired links between real sockets.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::link::{Counts, Link};
use super::random::Random;
use super::script::{Script, Side, Step};
use super::settings::Settings;

/// A UDP proxy that clients take for the relay, with a pair of impaired [`Link`]s for each of them, as if each had a
/// line of its own.
///
/// A client is an address that packets come from; the relay sees each from a port of its own, and one that has been
/// silent in both directions for [`IDLE`] is forgotten. Rebinding gives every client another such port: the relay sees the
/// same connection from a new address, and what it sends to the old one is lost, as behind a router that has forgotten a
/// mapping. One thread does all the work and wakes up for each packet to
/// the microsecond (`ppoll`), since a timer of a millisecond would add jitter of its own.
///
/// At most [`MAX_CLIENTS`] clients: packets of further ones are dropped.
#[derive(Debug)]
pub struct Proxy {
    socket: UdpSocket,
    to: SocketAddr,
    settings: Sides<Settings>,
    script: Script,
    seed: u64,
}

/// A [`Proxy`] at work on its own thread; ends when dropped.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    orders: mpsc::Sender<Order>,
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<io::Result<Report>>>,
}

/// What a running proxy can be told.
#[derive(Debug)]
enum Order {
    Set(Side, Settings),
    Follow(Script, Instant),
    Report(mpsc::SyncSender<Report>),
}

/// What a proxy has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Clients seen; one that changed its address counts again.
    pub clients: u64,
    /// Packets of all clients to the relay.
    pub up: Counts,
    /// Packets from the relay to all clients.
    pub down: Counts,
}

impl Proxy {
    /// A proxy on `listen` (port 0: any free one) before the relay at `to` that impairs nothing yet.
    pub fn bind(listen: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let settings = Sides { up: Settings::default(), down: Settings::default() };
        Ok(Self { socket: bind(listen)?, to, settings, script: Script::default(), seed: 0 })
    }

    /// Impairs both directions like this from the start.
    #[must_use]
    pub fn with_settings(mut self, settings: &Settings) -> Self {
        self.settings = Sides { up: settings.clone(), down: settings.clone() };
        self
    }

    /// Changes the settings over time, counted from [`Self::spawn`].
    #[must_use]
    pub fn with_script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// Takes another sequence of chances. Each client, by the order of their first packets, and each direction has
    /// one of its own.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts the work.
    pub fn spawn(self) -> io::Result<Running> {
        let address = self.socket.local_addr()?;
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let (orders, received) = mpsc::channel();
        let work = Work {
            proxy: self,
            start: Instant::now(),
            script_begin: Duration::ZERO,
            next_step: 0,
            next_sweep: IDLE,
            flows: HashMap::new(),
            report: Report::default(),
        };
        let run = move || work.run(&woken, &received);
        let thread = std::thread::Builder::new().name("netem".into()).spawn(run)?;
        Ok(Running { address, orders, wake: Some(wake), thread: Some(thread) })
    }
}

impl Running {
    /// Where clients find the proxy.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes one direction of all clients, present and future.
    pub fn set(&self, side: Side, settings: Settings) {
        self.order(Order::Set(side, settings));
    }

    /// Changes the settings by another script, whose times count from `begin`: several proxies that are told the same one
    /// change at the same moments.
    pub fn follow(&self, script: Script, begin: Instant) {
        self.order(Order::Follow(script, begin));
    }

    /// What it has done so far.
    ///
    /// # Errors
    /// It has failed; [`Self::stop`] tells why.
    pub fn report(&self) -> io::Result<Report> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.order(Order::Report(answer));
        answered.recv().map_err(|_| io::Error::other("the proxy has ended"))
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_ok()
            && let Some(mut wake) = self.wake.as_ref()
        {
            // Fails only when the thread has ended, and then there is nobody to tell.
            let _ = wake.write_all(&[0]);
        }
    }

    /// Ends the work; packets on their way are lost.
    pub fn stop(mut self) -> io::Result<Report> {
        self.join()
    }

    fn join(&mut self) -> io::Result<Report> {
        // The thread ends when it reads the end of this stream.
        drop(self.wake.take());
        let Some(thread) = self.thread.take() else { return Ok(Report::default()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the proxy thread has panicked")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever wants to know of a failure calls `stop`.
        let _ = self.join();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clients: {}", self.clients)?;
        for (side, counts) in [("up", self.up), ("down", self.down)] {
            let Counts { packets, bytes, lost, overflowed, reordered, arrived, .. } = counts;
            write!(f, "\n{side:>5}: {packets} packets, {bytes} bytes, {arrived} arrived, {lost} lost, ")?;
            write!(f, "{overflowed} overflowed, {reordered} reordered")?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Sides<T> {
    up: T,
    down: T,
}

/// A client, and its port towards the relay.
struct Flow {
    socket: UdpSocket,
    links: Sides<Link<Vec<u8>>>,
    last_packet: Duration,
}

/// The state of the thread. Its times are counted from `start`.
struct Work {
    proxy: Proxy,
    start: Instant,
    script_begin: Duration,
    next_step: usize,
    next_sweep: Duration,
    flows: HashMap<SocketAddr, Flow>,
    report: Report,
}

impl Work {
    fn run(mut self, mut woken: &UnixStream, orders: &mpsc::Receiver<Order>) -> io::Result<Report> {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            let now = self.start.elapsed();
            orders.try_iter().for_each(|order| self.obey(now, order));
            self.follow_script(now);
            self.deliver();
            self.sweep(now);
            let ready = self.wait(woken)?;
            if ready.woken && matches!(woken.read(&mut buffer), Ok(0)) {
                break;
            }
            self.receive_from_clients(&mut buffer);
            for client in ready.flows {
                self.receive_from_relay(client, &mut buffer);
            }
        }
        Ok(self.so_far())
    }

    fn so_far(&self) -> Report {
        let mut report = self.report;
        self.flows.values().for_each(|flow| report.add(flow));
        report
    }

    fn obey(&mut self, now: Duration, order: Order) {
        match order {
            Order::Set(side, settings) => self.change(now, side, |present| present.clone_from(&settings)),
            Order::Follow(script, begin) => {
                self.proxy.script = script;
                self.script_begin = begin.saturating_duration_since(self.start);
                self.next_step = 0;
            }
            // Who has asked may have given up.
            Order::Report(answer) => _ = answer.try_send(self.so_far()),
        }
    }

    /// When the next step of the script is due, and the step.
    fn next_step(&self) -> Option<(Duration, &Step)> {
        let (at, step) = self.proxy.script.step(self.next_step)?;
        Some((at.checked_add(self.script_begin)?, step))
    }

    fn follow_script(&mut self, now: Duration) {
        while let Some((_, step)) = self.next_step().filter(|(at, _)| *at <= now) {
            let step = step.clone();
            self.next_step += 1;
            if step.rebinds() {
                self.rebind();
            }
            for side in [Side::Up, Side::Down] {
                self.change(now, side, |settings| _ = step.apply(side, settings));
            }
        }
    }

    /// Gives every client another port; one for which there is none keeps the old.
    fn rebind(&mut self) {
        for flow in self.flows.values_mut() {
            if let Ok(socket) = port_towards(self.proxy.to) {
                flow.socket = socket;
            }
        }
    }

    fn change(&mut self, now: Duration, side: Side, change: impl Fn(&mut Settings)) {
        let settings = self.proxy.settings.of(side);
        change(settings);
        for flow in self.flows.values_mut() {
            flow.links.of(side).handle_settings(now, settings.clone());
        }
    }

    /// Passes on what has arrived at the far ends. A packet that the system does not take is lost, as on any network.
    fn deliver(&mut self) {
        for (client, flow) in &mut self.flows {
            let now = self.start.elapsed();
            while let Some(packet) = flow.links.up.poll_arrival(now) {
                let _ = flow.socket.send(&packet);
            }
            while let Some(packet) = flow.links.down.poll_arrival(now) {
                let _ = self.proxy.socket.send_to(&packet, client);
            }
        }
    }

    fn sweep(&mut self, now: Duration) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + IDLE / 4;
        let report = &mut self.report;
        self.flows.retain(|_, flow| {
            let keep = now.saturating_sub(flow.last_packet) < IDLE;
            if !keep {
                report.add(flow);
            }
            keep
        });
    }

    /// Waits for a packet, an order, or the next time that something is due.
    fn wait(&self, woken: &UnixStream) -> io::Result<Ready> {
        let links = self.flows.values().flat_map(|flow| [&flow.links.up, &flow.links.down]);
        let step = self.next_step().map(|(at, _)| at);
        let sweep = (!self.flows.is_empty()).then_some(self.next_sweep);
        let due = links.filter_map(Link::poll_timeout).chain(step).chain(sweep).min();
        let timeout = due.map(|due| due.saturating_sub(self.start.elapsed()));
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;

        let mut fds = vec![PollFd::new(woken, PollFlags::IN), PollFd::new(&self.proxy.socket, PollFlags::IN)];
        fds.extend(self.flows.values().map(|flow| PollFd::new(&flow.socket, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let (common, relays) = fds.split_at(2);
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let flows = self.flows.keys().zip(relays).filter(|(_, fd)| is_ready(fd)).map(|(client, _)| *client);
        Ok(Ready { woken: is_ready(&common[0]), flows: flows.collect() })
    }

    fn receive_from_clients(&mut self, buffer: &mut [u8]) {
        for _ in 0..MAX_BATCH {
            let (bytes, client) = match self.proxy.socket.recv_from(buffer) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // An error of an earlier packet, such as a client that has gone.
                Err(_) => continue,
            };
            let now = self.start.elapsed();
            let Some(flow) = self.flow(client) else { continue };
            flow.last_packet = now;
            flow.links.up.handle_packet(now, bytes, buffer[..bytes].to_vec());
        }
    }

    fn receive_from_relay(&mut self, client: SocketAddr, buffer: &mut [u8]) {
        let Some(flow) = self.flows.get_mut(&client) else { return };
        for _ in 0..MAX_BATCH {
            let bytes = match flow.socket.recv(buffer) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The relay is not there (yet, or again).
                Err(_) => continue,
            };
            let now = self.start.elapsed();
            flow.last_packet = now;
            flow.links.down.handle_packet(now, bytes, buffer[..bytes].to_vec());
        }
    }

    /// The flow of a client, made for a new one; `None` when there are too many or no socket is to be had.
    fn flow(&mut self, client: SocketAddr) -> Option<&mut Flow> {
        if !self.flows.contains_key(&client) {
            if self.flows.len() >= MAX_CLIENTS {
                return None;
            }
            let socket = port_towards(self.proxy.to).ok()?;
            let (number, seed) = (self.report.clients, self.proxy.seed);
            let link =
                |settings: &Settings, side| Link::new(settings.clone(), Random::new(seed, 2 * number + side));
            let Sides { up, down } = &self.proxy.settings;
            let links = Sides { up: link(up, 0), down: link(down, 1) };
            self.report.clients += 1;
            self.flows.insert(client, Flow { socket, links, last_packet: Duration::ZERO });
        }
        self.flows.get_mut(&client)
    }
}

/// What [`Work::wait`] found readable; the socket of the clients is always tried.
struct Ready {
    woken: bool,
    flows: Vec<SocketAddr>,
}

impl<T> Sides<T> {
    const fn of(&mut self, side: Side) -> &mut T {
        match side {
            Side::Up => &mut self.up,
            Side::Down => &mut self.down,
        }
    }
}

impl Report {
    fn add(&mut self, flow: &Flow) {
        self.up += flow.links.up.counts();
        self.down += flow.links.down.counts();
    }
}

/// A free port that talks to this relay alone.
fn port_towards(relay: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match relay {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = bind(any)?;
    socket.connect(relay)?;
    Ok(socket)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Best effort: the system may allow less.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Longer than QUIC connections of vchat stay silent, so that no living one is forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// Far more than a test has; each takes a file descriptor.
const MAX_CLIENTS: usize = 512;

/// Packets read from one socket before others have their turn.
const MAX_BATCH: usize = 64;

/// The most that UDP can carry.
const MAX_DATAGRAM_BYTES: usize = 65_535;

/// A key frame to many receivers is a burst that the default of 208 KiB loses before any impairment.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every packet with itself.
    struct Echo(SocketAddr);

    impl Echo {
        fn start() -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            let address = socket.local_addr().expect("bound");
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((bytes, from)) = socket.recv_from(&mut buffer) {
                    if bytes == 0 || socket.send_to(&buffer[..bytes], from).is_err() {
                        break;
                    }
                }
            });
            Self(address)
        }
    }

    impl Drop for Echo {
        fn drop(&mut self) {
            // An empty packet ends the thread.
            let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.0));
        }
    }

    fn client(of: &Running) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(of.address()).expect("an address");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a bound on failure");
        socket
    }

    fn start(echo: &Echo, changes: &[&str]) -> Running {
        let mut settings = Settings::default();
        changes.iter().try_for_each(|change| settings.apply(change)).expect("valid settings");
        let proxy =
            Proxy::bind(([127, 0, 0, 1], 0).into(), echo.0).expect("a proxy").with_settings(&settings);
        proxy.spawn().expect("running")
    }

    fn receive(socket: &UdpSocket) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let bytes = socket.recv(&mut buffer).expect("an answer");
        buffer[..bytes].to_vec()
    }

    #[test]
    fn many_clients_talk_through_it_each_with_its_own_answers() {
        let echo = Echo::start();
        let proxy = start(&echo, &[]);
        let clients: Vec<_> = (0..5_u8).map(|_| client(&proxy)).collect();
        for round in 0..20_u8 {
            for (number, client) in clients.iter().enumerate() {
                client.send(&[number as u8, round]).expect("sent");
            }
            for (number, client) in clients.iter().enumerate() {
                assert_eq!(receive(client), [number as u8, round]);
            }
        }
        let report = proxy.stop().expect("no failure");
        assert_eq!(report.clients, 5);
        assert_eq!((report.up.packets, report.up.arrived, report.up.bytes), (100, 100, 200));
        assert_eq!((report.down.packets, report.down.arrived), (100, 100));
    }

    #[test]
    fn delay_acts_in_both_directions() {
        let echo = Echo::start();
        let proxy = start(&echo, &["delay=20ms"]);
        let client = client(&proxy);
        let fastest = (0..5).map(|_| {
            let sent = Instant::now();
            client.send(b"hello").expect("sent");
            receive(&client);
            sent.elapsed()
        });
        let fastest = fastest.min().expect("five");
        assert!(fastest >= Duration::from_millis(40), "{fastest:?}");
    }

    #[test]
    fn settings_change_while_it_runs() {
        let echo = Echo::start();
        let proxy = start(&echo, &["loss=100%"]);
        let client = client(&proxy);
        client.set_read_timeout(Some(Duration::from_millis(10))).expect("a pause between attempts");
        let mut buffer = [0; 16];
        client.send(b"lost").expect("sent");
        client.recv(&mut buffer).expect_err("nothing passes");
        proxy.set(Side::Up, Settings::default());
        proxy.set(Side::Down, Settings::default());
        // The order may reach the proxy after the next packet: send until one comes back.
        let deadline = Instant::now() + Duration::from_secs(60);
        while client.recv(&mut buffer).is_err() {
            assert!(Instant::now() < deadline, "nothing passes");
            client.send(b"passes").expect("sent");
        }
        let report = proxy.stop().expect("no failure");
        assert!(report.up.arrived > 0 && report.down.arrived > 0, "{report}");
    }

    #[test]
    fn a_script_runs_by_itself() {
        let echo = Echo::start();
        let script = Script::parse("0s loss=100%\n50ms loss=0%").expect("valid");
        let proxy = Proxy::bind(([127, 0, 0, 1], 0).into(), echo.0).expect("a proxy").with_script(script);
        let proxy = proxy.spawn().expect("running");
        let started = Instant::now();
        let client = client(&proxy);
        client.set_read_timeout(Some(Duration::from_millis(5))).expect("a pause between attempts");
        let mut buffer = [0; 16];
        while client.recv(&mut buffer).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "nothing passes");
            client.send(b"again").expect("sent");
        }
        assert!(started.elapsed() > Duration::from_millis(40), "{:?}", started.elapsed());
    }

    #[test]
    fn a_client_gets_another_address_and_what_went_to_the_old_one_is_lost() {
        let relay = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        relay.set_read_timeout(Some(Duration::from_secs(60))).expect("a bound on failure");
        let to = relay.local_addr().expect("bound");
        let proxy = Proxy::bind(([127, 0, 0, 1], 0).into(), to).expect("a proxy").spawn().expect("running");
        let client = client(&proxy);
        let mut buffer = [0; 16];
        let mut came_from = || {
            client.send(b"hello").expect("sent");
            relay.recv_from(&mut buffer).expect("it comes").1
        };
        let old = came_from();
        proxy.follow(Script::parse("0s rebind").expect("valid"), Instant::now());
        // The order may reach the proxy after the next packet.
        let deadline = Instant::now() + Duration::from_secs(60);
        let new = loop {
            assert!(Instant::now() < deadline, "it keeps its address");
            match came_from() {
                same if same == old => {}
                new => break new,
            }
        };
        assert_eq!(proxy.report().expect("running").clients, 1);
        relay.send_to(b"lost", old).expect("sent");
        relay.send_to(b"found", new).expect("sent");
        assert_eq!(receive(&client), b"found");
        assert_eq!(proxy.stop().expect("no failure").clients, 1, "it is the same client");
    }

    #[test]
    fn scripts_begin_when_they_are_told_to() {
        let echo = Echo::start();
        let proxy = start(&echo, &[]);
        let client = client(&proxy);
        let begin = Instant::now() + Duration::from_millis(100);
        proxy.follow(Script::parse("0s loss=100%\n50ms loss=0%").expect("valid"), begin);
        client.set_read_timeout(Some(Duration::from_millis(5))).expect("a pause between attempts");
        let mut buffer = [0; 16];
        let mut longest = (Duration::ZERO, begin);
        let mut last = Instant::now();
        while last < begin + Duration::from_millis(100) {
            client.send(b"again").expect("sent");
            if client.recv(&mut buffer).is_ok() {
                let now = Instant::now();
                longest = longest.max((now - last, now));
                last = now;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing passes");
        }
        assert!(longest.0 >= Duration::from_millis(45) && longest.1 > begin, "{longest:?}");
    }

    #[test]
    fn a_relay_that_comes_late_is_found() {
        let free = UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("bound");
        let proxy = Proxy::bind(([127, 0, 0, 1], 0).into(), free).expect("a proxy").spawn().expect("running");
        let client = client(&proxy);
        client.send(b"too early").expect("sent");
        let relay = UdpSocket::bind(free).expect("the same port");
        relay.set_read_timeout(Some(Duration::from_millis(20))).expect("a pause between attempts");
        let mut buffer = [0; 16];
        let deadline = Instant::now() + Duration::from_secs(60);
        while relay.recv(&mut buffer).is_err() {
            assert!(Instant::now() < deadline, "nothing comes");
            client.send(b"again").expect("sent");
        }
    }
}
