//! A relay and clients made by hand, over real QUIC.

use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use vchat_certs::identity::Identity;
use vchat_certs::tls::{Purpose, ServerTrust, client_config};
use vchat_proto::wire::framing::frame;
use vchat_proto::wire::{STREAM_CHAT, STREAM_CONTROL, pb};
use vchatd::config::{Config, LogFormat};
use vchatd::server::Server;

struct Guest {
    connection: Connection,
    control: SendStream,
    _news: RecvStream,
    _endpoint: Endpoint,
}

impl Guest {
    /// Joins a room and waits for the first bytes of the welcome.
    async fn join(relay: std::net::SocketAddr, room: &str) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let identity = Identity::load_or_create(home.path()).expect("an identity");
        let (tls, _) = client_config(&identity, ServerTrust::FirstUse, Purpose::Call).expect("settings");
        let endpoint = vchat_quic::client_endpoint(relay, tls).expect("a socket");
        let connection = endpoint.connect(relay, "vchat").expect("started").await.expect("connected");
        let (mut control, mut news) = connection.open_bi().await.expect("a stream");
        let hello = pb::Hello { room: room.into(), name: "ann".into(), ..pb::Hello::default() };
        control.write_all(&[STREAM_CONTROL]).await.expect("written");
        control.write_all(&message(pb::client_control::Body::Hello(hello))).await.expect("written");
        news.read_chunk(1000, true).await.expect("open").expect("a welcome");
        Self { connection, control, _news: news, _endpoint: endpoint }
    }
}

fn message(body: pb::client_control::Body) -> bytes::Bytes {
    frame(&pb::ClientControl { body: Some(body) })
}

async fn relay() -> (std::net::SocketAddr, tempfile::TempDir) {
    let state_dir = tempfile::tempdir().expect("a directory");
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    let config = Config { listen, state_dir: state_dir.path().into(), log: LogFormat::Text };
    let server = Server::bind(config).await.expect("bound");
    let addr = server.local_addrs()[0];
    tokio::spawn(server.run(std::future::pending()));
    (addr, state_dir)
}

async fn code(connection: &Connection) -> u64 {
    match tokio::time::timeout(Duration::from_secs(30), connection.closed()).await {
        Ok(ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
        other => panic!("not closed by the relay: {other:?}"),
    }
}

#[tokio::test]
async fn who_says_goodbye_is_let_go() {
    let (relay, _state) = relay().await;
    let mut guest = Guest::join(relay, "lobby").await;
    let goodbye = message(pb::client_control::Body::Goodbye(pb::Goodbye {}));
    guest.control.write_all(&goodbye).await.expect("written");
    assert_eq!(code(&guest.connection).await, 0);
}

#[tokio::test]
async fn a_stream_of_empty_messages_is_cut_off_and_others_stay() {
    let (relay, _state) = relay().await;
    let other = Guest::join(relay, "lobby").await;
    let guest = Guest::join(relay, "lobby").await;
    let (mut chat, _receive) = guest.connection.open_bi().await.expect("a stream");
    chat.write_all(&[STREAM_CHAT]).await.expect("written");
    // Each zero is a message of no bytes. The write fails when the relay has had enough.
    while chat.write_all(&[0; 1000]).await.is_ok() {}
    assert_eq!(code(&guest.connection).await, 5);
    assert_eq!(other.connection.close_reason(), None);
}
