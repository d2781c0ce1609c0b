//! What QUIC does with one device, written down for whoever looks into its network (qlog, JSON-SEQ).
//!
//! Whose a connection is shows when its handshake is done, and a log must begin before. So while one is wanted, every connection
//! that may be the device's is logged, and what turns out to be another's is removed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use quinn::{QlogConfig, QlogStream};
use vchat_certs::pin::Pin;

use crate::registry::unix_ms_now;

/// The logs of a relay. Looked at when a connection comes, never for a packet.
pub(crate) struct Logs {
    dir: PathBuf,
    wanted: Mutex<Option<Wanted>>,
}

/// Whose connections are logged.
#[derive(Clone)]
struct Wanted {
    device: Pin,
    /// Where it is; anywhere, if there is none.
    from: Vec<IpAddr>,
    until: Instant,
}

/// The log of a connection that may be the device's. Removed when dropped, unless it is.
pub(crate) struct Trace {
    pub(crate) stream: QlogStream,
    device: Pin,
    path: PathBuf,
    open: Arc<AtomicBool>,
}

impl Logs {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("qlog"), wanted: Mutex::default() }
    }

    /// Logs the connections that this device makes in this time, rather than those of the device before. Returns where.
    ///
    /// # Errors
    /// There is no place for more.
    pub(crate) fn want(&self, device: Pin, from: Vec<IpAddr>, time: Duration) -> anyhow::Result<&Path> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .with_context(|| format!("cannot make the directory {}", self.dir.display()))?;
        ensure!(
            self.count()? < MAX_FILES,
            "there are {MAX_FILES} logs in {}: remove some",
            self.dir.display()
        );
        let wanted = Wanted { device, from, until: Instant::now() + time };
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        Ok(&self.dir)
    }

    /// The log for a connection from this address, if one is wanted.
    pub(crate) fn begin(&self, from: IpAddr) -> Option<Trace> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let may_be = wanted.from.is_empty() || wanted.from.contains(&from.to_canonical());
        if Instant::now() > wanted.until || !may_be {
            return None;
        }
        self.open(wanted.device).inspect_err(|e| tracing::warn!("a connection is not logged: {e:#}")).ok()
    }

    fn open(&self, device: Pin) -> anyhow::Result<Trace> {
        ensure!(self.count()? < MAX_FILES, "there are {MAX_FILES} logs already");
        let now = unix_ms_now();
        let names = (0..MAX_FILES).map(|n| self.dir.join(format!("{now}-{n}.sqlog")));
        let path = names.into_iter().find(|path| !path.exists()).context("no name is free")?;
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&path)?;
        let open = Arc::new(AtomicBool::new(true));
        let tape = Tape::start(file, open.clone())?;
        let mut config = QlogConfig::default();
        config.writer(Box::new(tape)).title(Some("vchatd".into()));
        let stream = config.into_stream().context("no log could be begun")?;
        Ok(Trace { stream, device, path, open })
    }

    fn count(&self) -> io::Result<usize> {
        Ok(fs::read_dir(&self.dir)?.count())
    }
}

impl Trace {
    /// The handshake is done, with this device; keeps the log if it is the one that was meant.
    pub(crate) fn settle(mut self, device: Option<Pin>) {
        if device == Some(self.device) {
            tracing::info!(fingerprint = %self.device, file = %self.path.display(), "a connection is logged");
            self.path = PathBuf::new();
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        self.open.store(false, Ordering::Relaxed);
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!("{} cannot be removed: {e}", self.path.display());
        }
    }
}

/// What quinn writes into: a thread carries it to the file, and the connection never waits for the disk.
///
/// Bounded by [`CHUNKS`]. Overflow, and what is beyond [`MAX_BYTES`]: whole records are left out.
struct Tape {
    /// Whole records but for the last.
    buffer: Vec<u8>,
    chunks: SyncSender<Vec<u8>>,
    left: usize,
    open: Arc<AtomicBool>,
    passed_on: Instant,
}

