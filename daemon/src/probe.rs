//! Whether the relay works, as somebody outside would find out: it calls itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, timeout};
use vchat_certs::tls::{Purpose, ServerTrust, client_config};
use vchat_proto::wire::close::CloseCode;

use crate::server::Shared;
use crate::service;

/// Calls the relay and remembers what came of it.
pub(crate) struct Probe {
    endpoints: Vec<quinn::Endpoint>,
    shared: Arc<Shared>,
    /// One call at a time, however many ask.
    last: Mutex<Option<(Instant, Verdict)>>,
}

/// That the relay works, or in what way it does not.
type Verdict = Result<(), String>;

impl Probe {
    pub(crate) fn new(endpoints: Vec<quinn::Endpoint>, shared: Arc<Shared>) -> Self {
        Self { endpoints, shared, last: Mutex::default() }
    }

    /// Tells the service manager that the relay works, as often as that wants to hear it and as long as it is true: with each
    /// turn, every socket takes a connection from the relay to itself, with keys and all, and a datagram goes there and back;
    /// and the threads of the disk answer. What hangs then is not told, and the relay is started anew. Never ends.
    pub(crate) async fn watch(&self) {
        let Some(patience) = service::patience() else { return std::future::pending().await };
        let mut turns = tokio::time::interval(patience / TURNS);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            match self.test(&mut *self.last.lock().await, patience / 2).await {
                Ok(()) => service::alive(),
                Err(why) => tracing::error!("{why}"),
            }
        }
    }

    /// Whether the relay works, as of the last seconds. Those who ask often, or many at once, cost no more than one.
    pub(crate) async fn verdict(&self, patience: Duration) -> Verdict {
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, verdict)) if at.elapsed() < FRESH => verdict.clone(),
            _ => self.test(&mut last, patience).await,
        }
    }

    async fn test(&self, last: &mut Option<(Instant, Verdict)>, patience: Duration) -> Verdict {
        let verdict = match timeout(patience, works(&self.endpoints, &self.shared)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(format!("the relay does not work: {e:#}")),
            Err(_) => Err("the relay does not answer itself".into()),
        };
        *last = Some((Instant::now(), verdict.clone()));
        verdict
    }
}

async fn works(endpoints: &[quinn::Endpoint], shared: &Shared) -> anyhow::Result<()> {
    for endpoint in endpoints {
        let address = endpoint.local_addr()?;
        call(endpoint, shared).await.with_context(|| format!("cannot be called at {address}"))?;
    }
    shared.registry.ask(|_| ()).await?;
    shared.rooms.archive().answers().await;
    Ok(())
}

/// One call from an endpoint to itself.
async fn call(endpoint: &quinn::Endpoint, shared: &Shared) -> anyhow::Result<()> {
    let identity = shared.keys.borrow().current.clone();
    let trust = ServerTrust::Pinned(vec![identity.pin()]);
    let (tls, _) = client_config(&identity, trust, Purpose::Call)?;
    let to = reachable(endpoint.local_addr()?);
    let connection = endpoint.connect_with(vchat_quic::client_config(tls)?, to, "vchat")?.await?;
    let question = Bytes::from_static(QUESTION);
    connection.send_datagram(question.clone())?;
    let answer = connection.read_datagram().await;
    vchat_quic::close(&connection, CloseCode::Goodbye);
    ensure!(answer? == question, "another datagram came back");
    Ok(())
}

/// The other end of a call of the relay to itself.
pub(crate) async fn answer(connection: &quinn::Connection) {
    let answer = async {
        connection.send_datagram(connection.read_datagram().await?)?;
        connection.closed().await;
        anyhow::Ok(())
    };
    if !matches!(timeout(PATIENCE, answer).await, Ok(Ok(()))) {
        vchat_quic::close(connection, CloseCode::HelloTimeout);
    }
}

/// Where this machine reaches a socket that is bound so.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        // Takes IPv4, too: `vchat_quic::relay_socket`.
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

/// Calls in the time after which the relay is started anew: one may fail.
const TURNS: u32 = 3;
/// A call costs two handshakes, a millisecond: at most one in this time for those who ask from outside.
const FRESH: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);
const QUESTION: &[u8] = b"vchatd";
