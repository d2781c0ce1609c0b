//! TLS between a relay and its clients: both prove the key they show, and nothing else about a certificate counts.
//!
//! A client knows its relay's key (or takes the first it meets, see [`ServerTrust`]). A relay accepts any client key
//! and decides after the handshake what that key may do, by [`peer_pin`](crate::pin::peer_pin).
//!
//! A client's handshake completes before the relay has looked at the client's certificate (TLS 1.3 order), so a
//! client is only accepted once the relay has said so on a stream.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use crate::identity::Identity;
use crate::pin::{Pin, spki_pin};

/// The application protocol of calls, version included.
pub const ALPN: &[u8] = b"vchat/1";

/// The application protocol in which a device that the relay does not know pairs. A protocol of its own, so that one look at the
/// finished handshake tells a stranger who pairs from a member who calls, before a byte of either has been read.
pub const ALPN_PAIR: &[u8] = b"vchat-pair/1";

/// The application protocol in which an administrator's device asks for invites.
pub const ALPN_ADMIN: &[u8] = b"vchat-admin/1";

/// The application protocol in which a device reads the old chat of rooms without being there.
pub const ALPN_HISTORY: &[u8] = b"vchat-history/1";

/// What a client wants of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be in a room.
    Call,
    /// To become known to it.
    Pair,
    /// To invite others.
    Admin,
    /// To read what was written in a room.
    History,
}

impl Purpose {
    const ALL: [Self; 4] = [Self::Call, Self::Pair, Self::Admin, Self::History];

    /// The protocol that a client offers for this purpose.
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Call => ALPN,
            Self::Pair => ALPN_PAIR,
            Self::Admin => ALPN_ADMIN,
            Self::History => ALPN_HISTORY,
        }
    }

    /// The purpose of a connection on which both sides have agreed on this protocol.
    #[must_use]
    pub fn of_alpn(protocol: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.alpn() == protocol)
    }
}

/// Which relay keys a client accepts. Whatever it says, the relay has to prove that it owns the key.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// One of these, and no other. Nothing is accepted when there is none.
    Pinned(Vec<Pin>),
    /// Any. The caller reads the key from the connection with [`peer_pin`](crate::pin::peer_pin), and either proves by other means
    /// whose it is ([`pake`](crate::pake)), or shows it and remembers it ([`KnownHosts`](crate::known::KnownHosts)), so that
    /// this happens once.
    FirstUse,
}

/// The key of the last relay that was turned away because it was not one of the pinned keys.
///
/// Shared by every connection made with one client configuration. It is set before the connection attempt fails, so
/// a caller that gets a connection error and [`Self::take`]s a pin knows that the relay's key has changed.
#[derive(Clone, Debug, Default)]
pub struct Refused(Arc<Mutex<Option<Pin>>>);

impl Refused {
    /// The key that was refused since the last call. The relay has shown it but not proved that it owns it.
    #[must_use]
    pub fn take(&self) -> Option<Pin> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, pin: Pin) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
    }
}

/// The relay's side: TLS 1.3, a certificate from every client, no resumption.
pub fn server_config(identity: &Identity) -> Result<ServerConfig, Error> {
    let provider = Arc::new(default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(AnyKey(Possession(provider))))
        .with_cert_resolver(Arc::new(Own(identity.certified())));
    config.alpn_protocols = Purpose::ALL.map(|purpose| purpose.alpn().to_vec()).into();
    // A resumed session would skip the verifier: a device that has been revoked could come back on a ticket.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// A client's side: TLS 1.3, the relay's key as `trust` says, one protocol, no resumption; and what it [`Refused`].
pub fn client_config(
    identity: &Identity,
    trust: ServerTrust,
    purpose: Purpose,
) -> Result<(ClientConfig, Refused), Error> {
    let provider = Arc::new(default_provider());
    let refused = Refused::default();
    let verifier =
        RelayKey { trust, refused: refused.clone(), possession: Possession(Arc::clone(&provider)) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Own(identity.certified())));
    config.alpn_protocols = vec![purpose.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // The name would go over the wire in clear, and no relay has a use for it.
    config.enable_sni = false;
    Ok((config, refused))
}

/// Accepts a relay by its key.
#[derive(Debug)]
struct RelayKey {
    trust: ServerTrust,
    refused: Refused,
    possession: Possession,
}

impl ServerCertVerifier for RelayKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pin = lone_pin(end_entity, intermediates)?;
        let accepted = match &self.trust {
            ServerTrust::Pinned(pins) => pins.contains(&pin),
            ServerTrust::FirstUse => true,
        };
        if !accepted {
            self.refused.set(pin);
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.possession.verify(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Accepts every client that owns an Ed25519 key. What the key may do is decided after the handshake.
#[derive(Debug)]
struct AnyKey(Possession);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        lone_pin(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The check that the peer owns the private key: its signature over the handshake so far. Without it anyone could
/// replay a certificate, which is public.
#[derive(Debug)]
struct Possession(Arc<CryptoProvider>);

impl Possession {
    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
}

/// The pin of a certificate that came alone. Nobody issues certificates here, so others with it are a mistake or an
/// attempt to have more bytes parsed.
fn lone_pin(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<Pin, Error> {
    if !intermediates.is_empty() {
        return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }
    spki_pin(end_entity)
}

/// Shows one's own certificate to every peer.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

const NO_TLS12: Error = Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered);
