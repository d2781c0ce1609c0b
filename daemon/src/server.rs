//! The running relay: sockets, admission, stop.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;
use vchat_certs::identity::Identity;
use vchat_certs::pin::Pin;
use vchat_proto::wire::close::CloseCode;

use crate::config::Config;
use crate::connection;
use crate::devices::Devices;
use crate::rooms::Rooms;

/// A relay whose sockets are open.
pub struct Server {
    endpoints: Vec<quinn::Endpoint>,
    addrs: Vec<SocketAddr>,
    pin: Pin,
    context: Arc<Shared>,
}

/// What every connection of a relay shares.
pub(crate) struct Shared {
    pub(crate) rooms: Rooms,
    pub(crate) devices: Mutex<Devices>,
    /// The zero of the relay's clock.
    pub(crate) started: Instant,
}

impl Server {
    /// Loads or makes the relay's identity and opens its sockets. Needs a tokio runtime.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let state = &config.state_dir;
        let identity = Identity::load_or_create(state)?;
        let devices = Devices::open(state)?;
        let (mut endpoints, mut addrs) = (Vec::new(), Vec::new());
        for addr in &config.listen {
            let tls = vchat_certs::tls::server_config(&identity).context("cannot set up TLS")?;
            let endpoint = vchat_quic::relay_endpoint(*addr, tls)
                .with_context(|| format!("cannot listen on {addr}/udp"))?;
            addrs.push(endpoint.local_addr()?);
            endpoints.push(endpoint);
        }
        let context =
            Shared { rooms: Rooms::default(), devices: Mutex::new(devices), started: Instant::now() };
        Ok(Self { endpoints, addrs, pin: identity.pin(), context: Arc::new(context) })
    }

    /// The addresses bound, with the ports that the system chose.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The pin of the relay's key, for people to compare.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// Serves until `shutdown` resolves, then tells every client and waits a moment for them to hear it.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        tracing::info!(fingerprint = %self.pin, "relay is up; people see this fingerprint when they join first");
        let mut accepting = JoinSet::new();
        for endpoint in &self.endpoints {
            accepting.spawn(accept(endpoint.clone(), self.context.clone()));
        }
        shutdown.await;
        tracing::info!("stopping");
        accepting.abort_all();
        for endpoint in &self.endpoints {
            let code = CloseCode::ShuttingDown;
            endpoint.close((code as u32).into(), code.reason().as_bytes());
        }
        for endpoint in &self.endpoints {
            // Whoever does not answer the close in this time notices by its idle timeout.
            drop(tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await);
        }
    }
}

/// Takes connections; never waits for one of them.
async fn accept(endpoint: quinn::Endpoint, context: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let handshakes = Arc::new(tokio::sync::Semaphore::new(MAX_HANDSHAKES));
    while let Some(incoming) = endpoint.accept().await {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            incoming.refuse();
            continue;
        }
        let busy = handshakes.available_permits() < MAX_HANDSHAKES - EASY_HANDSHAKES;
        if busy && !incoming.remote_address_validated() {
            // Under load an address must show that it is real before it costs a handshake (RFC 9000, section 8.1.2).
            drop(incoming.retry());
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.ignore();
            continue;
        };
        let context = context.clone();
        connections.spawn(async move {
            // quinn has no handshake timeout of its own.
            let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, incoming).await;
            drop(permit);
            match handshake {
                Ok(Ok(connection)) => connection::serve(connection, &context).await,
                Ok(Err(e)) => tracing::debug!("handshake failed: {e}"),
                Err(_) => tracing::debug!("handshake timed out"),
            }
        });
    }
}

/// A handshake is two round trips; a client that needs longer has no usable path for a call.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way before addresses must be validated.
const EASY_HANDSHAKES: usize = 32;
/// Handshakes under way at all; each costs some 0.3 ms of signatures and 20 kB.
const MAX_HANDSHAKES: usize = 512;
/// Connections of one socket: with the limits on streams and datagrams at most some 5 GB in the very worst case.
const MAX_CONNECTIONS: usize = 4096;
/// A round trip to anywhere, so that the farewell and its acknowledgement pass.
const FAREWELL: Duration = Duration::from_millis(500);
