//! The operator's end of the control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{MAX_REPLY, Reply, Request};

/// Why a relay gave no answer, or a bad one. One line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there.
    #[error("no vchatd answers at {path} ({error}): is it running, with the same --state-dir or --control?")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The relay does not do it.
    #[error("{0}")]
    Failed(String),
}

/// Asks the running relay for something and waits for the answer.
pub fn ask(path: &Path, request: &Request) -> Result<serde_json::Value, AskError> {
    let gone = |error| AskError::NotRunning { path: path.into(), error };
    let failed = |e: serde_json::Error| AskError::Failed(format!("the relay's answer makes no sense: {e}"));
    let mut stream = UnixStream::connect(path).map_err(gone)?;
    stream.set_read_timeout(Some(request.patience() + GRACE)).map_err(gone)?;
    let line = serde_json::to_string(request).map_err(failed)? + "\n";
    stream.write_all(line.as_bytes()).map_err(gone)?;
    let mut answer = Vec::new();
    BufReader::new(stream).take(MAX_REPLY).read_until(b'\n', &mut answer).map_err(gone)?;
    match serde_json::from_slice(&answer).map_err(failed)? {
        Reply::Done(value) => look(request, value),
        Reply::Failed(why) => Err(AskError::Failed(why)),
    }
}

/// A relay in a sandbox may have directories of its own under names of others (`PrivateTmp=`); a backup there would be gone with it.
fn look(request: &Request, answer: serde_json::Value) -> Result<serde_json::Value, AskError> {
    match (request, answer["path"].as_str()) {
        (Request::Backup { .. }, Some(path)) if !Path::new(path).exists() => Err(AskError::Failed(format!(
            "the relay made the backup {path} where only the relay sees it: choose a directory that both see, or leave it out"
        ))),
        _ => Ok(answer),
    }
}

/// Beyond what the relay gives itself.
const GRACE: Duration = Duration::from_secs(10);
