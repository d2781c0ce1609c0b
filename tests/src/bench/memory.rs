//! `vchat-bench memory`: what hostile clients can make a relay hold.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Endpoint, TransportConfig, VarInt};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use vchat_certs::identity::Identity;
use vchat_certs::tls::{Purpose, ServerTrust, client_config};
use vchat_proto::packetize::Packetizer;
use vchat_proto::units::MediaTime;
use vchat_proto::wire::datagram::{HopCounter, MediaKind};
use vchat_proto::wire::limits::{CHAT_RATE, MAX_CHAT_TEXT, MAX_CLIENT_MESSAGE};
use vchat_proto::wire::pb;

use super::flood::{Attack, Kind};
use super::guest::{self, Guest, Line, Stream};
use super::machine::Machine;
use super::resident;
use crate::harness::Relay;

/// How to attack a relay's memory.
#[derive(Args, Clone, Debug)]
pub struct MemoryOptions {
    /// Hostile members
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=500))]
    clients: u32,
    /// Members to a room
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=250))]
    together: u32,
    /// Chat lines that each posts, of 2000 bytes, and does not read; too many, and the relay lets it go [default: what fits]
    #[arg(long)]
    lines: Option<u32>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Measures as the options say, and prints the result to stdout.
pub fn run_memory(options: &MemoryOptions) -> anyhow::Result<()> {
    let members = members(options)?;
    let gone = options.clients - members.stayed;
    // What is still there of those would be counted for the others.
    ensure!(gone == 0, "the relay let {gone} of {} clients go: let them post fewer --lines", options.clients);
    let strangers = strangers()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let per_client = mib(members.grown) / f64::from(options.clients);
    let text = if options.json {
        json!({
            "machine": Machine::read().json(),
            "clients": options.clients, "together": options.together, "idle_mib": mib(members.idle) / f64::from(options.clients),
            "per_client_mib": per_client,
            "strangers_mib": mib(strangers),
        })
        .to_string()
    } else {
        format!(
            "{}\n{} clients, {} to a room\nidle:      {:.3} MiB per client\nhoarding:  {per_client:.3} MiB \
             per client, target {CLIENT_MIB}: {}\nstrangers: {:.1} MiB together, target {STRANGERS_MIB}: {}",
            Machine::read(),
            options.clients,
            options.together,
            mib(members.idle) / f64::from(options.clients),
            if per_client <= CLIENT_MIB { "met" } else { "MISSED" },
            mib(strangers),
            if mib(strangers) <= STRANGERS_MIB { "met" } else { "MISSED" },
        )
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// What the members did to the relay, in bytes of its memory.
struct Grown {
    idle: u64,
    grown: u64,
    /// Those whom the relay had not let go by then.
    stayed: u32,
}

fn members(options: &MemoryOptions) -> anyhow::Result<Grown> {
    let relay = Relay::start()?;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Two, because those in one of them are to stop dead.
    let (lively, frozen) = (runtime()?, runtime()?);
    let count = options.clients as usize;
    let devices = lively.block_on(guest::devices(&relay, count.div_ceil(CONNECTIONS_OF_DEVICE)))?;
    // What a relay needs once, however many come.
    for device in &devices {
        lively.block_on(Guest::join(relay.address(), device, "early", &[]))?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let before = resident::size(relay.id())?;
    let of = |n: usize| if n.is_multiple_of(options.together as usize) { &lively } else { &frozen };
    let mut hoarders = Vec::new();
    for n in 0..count {
        let room = format!("room {}", n / options.together as usize);
        let joining = Hoarder::join(relay.address(), &devices[n / CONNECTIONS_OF_DEVICE], &room);
        hoarders.push(of(n).block_on(joining).context("cannot join")?);
    }
    let idle = resident::size(relay.id())?.saturating_sub(before);
    let lines = options.lines.unwrap_or(LINES / options.together);
    hoard(&mut hoarders, [&lively, &frozen], |n| of(n), lines)?;
    let mut most = resident::size(relay.id())?;
    // Now the frozen ones acknowledge nothing, and the others send them media.
    let sending = lively.block_on(async {
        let mut tasks = JoinSet::new();
        for (n, hoarder) in hoarders.iter_mut().enumerate() {
            if n.is_multiple_of(options.together as usize) {
                tasks.spawn(hoarder.shower());
            }
        }
        let end = Instant::now() + FROZEN;
        while Instant::now() < end {
            most = most.max(resident::size(relay.id())?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(tasks)
    })?;
    // What the relay has closed meanwhile is heard when they thaw.
    frozen.block_on(async { tokio::time::sleep(Duration::from_millis(100)).await });
    let stayed = hoarders.iter().filter(|h| h.line.connection.close_reason().is_none()).count();
    drop(sending);
    Ok(Grown { idle, grown: most.saturating_sub(before), stayed: stayed as u32 })
}

/// Lets everybody take all that there is to take.
fn hoard<'a>(
    hoarders: &mut [Hoarder],
    runtimes: [&Runtime; 2],
    of: impl Fn(usize) -> &'a Runtime,
    lines: u32,
) -> anyhow::Result<()> {
    let mut posted = 0;
    while posted < lines {
        // As fast as posts are taken.
        let now = if posted == 0 { CHAT_RATE.1.min(lines) } else { CHAT_RATE.0.min(lines - posted) };
        for (n, hoarder) in hoarders.iter_mut().enumerate() {
            of(n).block_on(hoarder.post(posted, now))?;
        }
        posted += now;
        for runtime in runtimes {
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(550)).await });
        }
    }
    for (n, hoarder) in hoarders.iter_mut().enumerate() {
        of(n).block_on(hoarder.leave_unfinished())?;
        // Last, as it leaves the connection's window no room for anything else.
        of(n).block_on(hoarder.fill())?;
    }
    for runtime in runtimes {
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(500)).await });
    }
    Ok(())
}

