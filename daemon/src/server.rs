//! The running relay: sockets, admission, stop.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use vchat_certs::pin::{Pin, peer_pin};
use vchat_proto::admission::{self, Gate, Outcome, Ticket, Verdict};
use vchat_proto::wire::close::CloseCode;
use vchat_quic::RelaySocket;

use crate::archive::{Archive, Retention};
use crate::ceilings::{self, Ceilings, Limits};
use crate::config::Config;
use crate::connection;
use crate::control::{self, Door, Names, Office};
use crate::handover::{self, Estate, Heir, Inheritance};
use crate::keys::{self, Keys, Shown};
use crate::lan;
use crate::members::Members;
use crate::probe::Probe;
use crate::qlog::Logs;
use crate::registry::{Ledger, Registry};
use crate::rooms::Rooms;
use crate::seats::Seats;
use crate::service::{self, Sockets};
use crate::stats::{self, Handshake, Pages, Stats};

/// A relay whose sockets are open.
pub struct Server {
    endpoints: Vec<quinn::Endpoint>,
    /// What the endpoints are on, and the same for the process that will take over.
    sockets: Vec<(RelaySocket, UdpSocket)>,
    addrs: Vec<SocketAddr>,
    keys: Keys,
    rotate: mpsc::Receiver<keys::Command>,
    restarts: mpsc::Receiver<Restart>,
    door: Door,
    metrics: Option<TcpListener>,
    /// The same, where the service manager has opened it.
    given_metrics: Option<TcpListener>,
    config: Config,
    shared: Arc<Shared>,
    /// Resolve when the threads of the disk have ended.
    ended: [oneshot::Receiver<()>; 2],
    settings: watch::Sender<Settings>,
    ceilings: watch::Sender<Ceilings>,
    /// Of its connections, among those of processes that share the sockets.
    generation: u8,
    /// What this process takes over, until it has.
    inheritance: Option<Inheritance>,
}

/// Why a relay ends.
enum End {
    Stop,
    Failed(&'static str),
    Successor(Heir, Restart),
}

/// Where the operator waits for the id of the process that has taken over.
pub(crate) type Restart = oneshot::Sender<anyhow::Result<u32>>;

/// Settings that [`Server::run`] may be told anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What the operator says people call this relay.
    pub(crate) public: Option<String>,
    /// Whether a key that nobody knows is let in and becomes a device.
    pub(crate) trust_on_first_use: bool,
    pub(crate) limits: Limits,
}

impl Settings {
    fn of(config: &Config) -> Self {
        let Config { public, trust_on_first_use, limits, .. } = config;
        Self { public: public.clone(), trust_on_first_use: *trust_on_first_use, limits: *limits }
    }
}

/// What every connection of a relay shares.
pub(crate) struct Shared {
    pub(crate) rooms: Rooms,
    pub(crate) members: Members,
    pub(crate) registry: Registry,
    pub(crate) keys: watch::Receiver<Shown>,
    pub(crate) seats: Seats,
    /// Overflow: a look at the keys that nobody waits for is dropped, another is to come.
    pub(crate) rotate: mpsc::Sender<keys::Command>,
    /// Overflow: who asks waits.
    pub(crate) restarts: mpsc::Sender<Restart>,
    /// What the relay is called.
    pub(crate) names: Names,
    /// What may change while the relay runs.
    pub(crate) settings: watch::Receiver<Settings>,
    pub(crate) ceilings: watch::Receiver<Ceilings>,
    pub(crate) stats: Stats,
    pub(crate) logs: Logs,
    /// The zero of the relay's clock.
    pub(crate) started: Instant,
}

impl Shared {
    /// What the relay's clock shows, in microseconds.
    pub(crate) fn clock_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Server {
    /// Loads or makes the relay's identity and its list of devices, and opens its sockets. Needs a tokio runtime.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        Self::bind_with(config, Sockets::default()).await
    }

    /// The same, but where there are sockets that are open already, it serves on those and opens none of their kind.
    pub async fn bind_with(config: Config, mut given: Sockets) -> anyhow::Result<Self> {
        if given.calls.is_empty() {
            given.calls = open(&config.listen)?;
        }
        Self::prepare(config, given, None).await
    }

    /// Takes over from another process, which goes on with the connections that it has until their clients have come over.
    ///
    /// # Errors
    /// As for [`Self::bind`], or the other process has ended meanwhile.
    pub async fn take_over(config: Config, mut from: Inheritance) -> anyhow::Result<Self> {
        from.released().await?;
        let sockets = std::mem::take(&mut from.sockets);
        Self::prepare(config, sockets, Some(from)).await
    }

