//! The relay's end of the control socket.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::office::Office;
use super::{MAX_REQUEST, PATIENCE, Reply, Request};
use crate::stats::{Pages, converse};

/// The socket in the file system; gone when dropped.
pub(crate) struct Door {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Door {
    /// Opens the socket. One that a crash left behind is replaced: whoever calls this holds the lock on the state directory.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("cannot open the control socket {}", path.display());
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            anyhow::bail!("{}: another program listens there; choose another with --control", what());
        }
        match fs::symlink_metadata(path) {
            Ok(old) if old.file_type().is_socket() => fs::remove_file(path).with_context(what)?,
            Ok(_) => anyhow::bail!("{}: something else is there; choose another with --control", what()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(what),
        }
        let listener = UnixListener::bind(path).with_context(what)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(what)?;
        Ok(Self { listener: Some(listener), path: path.into() })
    }

    /// The listener, once.
    pub(crate) fn listener(&mut self) -> anyhow::Result<UnixListener> {
        self.listener.take().context("the control socket is served already")
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Answers requests until dropped.
pub(crate) async fn serve(listener: UnixListener, office: Office, pages: Arc<Pages>) {
    let office = Arc::new(office);
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (office, pages) = (office.clone(), pages.clone());
                // They end by themselves, also when this does not listen any more.
                tokio::spawn(async move {
                    if let Err(e) = answer(stream, &office, &pages).await {
                        tracing::debug!("a control request was not ended: {e}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                // Out of file descriptors, for instance: it may pass.
                tracing::warn!("cannot accept on the control socket: {e}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, office: &Office, pages: &Pages) -> io::Result<()> {
    // The mode of the socket says the same, but its directory might be on a file system without modes.
    let ours = rustix::process::geteuid().as_raw();
    if !matches!(stream.peer_cred()?.uid(), 0) && stream.peer_cred()?.uid() != ours {
        return Ok(());
    }
    let mut stream = BufReader::new(stream);
    // A request of ours is an object; one of HTTP begins with a method.
    if stream.fill_buf().await?.first().is_some_and(u8::is_ascii_uppercase) {
        converse(stream, pages).await;
        return Ok(());
    }
    let mut line = Vec::new();
    timeout(PATIENCE, (&mut stream).take(MAX_REQUEST).read_until(b'\n', &mut line)).await??;
    let reply = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => timeout(request.patience(), office.handle(request)).await?,
        Err(e) => Reply::Failed(format!("the relay does not understand the request: {e}")),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    timeout(PATIENCE, stream.get_mut().write_all(&text)).await?
}

/// Operators at once; more wait.
const MAX_CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_secs(1);