/// A member that takes and does not give back.
struct Hoarder {
    line: Line,
    control: Stream,
    chat: Stream,
    more: Vec<Stream>,
    cameras: Vec<Packetizer>,
    hop: HopCounter,
    number: u32,
}

impl Hoarder {
    async fn join(relay: SocketAddr, device: &Identity, room: &str) -> anyhow::Result<Self> {
        let line = Line::new(endpoint(device, Purpose::Call, Ipv4Addr::LOCALHOST)?, relay).await?;
        let guest = Guest::enter(line, room, &[pb::TrackKind::Camera; 4]).await?;
        let chat = guest.chat().await?;
        let cameras = guest.tracks.iter().map(|track| Packetizer::new(MediaKind::Video, *track)).collect();
        let Guest { line, control, id, .. } = guest;
        Ok(Self { line, control, chat, more: Vec::new(), cameras, hop: HopCounter::default(), number: id.0 })
    }

    /// Fills the windows of all streams that there may be with what nobody asks for, and the relay's copies of its pictures.
    async fn fill(&mut self) -> anyhow::Result<()> {
        while let Ok(stream) = tokio::time::timeout(SHORT, Stream::open(&self.line.connection)).await {
            let Ok(mut stream) = stream else { break };
            let junk = vec![0; 1 << 20];
            let written = tokio::time::timeout(SHORT, stream.send.write_all(&junk[..FILLER])).await;
            drop(written);
            self.more.push(stream);
        }
        for camera in &mut self.cameras {
            let picture = vec![1; 64 * 1024];
            for datagram in camera.packetize(&picture, true, MediaTime::default())? {
                // Fails when the relay has let it go.
                drop(self.line.connection.send_datagram_wait(self.hop.number(datagram)).await);
            }
        }
        Ok(())
    }

    async fn post(&mut self, from: u32, count: u32) -> anyhow::Result<()> {
        for n in from..from + count {
            let id = [[0; 8].as_slice(), &self.number.to_be_bytes(), &n.to_be_bytes()].concat();
            let text = "x".repeat(MAX_CHAT_TEXT);
            let post = pb::chat_up::Body::Post(pb::Post { id, text });
            // Whom the relay has let go is counted at the end.
            drop(tokio::time::timeout(SHORT, self.chat.send(&pb::ChatUp { body: Some(post) })).await);
        }
        Ok(())
    }

