//! How vchat uses QUIC: transport settings, sockets and the congestion window, alike on relay and client.
//!
//! The defaults of quinn are made for downloads; each setting here says why it differs.

mod passage;
mod secrets;
mod socket;
mod window;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

pub use self::secrets::RelaySecrets;
pub use self::socket::RelaySocket;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::limits::{IDLE_TIMEOUT, KEEP_ALIVE};

/// Bytes of media datagrams that may wait inside quinn. They can no longer be dropped by frame or overtaken by audio, so
/// few: at 1 Mb/s this is a quarter of a second, and an unblocked connection holds next to none.
pub const SEND_BUFFER: usize = 32 * 1024;

/// Streams that a client may open once it is in a room: control and chat, and room for later kinds.
const STREAMS: u32 = 4;

/// How long a relay's QUIC still keeps a connection whose handshake was given up, to repeat the close (three probe timeouts of
/// a path that was never measured; RFC 9000, section 10.2).
pub const LINGER: Duration = FIRST_ROUND_TRIP.saturating_mul(9);

/// What a round trip is taken for before it is measured; a probe timeout is three of them. quinn's default (RFC 9002, section
/// 6.2.2) waits a second for the first packet that is lost, and on a bad network one of the first five is. On longer paths
/// some packets of the handshake are sent twice.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(50);

/// Bytes that a client may send on all its streams before the relay has read them, until it is in a room: a hello, of 4 kB
/// at most, or a pairing.
const STRANGER_WINDOW: u32 = 5 * 1024;

/// The same of a member. A client that comes back sends up to a hundred posts at once; of the longest, this takes a few
/// round trips.
const MEMBER_WINDOW: u32 = 64 * 1024;

/// Opens the UDP socket of a relay.
pub fn relay_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unbound(addr)?;
    if addr.is_ipv6() {
        // `[::]:4433` serves both families wherever the system allows it.
        drop(socket.set_only_v6(false));
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Begins to serve on a socket, which may be one that was opened by somebody else.
pub fn relay_endpoint(
    socket: RelaySocket,
    config: quinn::ServerConfig,
    secrets: &RelaySecrets,
) -> io::Result<quinn::Endpoint> {
    let mut endpoint = endpoint_config();
    secrets.give(&mut endpoint);
    let (socket, runtime) = (socket.into_quinn(), Arc::new(quinn::TokioRuntime));
    quinn::Endpoint::new_with_abstract_socket(endpoint, Some(config), socket, runtime)
}

/// The same for connections that are to meet the relay with another key. Tokens given out before stay good.
pub fn with_key(
    config: &quinn::ServerConfig,
    tls: rustls::ServerConfig,
) -> Result<quinn::ServerConfig, EndpointError> {
    let tls = QuicServerConfig::try_from(tls).map_err(EndpointError::Tls)?;
    let mut config = config.clone();
    config.crypto = Arc::new(tls);
    Ok(config)
}

/// How a relay meets new connections.
pub fn relay_config(
    tls: rustls::ServerConfig,
    secrets: &RelaySecrets,
) -> Result<quinn::ServerConfig, EndpointError> {
    let tls = QuicServerConfig::try_from(tls).map_err(EndpointError::Tls)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(relay_transport())).token_key(secrets.tokens());
    // Attempts that nobody has looked at yet wait for some fifty microseconds; with 3 kB each they stay below 1 MiB.
    // Beyond, quinn drops first packets before it spends a key on them. Without 0-RTT there is no early data to keep,
    // only the second half of a hello.
    config.max_incoming(256).incoming_buffer_size(4 * 1024).incoming_buffer_size_total(512 * 1024);
    Ok(config)
}

/// The same for a connection of which is written down what QUIC does.
#[cfg(feature = "qlog")]
#[must_use]
pub fn logged(config: &quinn::ServerConfig, log: quinn::QlogStream) -> quinn::ServerConfig {
    let mut transport = relay_transport();
    transport.qlog_stream(Some(log));
    let mut config = config.clone();
    config.transport_config(Arc::new(transport));
    config
}

/// Lets a client send what a member may: more streams, and more on them before it is read.
pub fn welcome(connection: &quinn::Connection) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS));
    connection.set_receive_window(VarInt::from_u32(MEMBER_WINDOW));
}

