//! Handshakes between a relay and its clients over QUIC on the loopback interface: honest ones and attacks.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, Endpoint};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use vchat_certs::code::Code;
use vchat_certs::identity::Identity;
use vchat_certs::pake;
use vchat_certs::pin::{Pin, peer_pin, spki_pin};
use vchat_certs::tls::{Purpose, ServerTrust, client_config, server_config};

#[tokio::test]
async fn both_ends_learn_the_key_of_the_other() {
    let (relay, ann) = (identity(), identity());
    for trust in [ServerTrust::Pinned(vec![identity().pin(), relay.pin()]), ServerTrust::FirstUse] {
        let (client, refused) = client_config(&ann, trust, Purpose::Call).expect("a configuration");
        assert!(client.client_auth_cert_resolver.has_certs());
        let (at_client, at_relay) = meet(client, server_config(&relay).expect("a configuration")).await;
        assert_eq!(peer_pin(at_client.expect("accepted").peer_identity()), Some(relay.pin()));
        assert_eq!(peer_pin(at_relay.expect("accepted").peer_identity()), Some(ann.pin()));
        assert_eq!(refused.take(), None);
    }
}

#[tokio::test]
async fn a_relay_with_another_key_is_refused_and_its_key_reported() {
    let (relay, impostor, ann) = (identity(), identity(), identity());
    for pins in [vec![relay.pin()], vec![]] {
        let (client, refused) =
            client_config(&ann, ServerTrust::Pinned(pins), Purpose::Call).expect("a configuration");
        let (at_client, at_relay) = meet(client, server_config(&impostor).expect("a configuration")).await;
        assert!(matches!(at_client.expect_err("refused"), ConnectionError::TransportError(_)));
        at_relay.expect_err("told so");
        assert_eq!(refused.take(), Some(impostor.pin()));
        assert_eq!(refused.take(), None, "reported once");
    }
}

#[tokio::test]
async fn a_replayed_relay_certificate_without_its_key_is_refused() {
    let (relay, ann) = (identity(), identity());
    for trust in [ServerTrust::Pinned(vec![relay.pin()]), ServerTrust::FirstUse] {
        let mut server = server_config(&relay).expect("a configuration");
        server.cert_resolver = Arc::new(Fixed(forged(vec![relay.certificate().clone()])));
        let (client, _refused) = client_config(&ann, trust, Purpose::Call).expect("a configuration");
        let (at_client, at_relay) = meet(client, server).await;
        assert_bad_signature(&at_client.expect_err("refused"));
        at_relay.expect_err("told so");
    }
}

