//! The program `vchat-netem`, with QUIC through it.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint};
use vchat_certs::identity::Identity;
use vchat_certs::pin::peer_pin;
use vchat_certs::tls::{Purpose, ServerTrust, client_config, server_config};
use vchat_tests::harness::{Process, bin};

#[tokio::test]
async fn quic_survives_a_bad_network_and_takes_its_time() {
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let [relay, ann] = dirs.each_ref().map(|dir| Identity::load_or_create(dir.path()).expect("an identity"));
    let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
    let tls = QuicServerConfig::try_from(server_config(&relay).expect("a configuration")).expect("TLS 1.3");
    let server =
        Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(tls)), loopback).expect("an endpoint");
    let address = server.local_addr().expect("bound").to_string();

    let mut netem =
        netem(&["--to", &address, "--loss", "5%", "--burst", "3", "--delay", "10ms", "--rate", "20M"]);
    let through = netem.wait_for_address().expect("it listens");
    let (tls, _refused) =
        client_config(&ann, ServerTrust::Pinned(vec![relay.pin()]), Purpose::Call).expect("a configuration");
    let tls = QuicClientConfig::try_from(tls).expect("TLS 1.3");
    let mut client = Endpoint::client(loopback).expect("an endpoint");
    client.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));

    let text: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
    let started = Instant::now();
    let serving = async {
        let connection = server.accept().await.expect("a client").await.expect("accepted");
        assert_eq!(peer_pin(connection.peer_identity()), Some(ann.pin()));
        let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
        let received = receive.read_to_end(1 << 20).await.expect("all of it");
        send.write_all(&received).await.expect("sent");
        send.finish().expect("open");
        connection.closed().await;
    };
    let calling = async {
        let connection: Connection =
            client.connect(through, "vchat").expect("valid").await.expect("accepted");
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        send.write_all(&text).await.expect("sent");
        send.finish().expect("open");
        let answer = receive.read_to_end(1 << 20).await.expect("all of it");
        connection.close(0_u32.into(), b"");
        answer
    };
    let ((), answer) = tokio::join!(serving, calling);
    assert!(answer == text, "{} bytes came back", answer.len());
    // There and back at 20 Mb/s each, and at least two round trips of 20 ms.
    assert!(started.elapsed() > Duration::from_millis(2 * 120 + 40), "{:?}", started.elapsed());

    assert!(netem.terminate().expect("ends").success());
    let report = netem.stderr_lines();
    assert_eq!(report.first().map(String::as_str), Some("clients: 1"), "{report:?}");
    assert!(report.iter().skip(1).all(|side| !side.contains(" 0 lost")), "{report:?}");
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("script");
    std::fs::write(&script, "1s rate=fast\n").expect("written");
    let script = script.to_str().expect("UTF-8");
    for (arguments, code, part) in [
        (&["--to", "127.0.0.1:9", "--loss", "5"][..], 2, "5%"),
        (&["--to", "127.0.0.1"], 2, "HOST:PORT"),
        (&["--to", "127.0.0.1:9", "--script", "/nonexistent"], 2, "/nonexistent"),
        (&["--to", "127.0.0.1:9", "--script", script], 2, "line 1"),
        (&["--to", "127.0.0.1:9", "--listen", "192.0.2.1:0"], 1, "192.0.2.1"),
    ] {
        let mut program = netem(arguments);
        assert_eq!(program.wait().expect("ends").code(), Some(code), "{arguments:?}");
        let text = program.stderr_lines().join("\n");
        assert!(text.contains(part), "{arguments:?}: {text}");
        assert!(program.lines().is_empty(), "nothing on stdout");
    }
}

#[test]
fn it_ends_by_itself_after_its_duration() {
    let mut program = netem(&["--to", "127.0.0.1:9", "--duration", "50ms"]);
    assert!(program.wait().expect("ends").success());
    assert_eq!(program.lines().len(), 1);
}

fn netem(arguments: &[&str]) -> Process {
    let mut command = Command::new(bin("vchat-netem").expect("built"));
    if !arguments.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    Process::spawn(command.args(arguments)).expect("started")
}
