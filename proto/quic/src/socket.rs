//! The UDP socket of a relay, which two processes of it share while one takes over from the other.
//!
//! A connection lives in the process that made it: its keys cannot be moved. So while clients go over to the process that has been
//! started, both send from the same socket, and the new one reads it: what belongs to connections of the old one, which shows in
//! their connection IDs, it passes on over a stream between the two. No packet is lost by that.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};
use tokio::net::UnixStream;

use crate::passage::{Inlet, Outlet};
use crate::secrets::RelaySecrets;

/// The socket below an endpoint of a relay.
#[derive(Clone)]
pub struct RelaySocket(Arc<Shared>);

struct Shared {
    socket: Arc<dyn AsyncUdpSocket>,
    secrets: RelaySecrets,
    /// Behind a lock because quinn reads through a shared reference. Nobody else holds it for longer than a change takes.
    source: Mutex<Source>,
}

/// Where packets come from.
enum Source {
    /// The socket is read by another process as yet.
    Nowhere(Option<Waker>),
    /// The socket.
    Socket,
    /// The socket, of which the packets of another process go on to that.
    SocketOfBoth { generation: u8, outlet: Outlet },
    /// What the process that has taken over passes on.
    Successor(Inlet),
}

impl RelaySocket {
    /// Takes a UDP socket; it is read at once, or when [`Self::begin`] says so.
    ///
    /// # Errors
    /// It is none that the system lets us use like this.
    pub fn new(socket: UdpSocket, secrets: &RelaySecrets, reads: bool) -> io::Result<Self> {
        crate::enlarge_buffers(&socket2::SockRef::from(&socket));
        let socket = quinn::TokioRuntime.wrap_udp_socket(socket)?;
        let source = Mutex::new(if reads { Source::Socket } else { Source::Nowhere(None) });
        Ok(Self(Arc::new(Shared { socket, secrets: secrets.clone(), source })))
    }

    /// From now on reads the socket, and passes on what belongs to connections of the process before, which are of this generation.
    /// The stream must have been found writable once, or it counts as full.
    pub fn begin(&self, generation: u8, to: UnixStream) {
        let outlet = Outlet::new(to);
        let mut source = self.0.source();
        if let Source::Nowhere(Some(waker)) =
            std::mem::replace(&mut *source, Source::SocketOfBoth { generation, outlet })
        {
            waker.wake();
        }
    }

    /// From now on does not read the socket, but what the process that takes over passes on.
    ///
    /// # Errors
    /// The stream is none.
    pub fn step_back(&self, from: StdUnixStream) -> io::Result<()> {
        from.set_nonblocking(true)?;
        *self.0.source() = Source::Successor(Inlet::new(UnixStream::from_std(from)?));
        Ok(())
    }

    pub(crate) fn into_quinn(self) -> Arc<dyn AsyncUdpSocket> {
        self.0
    }
}

impl Shared {
    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for Shared {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut source = self.source();
        match &mut *source {
            Source::Nowhere(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Source::Socket => self.socket.poll_recv(cx, bufs, meta),
            Source::SocketOfBoth { generation, outlet } => {
                let received = self.socket.poll_recv(cx, bufs, meta);
                let Poll::Ready(Ok(count)) = received else { return received };
                let mut others = false;
                for (buf, meta) in bufs.iter().zip(meta.iter_mut()).take(count) {
                    let packets = buf.get(..meta.len).unwrap_or_default();
                    // Several at once are of one sender, and so of one connection.
                    if self.secrets.generation_of(packets) == Some(*generation) {
                        others |= outlet.pass(meta, packets).is_err();
                        // Of nothing quinn makes nothing.
                        meta.len = 0;
                    }
                }
                if others {
                    tracing::debug!("the process before has ended");
                    *source = Source::Socket;
                }
                Poll::Ready(Ok(count))
            }
            Source::Successor(inlet) => inlet.poll_recv(cx, bufs, meta),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RelaySocket").field(&self.socket).finish_non_exhaustive()
    }
}

impl fmt::Debug for RelaySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
