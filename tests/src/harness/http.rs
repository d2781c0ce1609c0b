//! Reading what a program serves over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;

use super::process::DEADLINE;

/// What was answered.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The head, all lines of it.
    pub head: String,
    /// What follows.
    pub body: String,
}

impl Reply {
    /// Asks at a TCP address.
    pub fn at(address: SocketAddr, method: &str, path: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("nobody is at {address}"))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Self::read(stream, method, path)
    }

    /// Asks at a Unix socket.
    pub fn on(socket: &Path, method: &str, path: &str) -> anyhow::Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("nobody is at {}", socket.display()))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Self::read(stream, method, path)
    }

    fn read(mut stream: impl Read + Write, method: &str, path: &str) -> anyhow::Result<Self> {
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: vchatd\r\n\r\n")?;
        // The other end closes after its answer.
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text:?}"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no status: {head}"))?;
        Ok(Self { status, head: head.into(), body: body.into() })
    }
}