/// Opens a UDP socket and the endpoint of a client, of the address family of `relay`.
pub fn client_endpoint(
    relay: SocketAddr,
    tls: rustls::ClientConfig,
) -> Result<quinn::Endpoint, EndpointError> {
    let config = client_config(tls)?;
    let any: SocketAddr = if relay.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let mut endpoint = client_on(any).map_err(EndpointError::Socket)?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

/// How a client meets a relay.
pub fn client_config(tls: rustls::ClientConfig) -> Result<quinn::ClientConfig, EndpointError> {
    let tls = QuicClientConfig::try_from(tls).map_err(EndpointError::Tls)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport(Some(KEEP_ALIVE))));
    Ok(config)
}

/// Closes a connection with one of our codes.
pub fn close(connection: &quinn::Connection, code: CloseCode) {
    connection.close(VarInt::from_u32(code as u32), code.reason().as_bytes());
}

/// The code with which the other side closed a connection, if it is one of ours.
#[must_use]
pub fn close_code(error: &quinn::ConnectionError) -> Option<CloseCode> {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            CloseCode::from_u64(close.error_code.into_inner())
        }
        _ => None,
    }
}

/// Why an endpoint could not be opened.
#[derive(Debug)]
pub enum EndpointError {
    /// The address cannot be bound.
    Socket(io::Error),
    /// The TLS settings lack what QUIC needs.
    Tls(NoInitialCipherSuite),
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(e) => e.fmt(f),
            Self::Tls(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for EndpointError {}

fn transport(keep_alive: Option<Duration>) -> TransportConfig {
    let mut t = TransportConfig::default();
    t.max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .initial_rtt(FIRST_ROUND_TRIP)
        .keep_alive_interval(keep_alive)
        // The control and the chat stream; a relay allows [`STREAMS`] to those it has let in.
        .max_concurrent_bidi_streams(VarInt::from_u32(2))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        // The defaults would let each peer make us hold 260 MB; streams carry only small messages.
        .stream_receive_window(VarInt::from_u32(128 * 1024))
        .receive_window(VarInt::from_u32(256 * 1024))
        .send_window(512 * 1024)
        .datagram_receive_buffer_size(Some(512 * 1024))
        .datagram_send_buffer_size(SEND_BUFFER)
        // By default every second packet is acknowledged at once, with a packet of its own: a tenth of what a call sends. Our
        // own reports tell of media, so these may wait for a packet that leaves anyway; what is lost of a stream is noticed
        // by the gap, which is acknowledged at once (draft-ietf-quic-ack-frequency, reordering threshold).
        .ack_frequency_config(Some(acknowledgements()))
        // Lets observers on the path measure round trips; nobody needs that here.
        .allow_spin(false)
        .congestion_controller_factory(Arc::new(window::Factory));
    t
}

fn relay_transport() -> TransportConfig {
    let mut t = transport(None);
    // What a client may make a relay hold is bounded more tightly than the other way round: there are many of them, and some
    // are hostile.
    t.stream_receive_window(VarInt::from_u32(MEMBER_WINDOW))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .send_window(64 * 1024)
        .datagram_receive_buffer_size(Some(128 * 1024));
    t
}

fn acknowledgements() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config.ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER)).max_ack_delay(Some(ACK_DELAY));
    config
}

fn client_on(addr: SocketAddr) -> io::Result<quinn::Endpoint> {
    let socket = unbound(addr)?;
    enlarge_buffers(&socket2::SockRef::from(&socket));
    socket.bind(&addr.into())?;
    quinn::Endpoint::new(endpoint_config(), None, socket.into(), Arc::new(quinn::TokioRuntime))
}

fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.supported_versions(vec![QUIC_V1]);
    config
}

fn unbound(addr: SocketAddr) -> io::Result<socket2::Socket> {
    socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )
}

/// A key frame to a hundred receivers is a burst of megabytes; the system's default buffers lose it. The kernel clamps this to
/// net.core.{r,w}mem_max without an error.
pub(crate) fn enlarge_buffers(socket: &socket2::SockRef<'_>) {
    for result in [socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER)] {
        if let Err(e) = result {
            tracing::warn!("cannot enlarge the buffers of the UDP socket: {e}");
        }
    }
}

/// Packets that may come before they are acknowledged, and how long after the first of them: two packets of sound.
const ACK_AFTER: u32 = 8;
const ACK_DELAY: Duration = Duration::from_millis(25);
const SOCKET_BUFFER: usize = 4 << 20;
const QUIC_V1: u32 = 1;
