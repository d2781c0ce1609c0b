//! Planned restarts: another process of the program takes over while calls go on, and nobody hears a gap.
//!
//! ```text
//! the process before                       the one that takes over
//!   starts it: one end of a stream is its stdin
//!   what it is given, sockets ----------->   reads its settings
//!   <------------------------------ READY
//!   ends what writes to the disk
//!   RELEASED ---------------------------->   opens all that
//!   <------------------------------- TAKE
//!   reads its sockets no more
//!   TAKEN ------------------------------->   reads them, passes on what is not its own
//!   <--------------------------------- UP
//!   tells the service manager
//!   GO ---------------------------------->   is the service
//!   tells its clients, room by room
//! ```
//!
//! Up to READY the process before can go on as if nothing had been; after that a failure is one of the relay, and the service manager
//! starts it anew.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use vchat_quic::RelaySocket;

use crate::room::Command;
use crate::server::{Restart, Shared};
use crate::service::{self, Sockets};

/// What the process that takes over is given, beside its files and sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Estate {
    /// Of the connections of the process before; its own ones are of the next.
    pub(crate) generation: u8,
    /// What the system's monotonic clock, which all processes share, showed at the zero of the relay's clock; microseconds.
    pub(crate) zero_us: i64,
}

impl Estate {
    /// That of a relay whose clock shows this.
    pub(crate) fn new(generation: u8, clock_us: u64) -> Self {
        Self { generation, zero_us: monotonic_us().saturating_sub_unsigned(clock_us) }
    }

    /// What the relay's clock shows now.
    pub(crate) fn clock(&self) -> Duration {
        Duration::from_micros(u64::try_from(monotonic_us().saturating_sub(self.zero_us)).unwrap_or(0))
    }
}

fn monotonic_us() -> i64 {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

/// The process that takes over, as the one before sees it.
pub(crate) struct Heir {
    child: Child,
    stream: Stream,
    /// For each socket, where the packets come from that are not for the heir.
    passages: Vec<StdUnixStream>,
    /// It has taken over: it lives on without this process.
    done: bool,
}

/// What there is to take over, as the one who does sees it.
pub struct Inheritance {
    stream: Stream,
    pub(crate) estate: Estate,
    pub(crate) sockets: Sockets,
    /// For each socket, where to pass on what belongs to the process before.
    outlets: Vec<UnixStream>,
}

impl Heir {
    /// Starts the program anew with the same arguments, and waits until it can take over.
    ///
    /// # Errors
    /// It cannot. Nothing has been given away then.
    pub(crate) async fn start(
        estate: Estate,
        sockets: &[(RelaySocket, UdpSocket)],
        metrics: Option<&TcpListener>,
    ) -> anyhow::Result<Self> {
        let program = PROGRAM.get().context("the program's file is not known")?;
        let (ours, theirs) = StdUnixStream::pair()?;
        let pairs = sockets.iter().map(|_| StdUnixStream::pair()).collect::<Result<Vec<_>, _>>()?;
        let (passages, outlets): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let mut command = Program::new(program);
        command.args(std::env::args_os().skip(1).filter(|arg| arg != TAKE_OVER)).arg(TAKE_OVER);
        // They name this process, and sockets that are given in another way.
        for variable in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
            command.env_remove(variable);
        }
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn();
        // Its end of the stream: when the child has ended, so has the stream.
        drop(command);
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let sockets = sockets.iter().map(|(_, udp)| udp.as_fd());
        let fds = sockets.chain(outlets.iter().map(AsFd::as_fd)).chain(metrics.map(AsFd::as_fd));
        let fds: Vec<BorrowedFd<'_>> = fds.collect();
        let mut heir = Self { child, stream: Stream::new(ours.try_clone()?)?, passages, done: false };
        let ready = async {
            send(&ours, &serde_json::to_vec(&estate)?, &fds)?;
            timeout(PATIENCE, heir.stream.hear(READY)).await.context("it does not answer")?
        };
        ready.await.context("the new process does not start, its log says why; nothing has changed")?;
        Ok(heir)
    }

    /// Lets it take over, and tells everybody here to go there.
    ///
    /// # Errors
    /// It does not. This process cannot go on, either.
    pub(crate) async fn take_over(
        mut self,
        sockets: &[(RelaySocket, UdpSocket)],
        shared: &Shared,
        answer: Restart,
    ) -> anyhow::Result<()> {
        self.take(sockets, shared).await?;
        self.done = true;
        tracing::info!(pid = self.child.id(), "another process has taken over");
        // Who asked may be gone.
        drop(answer.send(Ok(self.child.id())));
        send_away(shared).await;
        Ok(())
    }

    /// Waits until the other process has opened everything. A large chat takes some time to be looked through; media goes on meanwhile,
    /// and so does the service.
    async fn opened(&mut self) -> anyhow::Result<()> {
        let mut looks = tokio::time::interval(LOOK);
        let take = timeout(OPENING, self.stream.hear(TAKE));
        tokio::pin!(take);
        loop {
            tokio::select! {
                taken = &mut take => return taken.context("the other process does not answer")?,
                _ = looks.tick() => service::alive(),
            }
        }
    }

    async fn take(&mut self, sockets: &[(RelaySocket, UdpSocket)], shared: &Shared) -> anyhow::Result<()> {
        shared.rooms.be_quiet();
        let release = async {
            let archive = shared.rooms.archive();
            archive.stop().await;
            shared.registry.stop().await;
            archive.closed().await;
            shared.registry.closed().await;
        };
        timeout(PATIENCE, release).await.context("the disk does not answer")?;
        self.stream.say(RELEASED).await?;
        self.opened().await?;
        for ((socket, _), passage) in sockets.iter().zip(self.passages.drain(..)) {
            socket.step_back(passage)?;
        }
        self.stream.say(TAKEN).await?;
        timeout(PATIENCE, self.stream.hear(UP)).await.context("the other process does not answer")??;
        service::succeeded_by(self.child.id());
        self.stream.say(GO).await
    }
}