impl Tape {
    fn start(file: File, open: Arc<AtomicBool>) -> io::Result<Self> {
        let (chunks, queue) = sync_channel(CHUNKS);
        let written = open.clone();
        std::thread::Builder::new().name("qlog".into()).spawn(move || carry(file, &queue, &written))?;
        Ok(Self { buffer: Vec::new(), chunks, left: MAX_BYTES, open, passed_on: Instant::now() })
    }

    fn pass_on(&mut self) {
        let chunk = std::mem::take(&mut self.buffer);
        self.passed_on = Instant::now();
        if let Some(left) = self.left.checked_sub(chunk.len()) {
            self.left = left;
            drop(self.chunks.try_send(chunk));
        } else {
            self.open.store(false, Ordering::Relaxed);
        }
    }
}

impl Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.load(Ordering::Relaxed) {
            self.buffer.extend_from_slice(bytes);
            let full = self.buffer.len() >= CHUNK || self.passed_on.elapsed() >= CHUNK_AGE;
            // A record ends with a line feed (RFC 7464).
            if full && self.buffer.ends_with(b"\n") {
                self.pass_on();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        if self.open.load(Ordering::Relaxed) {
            self.pass_on();
        }
    }
}

/// Writes until the connection is gone, the log is not wanted or the disk is full.
fn carry(mut file: File, queue: &Receiver<Vec<u8>>, open: &AtomicBool) {
    for chunk in queue {
        if let Err(e) = file.write_all(&chunk) {
            tracing::warn!("a log of a connection ends here: {e}");
            open.store(false, Ordering::Relaxed);
            return;
        }
    }
}

/// Of all devices together: an evening of looking into one.
const MAX_FILES: usize = 32;
/// Of a file: some ten minutes of a call with video. All files together are below 2 GB.
const MAX_BYTES: usize = 64 << 20;
/// Bytes that are written at once, and after what time there may be fewer.
const CHUNK: usize = 32 * 1024;
const CHUNK_AGE: Duration = Duration::from_secs(1);
/// What may wait for the disk: two megabytes, seconds of a call.
const CHUNKS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_holds_whole_records_up_to_its_end_and_waits_for_nobody() {
        let (chunks, queue) = sync_channel(CHUNKS);
        let open = Arc::new(AtomicBool::new(true));
        let record = [&[0x1e][..], &[b'x'; 1000], b"\n"].concat();
        let mut tape = Tape {
            buffer: Vec::new(),
            chunks,
            left: 10 * CHUNK,
            open: open.clone(),
            passed_on: Instant::now(),
        };
        for _ in 0..1000 {
            for part in record.chunks(300) {
                tape.write_all(part).expect("never fails");
            }
        }
        drop(tape);
        assert!(!open.load(Ordering::Relaxed), "it is full");
        let written: Vec<u8> = queue.into_iter().flatten().collect();
        assert!(written.len() <= 10 * CHUNK && written.len() > 8 * CHUNK, "{}", written.len());
        assert_eq!(written.len() % record.len(), 0, "whole records");
    }

    #[test]
    fn only_the_device_that_was_meant_leaves_a_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let logs = Logs::new(dir.path());
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let (ann, bob) = (Pin([1; 32]), Pin([2; 32]));
        assert!(logs.begin(here).is_none(), "nobody asked");
        let files = || fs::read_dir(dir.path().join("qlog")).expect("a directory").count();
        logs.want(ann, vec![here], Duration::from_secs(60)).expect("room");
        assert!(logs.begin(there).is_none(), "she is elsewhere");
        logs.begin(here).expect("wanted").settle(Some(bob));
        drop(logs.begin(here).expect("wanted"));
        assert_eq!(files(), 0, "another's, and one of which nobody knows whose");
        logs.begin(here).expect("wanted").settle(Some(ann));
        assert_eq!(files(), 1);
        (1..MAX_FILES).for_each(|_| logs.begin(here).expect("room").settle(Some(ann)));
        assert!(logs.begin(here).is_none() && files() == MAX_FILES, "no room");
        assert!(logs.want(ann, Vec::new(), Duration::ZERO).is_err());
    }
}