    async fn prepare(
        config: Config,
        given: Sockets,
        inheritance: Option<Inheritance>,
    ) -> anyhow::Result<Self> {
        let ledger = Ledger::open(&config.state_dir)?;
        let (registry, registry_ended) = Registry::start(ledger).context("cannot start a thread")?;
        let (archive, archive_ended) = Archive::start(&config.state_dir, retention(&config))?;
        let keys = Keys::load(config.state_dir.clone(), registry.clone()).await?;
        let estate = inheritance.as_ref().map(|inheritance| inheritance.estate);
        let secrets = keys.secrets().clone().of_generation(estate.map_or(0, |e| e.generation + 1));
        let shown = keys.shown();
        let (mut endpoints, mut sockets, mut addrs) = (Vec::new(), Vec::new(), Vec::new());
        for udp in given.calls {
            let tls = quinn::ServerConfig::clone(&shown.borrow().config);
            let serve = || -> std::io::Result<_> {
                let socket = RelaySocket::new(udp.try_clone()?, &secrets, estate.is_none())?;
                Ok((vchat_quic::relay_endpoint(socket.clone(), tls, &secrets)?, socket))
            };
            let (endpoint, socket) = serve().context("cannot serve on a UDP socket")?;
            addrs.push(endpoint.local_addr()?);
            endpoints.push(endpoint);
            sockets.push((socket, udp));
        }
        let given_metrics = given.metrics.as_ref().map(TcpListener::try_clone).transpose()?;
        let metrics = match (given.metrics, config.metrics) {
            (Some(given), _) => Some(given),
            (None, Some(addr)) => Some(
                TcpListener::bind(addr).with_context(|| format!("cannot serve the metrics on {addr}/tcp"))?,
            ),
            (None, None) => None,
        };
        let door = Door::open(&config.control)?;
        let stats = Stats::new(archive.stats().clone());
        let (rotate, rotate_in) = mpsc::channel(COMMANDS);
        let (restarts, restarts_in) = mpsc::channel(1);
        let (settings, live) = watch::channel(Settings::of(&config));
        let ceilings = watch::Sender::default();
        let clock = estate.map_or(Duration::ZERO, |estate| estate.clock());
        let shared = Shared {
            rooms: Rooms::new(archive, stats.clone()),
            members: Members::default(),
            registry,
            keys: shown,
            seats: keys.seats().clone(),
            rotate,
            restarts,
            names: Names { addrs: addrs.clone(), settings: live.clone() },
            settings: live,
            ceilings: ceilings.subscribe(),
            stats,
            logs: Logs::new(&config.state_dir),
            started: Instant::now().checked_sub(clock).unwrap_or_else(Instant::now),
        };
        let shared = Arc::new(shared);
        Ok(Self {
            endpoints,
            sockets,
            addrs,
            keys,
            rotate: rotate_in,
            restarts: restarts_in,
            door,
            metrics,
            given_metrics,
            config,
            shared,
            ended: [registry_ended, archive_ended],
            settings,
            ceilings,
            generation: secrets.generation(),
            inheritance,
        })
    }