/// One that has not taken over is not to.
impl Drop for Heir {
    fn drop(&mut self) {
        if !self.done {
            // It may have ended by itself.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

impl Inheritance {
    /// Takes what the process before gives over stdin, and lets it know that this one can take over. Needs a tokio runtime.
    ///
    /// # Errors
    /// There is no such process.
    pub async fn receive() -> anyhow::Result<Self> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        let from = StdUnixStream::from(stdin);
        from.set_read_timeout(Some(PATIENCE))?;
        let (estate, fds) = receive(&from).context("there is no relay to take over from")?;
        ensure!(fds.len() > 1, "there are no sockets to take over");
        let count = fds.len() / 2;
        let mut fds = fds.into_iter();
        let calls = fds.by_ref().take(count).map(UdpSocket::from).collect();
        let outlets = fds.by_ref().take(count).map(|fd| tokio_stream(fd.into()));
        let outlets = outlets.collect::<Result<_, _>>()?;
        let sockets = Sockets { calls, metrics: fds.next().map(TcpListener::from) };
        let mut stream = Stream::new(from)?;
        stream.say(READY).await?;
        Ok(Self { stream, estate: serde_json::from_slice(&estate)?, sockets, outlets })
    }

    /// Waits until everything is closed that only one process may have open.
    pub(crate) async fn released(&mut self) -> anyhow::Result<()> {
        self.stream.hear(RELEASED).await
    }

    /// Everything is open: reads the sockets when nobody else does. Returns when this process is the service.
    ///
    /// # Errors
    /// The process before has ended.
    pub(crate) async fn begin(mut self, sockets: &[(RelaySocket, UdpSocket)]) -> anyhow::Result<()> {
        for outlet in &self.outlets {
            // What has never been waited for counts as full, and the first packets would be lost.
            outlet.writable().await?;
        }
        self.stream.say(TAKE).await?;
        self.stream.hear(TAKEN).await?;
        for ((socket, _), outlet) in sockets.iter().zip(self.outlets) {
            socket.begin(self.estate.generation, outlet);
        }
        self.stream.say(UP).await?;
        self.stream.hear(GO).await
    }
}

/// Remembers which file the program is, to be called before an upgrade may replace it.
pub fn remember_program() {
    if let Ok(program) = std::env::current_exe() {
        // Set before only by the same.
        drop(PROGRAM.set(program));
    }
}

/// Tells all clients to go to the process that has taken over: those of a room together, the rooms one after the other.
async fn send_away(shared: &Shared) {
    let rooms = shared.rooms.all();
    let step = SPREAD / u32::try_from(rooms.len()).unwrap_or(u32::MAX).max(1);
    for room in rooms {
        let at_us = shared.clock_us() + LEAD.as_micros() as u64;
        // Fails only for a room that has ended.
        drop(room.send(Command::GoAway { at_us }).await);
        tokio::time::sleep(step).await;
    }
}

/// The two processes' talk.
struct Stream(UnixStream);

impl Stream {
    fn new(stream: StdUnixStream) -> anyhow::Result<Self> {
        Ok(Self(tokio_stream(stream)?))
    }

    async fn say(&mut self, word: u8) -> anyhow::Result<()> {
        Ok(self.0.write_all(&[word]).await?)
    }

    async fn hear(&mut self, word: u8) -> anyhow::Result<()> {
        match self.0.read_u8().await.context("the other process has ended")? {
            heard if heard == word => Ok(()),
            heard => bail!("the other process says {heard} instead of {word}"),
        }
    }
}

fn tokio_stream(stream: StdUnixStream) -> std::io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Sends a message with open files.
fn send(to: &StdUnixStream, message: &[u8], fds: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
    ensure!(fds.len() <= MAX_FDS, "a relay with more than {} sockets cannot be handed over", MAX_FDS / 2);
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(control.push(SendAncillaryMessage::ScmRights(fds)), "there is no room for the sockets");
    let sent = sendmsg(to, &[IoSlice::new(message)], &mut control, SendFlags::empty())?;
    ensure!(sent == message.len(), "the message was cut");
    Ok(())
}

/// Receives a message with open files.
fn receive(from: &StdUnixStream) -> anyhow::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut message)], &mut control, flags)?;
    message.truncate(received.bytes);
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = rights.flatten().collect();
    Ok((message, fds))
}

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Tells a process that it takes over.
const TAKE_OVER: &str = "--take-over";
const READY: u8 = b'r';
const RELEASED: u8 = b'l';
const TAKE: u8 = b't';
const TAKEN: u8 = b'n';
const UP: u8 = b'u';
const GO: u8 = b'g';
/// More addresses than anybody listens on.
const MAX_FDS: usize = 32;
/// How long those who have connections here may take to go: they are told within a second, move within another one, and listen here
/// for two more.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
/// After so long nobody has a connection to the process before.
pub(crate) const SETTLED: Duration = DRAIN.saturating_add(Duration::from_secs(3));
/// So that not everybody comes at once: a handshake takes half a millisecond.
const SPREAD: Duration = Duration::from_secs(1);
/// For a handshake and a hello, three round trips on a long path; then everybody in a room sends on their new connection.
const LEAD: Duration = Duration::from_millis(700);
/// How long the files may take to be opened: a chat of gigabytes on a slow disk.
const OPENING: Duration = Duration::from_secs(120);
/// More often than any service manager wants to hear of a service.
const LOOK: Duration = Duration::from_secs(1);
/// For each other step: a start, or files that are closed and opened, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(10);