    /// Begins a message on each stream.
    async fn leave_unfinished(&mut self) -> anyhow::Result<()> {
        for stream in [&mut self.control, &mut self.chat] {
            let prefix = [0x80 | (MAX_CLIENT_MESSAGE & 0x7f) as u8, (MAX_CLIENT_MESSAGE >> 7) as u8];
            let begun = [&prefix[..], &vec![0; MAX_CLIENT_MESSAGE - 1]].concat();
            drop(tokio::time::timeout(SHORT, stream.send.write_all(&begun)).await);
        }
        Ok(())
    }

    /// Sends the others key frames as fast as the relay takes them.
    fn shower(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let (connection, mut cameras) = (self.line.connection.clone(), self.cameras.clone());
        let mut hop = self.hop;
        async move {
            loop {
                for camera in &mut cameras {
                    let Ok(datagrams) = camera.packetize(&vec![1; 100 * 1024], true, MediaTime::default())
                    else {
                        return;
                    };
                    for datagram in datagrams {
                        if connection.send_datagram_wait(hop.number(datagram)).await.is_err() {
                            return;
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Strangers who hold every place there is, in handshakes and in pairings; how much that grows the relay.
fn strangers() -> anyhow::Result<u64> {
    let relay = Relay::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let attack = Attack::prepare(Kind::Unfinished, relay.address())?;
    runtime.block_on(async {
        // What a relay needs once.
        guest::devices(&relay, 4).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = resident::size(relay.id())?;
        let mut tasks = JoinSet::new();
        for n in 0..PAIRERS {
            tasks.spawn(pester(relay.address(), Ipv4Addr::from(0x7fc8_0000 + n / 2), guest::identity()?));
        }
        let (end, mut most, mut attack) = (Instant::now() + STRANGERS, 0, Some(attack));
        let mut running = None;
        while Instant::now() < end {
            // The pairing ones first: they hold more.
            if end.saturating_duration_since(Instant::now()) < STRANGERS / 2 {
                running = running.or_else(|| attack.take().map(|a| a.start(2000, STRANGERS)));
            }
            most = most.max(resident::size(relay.id())?);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        running.map(super::flood::Running::stop).transpose()?;
        Ok(most.saturating_sub(before))
    })
}

/// Comes again and again to pair, and sends all that may be sent but a pairing.
async fn pester(relay: SocketAddr, from: Ipv4Addr, identity: Identity) {
    loop {
        let visit = async {
            let line = Line::new(endpoint(&identity, Purpose::Pair, from)?, relay).await?;
            // The first stream stays empty, so that the relay waits for it.
            let first = line.connection.open_bi().await?;
            let (mut send, receive) = line.connection.open_bi().await?;
            drop(tokio::time::timeout(SHORT, send.write_all(&vec![0; FILLER])).await);
            line.connection.closed().await;
            drop((first, receive));
            anyhow::Ok(())
        };
        drop(tokio::time::timeout(Duration::from_secs(10), visit).await);
    }
}

/// A client that takes next to nothing of any stream.
fn endpoint(identity: &Identity, purpose: Purpose, from: Ipv4Addr) -> anyhow::Result<Endpoint> {
    let (tls, _) = client_config(identity, ServerTrust::FirstUse, purpose)?;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(1024)).keep_alive_interval(Some(Duration::from_secs(2)));
    config.transport_config(Arc::new(transport));
    let mut endpoint = Endpoint::client((from, 0).into())?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

/// More than any window holds.
const FILLER: usize = 1 << 20;

/// Of the 16 that the relay allows, and of the 50 that it lets come at once.
const CONNECTIONS_OF_DEVICE: usize = 8;

/// Chat lines that just fit the relay's queue for one client, who gets an acknowledgement for each too.
const LINES: u32 = 165;

/// Less than the idle timeout, or the relay would let those go who do not acknowledge.
const FROZEN: Duration = Duration::from_secs(5);

/// Several times what a stranger has for a handshake or a pairing.
const STRANGERS: Duration = Duration::from_secs(20);

const PAIRERS: u32 = 120;

/// For what does not come to an end once a window is full.
const SHORT: Duration = Duration::from_millis(100);

const CLIENT_MIB: f64 = 1.3;
const STRANGERS_MIB: f64 = 6.0;
