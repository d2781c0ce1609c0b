//! The first packet of a QUIC client, made by hand (RFC 9000, section 17.2.2; RFC 9001, section 5).
//!
//! It is valid: a relay that accepts it begins a handshake. One made by a QUIC library costs a key exchange each; of
//! these one core makes 100,000 a second.

use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Suite, Version};
use rustls::{ClientConfig, Side};

/// A client's hello, the same in all its packets.
#[derive(Clone, Debug)]
pub(super) struct Hello {
    message: Vec<u8>,
    source: [u8; CID],
}

impl Hello {
    pub(super) fn new(tls: ClientConfig) -> anyhow::Result<Self> {
        let source = *b"unending";
        // The one transport parameter that a client cannot leave out: initial_source_connection_id.
        let parameters = [&[0x0f, source.len() as u8][..], &source].concat();
        let name = ServerName::try_from("vchat").context("a name")?;
        let mut client = ClientConnection::new(Arc::new(tls), Version::V1, name, parameters)?;
        let mut message = Vec::new();
        client.write_hs(&mut message);
        Ok(Self { message, source })
    }

    /// A whole datagram; `token` is that of a Retry or empty.
    pub(super) fn datagram(&self, destination: &[u8], token: &[u8]) -> anyhow::Result<Vec<u8>> {
        let suite = suite()?;
        let keys = suite.keys(destination, Side::Client, Version::V1);
        let mut packet = vec![LONG_INITIAL | (NUMBER as u8 - 1)];
        packet.extend(VERSION_1);
        for cid in [destination, &self.source] {
            packet.push(u8::try_from(cid.len())?);
            packet.extend(cid);
        }
        packet.extend(varint(token.len()));
        packet.extend(token);
        let length = DATAGRAM - packet.len() - 2;
        packet.extend(varint(length));
        let number_at = packet.len();
        packet.extend([0; NUMBER]);
        let header = packet.clone();
        let payload_at = packet.len();
        packet.extend([FRAME_CRYPTO, 0]);
        packet.extend(varint(self.message.len()));
        packet.extend(&self.message);
        // What follows is zero: padding.
        packet.resize(DATAGRAM - TAG, 0);
        let tag = keys.local.packet.encrypt_in_place(0, &header, &mut packet[payload_at..])?;
        packet.extend(tag.as_ref());
        let sample_at = number_at + 4;
        let sample = packet[sample_at..sample_at + keys.local.header.sample_len()].to_vec();
        let (first, rest) = packet.split_first_mut().context("not empty")?;
        let number = &mut rest[number_at - 1..number_at - 1 + NUMBER];
        keys.local.header.encrypt_in_place(&sample, first, number)?;
        Ok(packet)
    }
}

/// What a relay that wants to see whether an address is real answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Retry<'a> {
    /// Where to send the packet with the token.
    pub(super) source: &'a [u8],
    pub(super) token: &'a [u8],
}

impl<'a> Retry<'a> {
    /// None for any other packet.
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (first, rest) = datagram.split_first()?;
        if first & 0xf0 != LONG_RETRY {
            return None;
        }
        let rest = rest.strip_prefix(&VERSION_1)?;
        let (_, rest) = cid(rest)?;
        let (source, rest) = cid(rest)?;
        let token = rest.get(..rest.len().checked_sub(TAG)?)?;
        Some(Self { source, token })
    }
}

fn cid(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// RFC 9000, section 16, always in two bytes.
const fn varint(n: usize) -> [u8; 2] {
    ((n as u16 & 0x3fff) | 0x4000).to_be_bytes()
}

fn suite() -> anyhow::Result<Suite> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(rustls::Tls13CipherSuite::quic_suite);
    suite.context("the suite of Initial packets")
}

/// Bytes of the connection ids that are made here.
pub(super) const CID: usize = 8;

/// Bytes of a datagram with an Initial, the least that is allowed.
pub(super) const DATAGRAM: usize = 1200;

/// First byte of an Initial, without what header protection covers.
pub(super) const LONG_INITIAL: u8 = 0xc0;

pub(super) const VERSION_1: [u8; 4] = [0, 0, 0, 1];

const LONG_RETRY: u8 = 0xf0;
const FRAME_CRYPTO: u8 = 6;
/// Bytes of the packet number, as many as the sample begins after.
const NUMBER: usize = 4;
/// Bytes of the tag of AES-GCM.
const TAG: usize = 16;

#[cfg(test)]
mod tests {
    use vchat_certs::tls::{Purpose, ServerTrust, client_config};

    use super::super::super::guest::identity;
    use super::*;

    fn hello() -> Hello {
        let identity = identity().expect("a key");
        let (tls, _) = client_config(&identity, ServerTrust::FirstUse, Purpose::Call).expect("settings");
        Hello::new(tls).expect("a hello")
    }

    #[test]
    fn a_relay_can_read_it() {
        let (hello, destination) = (hello(), *b"anywhere");
        for token in [&[][..], &[7; 90]] {
            let mut packet = hello.datagram(&destination, token).expect("made");
            assert_eq!(packet.len(), DATAGRAM);
            let keys = suite().expect("a suite").keys(&destination, Side::Server, Version::V1);
            let number_at = 5 + 2 * (1 + CID) + 2 + token.len() + 2;
            let sample: Vec<u8> = packet[number_at + 4..number_at + 20].to_vec();
            let (first, rest) = packet.split_first_mut().expect("not empty");
            keys.remote
                .header
                .decrypt_in_place(&sample, first, &mut rest[number_at - 1..number_at + 3])
                .expect("a header");
            assert_eq!(packet[number_at..number_at + 4], [0; 4]);
            let (header, payload) = packet.split_at_mut(number_at + 4);
            let payload = keys.remote.packet.decrypt_in_place(0, header, payload).expect("authentic");
            assert_eq!(payload[..2], [FRAME_CRYPTO, 0]);
            assert_eq!(payload[4..4 + hello.message.len()], hello.message);
        }
    }

    #[test]
    fn a_retry_is_told_from_others() {
        let retry = [&[0xf5, 0, 0, 0, 1, 2, 1, 2, 3, 7, 8, 9][..], b"token", &[0; TAG]].concat();
        assert_eq!(Retry::parse(&retry), Some(Retry { source: &[7, 8, 9], token: b"token" }));
        assert_eq!(Retry::parse(&[&[0xc5][..], &retry[1..]].concat()), None);
        for cut in 0..retry.len() - 5 {
            assert_eq!(Retry::parse(&retry[..cut]), None, "{cut} bytes");
        }
    }
}