#[tokio::test]
async fn a_replayed_client_certificate_without_its_key_is_refused() {
    let (relay, victim) = (identity(), identity());
    let (mut client, _refused) =
        client_config(&identity(), ServerTrust::FirstUse, Purpose::Call).expect("a configuration");
    client.client_auth_cert_resolver = Arc::new(Fixed(forged(vec![victim.certificate().clone()])));
    let (_, at_relay) = meet(client, server_config(&relay).expect("a configuration")).await;
    assert_bad_signature(&at_relay.expect_err("refused"));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let (mut client, _refused) =
        client_config(&identity(), ServerTrust::FirstUse, Purpose::Call).expect("a configuration");
    client.client_auth_cert_resolver = Arc::new(Nothing);
    let (_, at_relay) = meet(client, server_config(&identity()).expect("a configuration")).await;
    let error = at_relay.expect_err("refused").to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn certificates_beside_the_own_one_are_refused() {
    let (relay, ann, other) = (identity(), identity(), identity());
    let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let honest = key();
    let chain = vec![certify(&honest), other.certificate().clone()];
    let (client, _refused) =
        client_config(&ann, ServerTrust::FirstUse, Purpose::Call).expect("a configuration");
    let mut server = server_config(&relay).expect("a configuration");
    server.cert_resolver = Arc::new(Fixed(certified(chain.clone(), &honest)));
    let (at_client, _) = meet(client, server).await;
    let error = at_client.expect_err("refused").to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");

    let (mut client, _refused) =
        client_config(&ann, ServerTrust::FirstUse, Purpose::Call).expect("a configuration");
    client.client_auth_cert_resolver = Arc::new(Fixed(certified(chain, &honest)));
    let (_, at_relay) = meet(client, server_config(&relay).expect("a configuration")).await;
    let error = at_relay.expect_err("refused").to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn keys_of_other_algorithms_are_refused() {
    let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let shown = certify(&ecdsa);
    spki_pin(&shown).expect_err("it has no pin");
    // Honest about the algorithm, and with the signature of an Ed25519 key below the ECDSA certificate.
    for key in [certified(vec![shown.clone()], &ecdsa), forged(vec![shown])] {
        let mut server = server_config(&identity()).expect("a configuration");
        server.cert_resolver = Arc::new(Fixed(Arc::clone(&key)));
        let (client, _refused) =
            client_config(&identity(), ServerTrust::FirstUse, Purpose::Call).expect("a configuration");
        let (at_client, _) = meet(client, server).await;
        at_client.expect_err("the relay is refused");

        let (mut client, _refused) =
            client_config(&identity(), ServerTrust::FirstUse, Purpose::Call).expect("a configuration");
        client.client_auth_cert_resolver = Arc::new(Fixed(key));
        let (_, at_relay) = meet(client, server_config(&identity()).expect("a configuration")).await;
        at_relay.expect_err("the client is refused");
    }
}

#[tokio::test]
async fn a_downgrade_to_another_protocol_or_none_is_refused() {
    for alpn in [vec![b"h3".to_vec()], vec![b"vchat/0".to_vec()], vec![b"vchat".to_vec()], vec![]] {
        let (mut client, _refused) =
            client_config(&identity(), ServerTrust::FirstUse, Purpose::Call).expect("a configuration");
        client.alpn_protocols = alpn;
        let (at_client, at_relay) = meet(client, server_config(&identity()).expect("a configuration")).await;
        at_client.expect_err("refused");
        at_relay.expect_err("refused");
    }
}

#[tokio::test]
async fn a_client_gets_the_protocol_of_its_purpose_and_no_other() {
    for purpose in [Purpose::Call, Purpose::Pair, Purpose::Admin, Purpose::History] {
        let (client, _refused) =
            client_config(&identity(), ServerTrust::FirstUse, purpose).expect("a configuration");
        let (at_client, at_relay) = meet(client, server_config(&identity()).expect("a configuration")).await;
        for end in [at_client.expect("accepted"), at_relay.expect("accepted")] {
            assert_eq!(purpose_of(&end), Some(purpose));
        }
    }
    // A relay that only pairs (or somebody in between who wants to) cannot talk a client out of its call.
    let (client, _refused) =
        client_config(&identity(), ServerTrust::FirstUse, Purpose::Call).expect("a configuration");
    let mut server = server_config(&identity()).expect("a configuration");
    server.alpn_protocols = vec![Purpose::Pair.alpn().to_vec()];
    let (at_client, at_relay) = meet(client, server).await;
    at_client.expect_err("refused");
    at_relay.expect_err("refused");
    assert_eq!(Purpose::of_alpn(b"h3"), None);
    let names = [Purpose::Call, Purpose::Pair, Purpose::Admin, Purpose::History].map(Purpose::alpn);
    assert_eq!(names, [&b"vchat/1"[..], b"vchat-pair/1", b"vchat-admin/1", b"vchat-history/1"]);
}

#[tokio::test]
async fn a_certificate_issued_anew_for_the_same_key_is_the_same_relay() {
    let ann = identity();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let pin = spki_pin(&certify(&key)).expect("an Ed25519 key");
    let mut certificates = Vec::new();
    for _ in 0..2 {
        // Names, serial number and dates differ, the last one is of a certificate that is long over.
        let mut params = rcgen::CertificateParams::new(vec![format!("relay-{}.example", certificates.len())])
            .expect("valid parameters");
        params.not_after = rcgen::date_time_ymd(2001 + certificates.len() as i32, 1, 1);
        certificates.push(params.self_signed(&key).expect("a certificate").der().clone());
    }
    assert_ne!(certificates[0], certificates[1]);
    for certificate in certificates {
        let mut server = server_config(&identity()).expect("a configuration");
        server.cert_resolver = Arc::new(Fixed(certified(vec![certificate], &key)));
        let (client, _refused) =
            client_config(&ann, ServerTrust::Pinned(vec![pin]), Purpose::Call).expect("a configuration");
        let (at_client, _) = meet(client, server).await;
        at_client.expect("accepted");
    }
}

#[tokio::test]
async fn a_man_in_the_middle_of_a_pairing_by_code_convinces_neither() {
    let (relay, mallory, ann) = (identity(), identity(), identity());
    let code: Code = "4-1234-5678".parse().expect("a code");
    // Ann means to pair with the relay, whose key she does not know, and meets Mallory, who connects to the relay and passes
    // everything along.
    let (to_mallory, at_mallory) = pair_of(&ann, &mallory).await;
    let (from_mallory, at_relay) = pair_of(&mallory, &relay).await;
    assert_ne!(exporter(&to_mallory), exporter(&from_mallory));
    let shown = peer_pin(to_mallory.peer_identity()).expect("a key");
    let (client, share) = pake::Client::start(&code, ann.pin(), shown);
    let seen = peer_pin(at_relay.peer_identity()).expect("a key");
    let (server, answer) =
        pake::Relay::answer(&code, seen, relay.pin(), &share, &exporter(&at_relay)).expect("a share");
    let (client, proof) = client.prove(&answer, &exporter(&to_mallory)).expect("a share");
    let refused = server.check(&proof);
    assert!(refused.is_err(), "the relay does not take Mallory for Ann");
    assert!(client.check(&proof).is_err(), "Ann does not take Mallory for the relay");
    drop(at_mallory);

    // The same two without him agree.
    let (at_ann, at_relay) = pair_of(&ann, &relay).await;
    assert_eq!(exporter(&at_ann), exporter(&at_relay));
    let (client, share) = pake::Client::start(&code, ann.pin(), relay.pin());
    let (server, answer) =
        pake::Relay::answer(&code, ann.pin(), relay.pin(), &share, &exporter(&at_relay)).expect("a share");
    let (client, proof) = client.prove(&answer, &exporter(&at_ann)).expect("a share");
    client.check(&server.check(&proof).expect("Ann")).expect("the relay");
}

#[test]
fn tls_1_2_is_refused() {
    // A ClientHello without the extension that offers TLS 1.3 (RFC 8446, section 4.2.1), in a TLS record.
    let random = [7; 32];
    let suites = [0, 4, 0xcc, 0xa9, 0xc0, 0x2b];
    let (no_session, no_compression, no_extensions) = ([0], [1, 0], [0, 0]);
    let body = [&[3, 3][..], &random, &no_session, &suites, &no_compression, &no_extensions].concat();
    let length = u8::try_from(body.len()).expect("short");
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat();

    let server = server_config(&identity()).expect("a configuration");
    let mut connection = rustls::ServerConnection::new(Arc::new(server)).expect("a connection");
    connection.read_tls(&mut record.as_slice()).expect("read");
    let error = connection.process_new_packets().expect_err("refused");
    assert!(matches!(error, rustls::Error::PeerIncompatible(_)), "{error:?}");
}

#[test]
fn no_session_is_ever_resumed() {
    let (client, _refused) =
        client_config(&identity(), ServerTrust::FirstUse, Purpose::Call).expect("a configuration");
    let (client, server) = (Arc::new(client), Arc::new(server_config(&identity()).expect("a configuration")));
    for _ in 0..3 {
        let name = "vchat".try_into().expect("a name");
        let mut at_client = rustls::ClientConnection::new(Arc::clone(&client), name).expect("a connection");
        let mut at_server = rustls::ServerConnection::new(Arc::clone(&server)).expect("a connection");
        while at_client.wants_write() || at_server.wants_write() {
            let mut wire = Vec::new();
            while at_client.wants_write() {
                at_client.write_tls(&mut wire).expect("written");
            }
            at_server.read_tls(&mut wire.as_slice()).expect("read");
            at_server.process_new_packets().expect("accepted");
            let mut wire = Vec::new();
            while at_server.wants_write() {
                at_server.write_tls(&mut wire).expect("written");
            }
            at_client.read_tls(&mut wire.as_slice()).expect("read");
            at_client.process_new_packets().expect("accepted");
        }
        assert_eq!(at_client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(at_server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(at_client.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn the_key_is_checked_again_on_every_connection() {
    let (relay, ann) = (identity(), identity());
    let (client, refused) =
        client_config(&ann, ServerTrust::Pinned(vec![relay.pin()]), Purpose::Call).expect("a configuration");
    for _ in 0..2 {
        let (at_client, at_relay) =
            meet(client.clone(), server_config(&relay).expect("a configuration")).await;
        at_client.expect("accepted");
        assert_eq!(peer_pin(at_relay.expect("accepted").peer_identity()), Some(ann.pin()));
    }
    let impostor = identity();
    let (at_client, _) = meet(client, server_config(&impostor).expect("a configuration")).await;
    at_client.expect_err("refused");
    assert_eq!(refused.take(), Some(impostor.pin()));
}

/// One connection from a client to a relay: what came of it at either end.
///
/// A client's side may be `Ok` although the relay refuses it a moment later.
async fn meet(
    client: ClientConfig,
    server: ServerConfig,
) -> (Result<Connection, ConnectionError>, Result<Connection, ConnectionError>) {
    let server = QuicServerConfig::try_from(server).expect("TLS 1.3");
    let client = QuicClientConfig::try_from(client).expect("TLS 1.3");
    let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
    let relay =
        Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(server)), loopback).expect("an endpoint");
    let address = relay.local_addr().expect("bound");
    let mut endpoint = Endpoint::client(loopback).expect("an endpoint");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(client)));
    let connecting = endpoint.connect(address, "vchat").expect("a valid configuration");
    let accepting = async {
        // Some offers are refused on their first packet.
        match relay.accept().await.expect("an attempt").accept() {
            Ok(connecting) => connecting.await,
            Err(error) => Err(error),
        }
    };
    tokio::join!(connecting, accepting)
}

/// Both ends of a connection for pairing: the client's and the relay's.
async fn pair_of(client: &Identity, relay: &Identity) -> (Connection, Connection) {
    let (tls, _refused) =
        client_config(client, ServerTrust::FirstUse, Purpose::Pair).expect("a configuration");
    let (at_client, at_relay) = meet(tls, server_config(relay).expect("a configuration")).await;
    (at_client.expect("accepted"), at_relay.expect("accepted"))
}

fn exporter(connection: &Connection) -> pake::Exporter {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, pake::EXPORTER_LABEL, &[]).expect("exported");
    exporter
}

fn purpose_of(connection: &Connection) -> Option<Purpose> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Purpose::of_alpn(&data.protocol?)
}

fn assert_bad_signature(error: &ConnectionError) {
    assert!(error.to_string().contains("BadSignature"), "{error}");
}

fn identity() -> Identity {
    let dir = tempfile::tempdir().expect("a directory");
    let identity = Identity::load_or_create(dir.path()).expect("made");
    assert_ne!(identity.pin(), Pin([0; 32]));
    identity
}

fn certify(key: &rcgen::KeyPair) -> CertificateDer<'static> {
    let params = rcgen::CertificateParams::new(vec!["vchat".to_owned()]).expect("valid parameters");
    params.self_signed(key).expect("a certificate").der().clone()
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &rcgen::KeyPair) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Arc::new(CertifiedKey::new(chain, any_supported_type(&key).expect("a supported key")))
}

/// What an attacker can present: certificates seen elsewhere, and signatures of a key of his own.
fn forged(chain: Vec<CertificateDer<'static>>) -> Arc<CertifiedKey> {
    certified(chain, &rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key"))
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Fixed {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl rustls::client::ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