    /// The addresses bound, with the ports that the system chose.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Where the metrics are served, besides the control socket.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// The pin of the relay's key, for people to compare.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.shared.keys.borrow().current.pin()
    }

    /// The link by which the first person comes in, as an administrator; none when somebody has come in or is invited.
    pub async fn first_invite(&self) -> anyhow::Result<Option<String>> {
        self.office().first_invite().await
    }

    /// Serves until `shutdown` resolves, then tells every client and waits a moment for them to hear it; or until another process has
    /// taken over. Takes new settings as they come, without a word to those who are here.
    ///
    /// # Errors
    /// The relay cannot go on: its registry has failed.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()>,
        mut reloads: mpsc::Receiver<Config>,
    ) -> anyhow::Result<()> {
        let office = self.office();
        let Self {
            endpoints,
            sockets,
            addrs,
            keys,
            rotate,
            mut restarts,
            mut door,
            metrics,
            mut config,
            shared,
            ..
        } = self;
        let (settings, ended, generation) = (self.settings, self.ended, self.generation);
        let given_metrics = self.given_metrics;
        let mut settled = None;
        if let Some(inheritance) = self.inheritance {
            inheritance.begin(&sockets).await?;
            // Those who come over from a process before must be here before they can be told to go on.
            settled = Some(Instant::now() + handover::SETTLED);
        }
        tracing::info!(fingerprint = %shared.keys.borrow().current.pin(), "relay is up");
        warn(&settings.borrow());
        let (mut doors, mut admission, mut tasks) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        let (incoming, attempts) = mpsc::channel(INCOMING);
        for endpoint in &endpoints {
            doors.spawn(accept(endpoint.clone(), incoming.clone()));
        }
        drop(incoming);
        admission.spawn(admit(attempts, shared.clone()));
        // Ends early where there is nothing to announce.
        let mut lan = JoinSet::new();
        lan.spawn(lan::announce(config.mdns, addrs, shared.names.address(), shared.keys.clone()));
        let probe = Arc::new(Probe::new(endpoints.clone(), shared.clone()));
        let pages = Arc::new(Pages { shared: shared.clone(), probe: probe.clone() });
        if let Some(listener) = metrics {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(stats::serve(listener, pages.clone()));
        }
        tasks.spawn(control::serve(door.listener()?, office, pages));
        tasks.spawn(keys.run(rotate));
        let archive = shared.rooms.archive().clone();
        tasks.spawn(archive.clone().keep_tidy());
        tasks.spawn(async move { probe.watch().await });
        tasks.spawn(shared.stats.clone().sample());
        tasks.spawn(ceilings::watch(shared.stats.load(), shared.settings.clone(), self.ceilings));
        service::ready();
        tokio::pin!(shutdown);
        let end = loop {
            tokio::select! {
                () = &mut shutdown => break End::Stop,
                Some(new) = reloads.recv() => {
                    reload(&config, &new, &settings, &shared).await;
                    config = new;
                }
                Some(answer) = restarts.recv() => {
                    let heir = if settled.is_some_and(|settled| Instant::now() < settled) {
                        Err(anyhow::anyhow!("the last restart is not over yet: try again in some seconds"))
                    } else {
                        let estate = Estate::new(generation, shared.clock_us());
                        Heir::start(estate, &sockets, given_metrics.as_ref()).await
                    };
                    match heir {
                        Ok(heir) => break End::Successor(heir, answer),
                        Err(e) => drop(answer.send(Err(e))),
                    }
                }
                () = shared.registry.closed() => break End::Failed("the registry of devices"),
                () = archive.closed() => break End::Failed("the archive of chat"),
                // None of them ends by itself: one that has panicked would leave a relay that is there and does nothing.
                _ = tasks.join_next() => break End::Failed("a part of the relay"),
                _ = doors.join_next() => break End::Failed("a part of the relay"),
                _ = admission.join_next() => break End::Failed("a part of the relay"),
            }
        };
        // They may hold what is to end below.
        doors.shutdown().await;
        tasks.shutdown().await;
        lan.shutdown().await;
        let mut stopped = Ok(());
        match end {
            End::Stop => {}
            End::Failed(what) => {
                stopped = Err(anyhow::anyhow!("{what} has failed; its last words are above"))
            }
            End::Successor(heir, answer) => {
                drop(door);
                let leave = async {
                    let left = heir.take_over(&sockets, &shared, answer).await;
                    left.context("the process that was to take over has failed")?;
                    let gone = tokio::time::timeout(handover::DRAIN, admission.join_next());
                    // The operator, too, is to hear of it.
                    drop(tokio::join!(gone, tokio::time::sleep(FAREWELL)));
                    Ok(())
                };
                tokio::select! {
                    left = leave => stopped = left,
                    () = &mut shutdown => {}
                }
            }
        }
        tracing::info!("stopping");
        service::stopping();
        admission.shutdown().await;
        for endpoint in &endpoints {
            let code = CloseCode::ShuttingDown;
            endpoint.close((code as u32).into(), code.reason().as_bytes());
        }
        for endpoint in &endpoints {
            // Whoever does not answer the close in this time notices by its idle timeout.
            drop(tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await);
        }
        // Rooms hold connections, and those the sockets.
        shared.rooms.close();
        drop((shared, archive));
        let [registry, archive] = ended;
        drop(tokio::time::timeout(FAREWELL, async { tokio::join!(registry, archive) }).await);
        stopped
    }

    /// What the control socket works on.
    fn office(&self) -> Office {
        let (shared, state_dir) = (self.shared.clone(), self.config.state_dir.clone());
        Office { shared, state_dir, backing_up: Arc::default() }
    }
}

/// Takes what can be changed of the settings, and the key that is on the disk.
async fn reload(old: &Config, new: &Config, settings: &watch::Sender<Settings>, shared: &Shared) {
    let fixed =
        |c: &Config| (c.listen.clone(), c.state_dir.clone(), c.control.clone(), c.log, c.mdns, c.metrics);
    if fixed(old) != fixed(new) {
        tracing::warn!(
            "listen, state-dir, control, log, mdns and metrics change when the relay is started anew"
        );
    }
    settings.send_replace(Settings::of(new));
    warn(&settings.borrow());
    shared.rooms.archive().retain(retention(new)).await;
    // The keys are there as long as the relay.
    drop(shared.rotate.send(keys::Command::Reload).await);
    tracing::info!("the settings were read again");
    service::ready();
}

fn warn(settings: &Settings) {
    if settings.trust_on_first_use {
        tracing::warn!("whoever reaches the port is let in (--trust-on-first-use)");
    }
}

fn open(listen: &[SocketAddr]) -> anyhow::Result<Vec<UdpSocket>> {
    let socket = |addr: &SocketAddr| {
        vchat_quic::relay_socket(*addr).with_context(|| format!("cannot listen on {addr}/udp"))
    };
    listen.iter().map(socket).collect()
}

const fn retention(config: &Config) -> Retention {
    Retention { age: config.chat_age, lines: config.chat_lines }
}

/// A connection attempt that was let as far as the handshake. Reports its outcome once; if nobody says one, the peer is gone and
/// nothing is held against it.
pub(crate) struct Attempt {
    ticket: Option<Ticket>,
    settled: mpsc::UnboundedSender<(Ticket, Outcome)>,
}

impl Attempt {
    pub(crate) fn settle(mut self, outcome: Outcome) {
        self.report(outcome);
    }

    fn report(&mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            // Fails only when the relay stops.
            drop(self.settled.send((ticket, outcome)));
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.report(Outcome::Gone);
    }
}

/// Passes connection attempts on as they come. While the one who decides about them is behind, they wait in quinn, which has a
/// limit and drops what is beyond it.
async fn accept(endpoint: quinn::Endpoint, incoming: mpsc::Sender<quinn::Incoming>) {
    while let Some(attempt) = endpoint.accept().await {
        if incoming.send(attempt).await.is_err() {
            return;
        }
    }
}

/// Decides about connection attempts; never waits for one of them.
async fn admit(mut attempts: mpsc::Receiver<quinn::Incoming>, shared: Arc<Shared>) {
    let mut gate = Gate::new(admission::Limits::default());
    let mut connections = JoinSet::new();
    // As many entries as there are tickets, of which the gate gives out only so many.
    let (settled, mut outcomes) = mpsc::unbounded_channel();
    loop {
        let incoming = tokio::select! {
            biased;
            Some((ticket, outcome)) = outcomes.recv() => {
                gate.settle(Instant::now(), ticket, outcome);
                continue;
            }
            incoming = attempts.recv() => incoming,
        };
        let Some(incoming) = incoming else {
            // Nobody comes any more; those who are here may stay.
            while connections.join_next().await.is_some() {}
            return;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            shared.stats.events().decided(&Verdict::Ignore);
            incoming.ignore();
            continue;
        }
        let (from, validated) = (incoming.remote_address().ip(), incoming.remote_address_validated());
        let verdict = gate.admit(Instant::now(), from, validated);
        shared.stats.events().decided(&verdict);
        match verdict {
            Verdict::Accept(ticket) => {
                let attempt = Attempt { ticket: Some(ticket), settled: settled.clone() };
                connections.spawn(shake_hands(incoming, attempt, shared.clone()));
            }
            // Under load an address must show that it is real before it costs a handshake (RFC 9000, section 8.1.2).
            Verdict::Retry => drop(incoming.retry()),
            Verdict::Refuse => incoming.refuse(),
            Verdict::Ignore => incoming.ignore(),
        }
    }
}

async fn shake_hands(incoming: quinn::Incoming, attempt: Attempt, shared: Arc<Shared>) {
    let validated = incoming.remote_address_validated();
    let trace = shared.logs.begin(incoming.remote_address().ip());
    // With the key of this moment; it may be another when the handshake is done.
    let (mut settings, relay) = {
        let shown = shared.keys.borrow();
        (shown.config.clone(), shown.current.pin())
    };
    if let Some(trace) = &trace {
        settings = Arc::new(vchat_quic::logged(&settings, trace.stream.clone()));
    }
    let shaking = async { incoming.accept_with(settings)?.await };
    // quinn has no handshake timeout of its own.
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking).await {
        Ok(Ok(connection)) => {
            if let Some(trace) = trace {
                trace.settle(peer_pin(connection.peer_identity()));
            }
            connection::serve(connection, relay, &shared, attempt).await;
        }
        Ok(Err(e)) => {
            tracing::debug!("handshake failed: {e}");
            shared.stats.events().handshake(Handshake::Failed);
            attempt.settle(Outcome::Failed { proven: validated });
        }
        Err(_) => {
            tracing::debug!("handshake timed out");
            shared.stats.events().handshake(Handshake::TimedOut);
            // Its place is free when its memory is, or strangers who take turns would hold twice as much.
            tokio::time::sleep(vchat_quic::LINGER).await;
            attempt.settle(Outcome::Failed { proven: validated });
        }
    }
}

/// A handshake is two round trips; a client that needs longer has no usable path for a call.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts between sockets and admission: those of a millisecond under a flood.
const INCOMING: usize = 64;
/// Requests to the keeper of the keys.
const COMMANDS: usize = 16;
/// Connections of a relay: with the limits on streams and datagrams at most some 4 GB in the very worst case.
const MAX_CONNECTIONS: usize = 4096;
/// A round trip to anywhere, so that the farewell and its acknowledgement pass.
const FAREWELL: Duration = Duration::from_millis(500);
