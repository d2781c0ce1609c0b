//! Fingerprints of keys.

use std::any::Any;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::BASE32_NOPAD;
use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::{CertificateError, Error, OtherError};

/// SHA-256 of a public key (of its DER `SubjectPublicKeyInfo`): the name of a relay or of a device.
///
/// Pinning the key instead of the certificate lets a certificate be issued anew, or be dropped for a raw public
/// key, without anyone noticing. It is public and no secret: comparing needs no constant time.
///
/// # Text form
/// Base32 (RFC 4648, section 6) in lower case, 52 characters in 13 groups of four:
/// `mfrg-gzdf-mztw-q2lk-…`. The alphabet has no 0, 1, 8 or 9, so no digit is mistaken for a letter in print, and
/// groups of four are what people keep in mind while reading aloud or comparing two screens. Reading accepts any
/// case and any grouping by `-`, `:` or white space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

/// A text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinParseError {
    /// Not 52 characters, separators aside; holds how many there were.
    #[error("a fingerprint has {PIN_CHARS} letters and digits, this has {0}: copy all of it")]
    Length(usize),
    /// A character that is neither in the alphabet nor a separator, or a last character no fingerprint ends in.
    #[error("a fingerprint cannot have {0:?} there: its characters are a-z and 2-7")]
    Character(char),
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = BASE32_NOPAD.encode(&self.0).to_ascii_lowercase();
        text.char_indices().try_for_each(|(i, c)| {
            let dash = if i > 0 && i % 4 == 0 { "-" } else { "" };
            write!(f, "{dash}{c}")
        })
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = PinParseError;

    fn from_str(text: &str) -> Result<Self, PinParseError> {
        let chars = || text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '-' | ':'));
        if let Some(stray) = chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '2'..='7')) {
            return Err(PinParseError::Character(stray));
        }
        let letters: String = chars().map(|c| c.to_ascii_uppercase()).collect();
        if letters.len() != PIN_CHARS {
            return Err(PinParseError::Length(letters.len()));
        }
        // What is left to fail is the last character: it holds one bit of the key and four that must be zero, or
        // else several texts would mean one pin.
        let last = char::from(letters.as_bytes()[PIN_CHARS - 1]).to_ascii_lowercase();
        let bytes = BASE32_NOPAD.decode(letters.as_bytes()).map_err(|_| PinParseError::Character(last))?;
        bytes.try_into().map(Self).map_err(|_| PinParseError::Length(letters.len()))
    }
}

/// The pin of a certificate's key, which must be an Ed25519 key.
///
/// Says nothing about who sent the certificate: only the handshake's signature proves possession of the key.
pub fn spki_pin(certificate: &CertificateDer<'_>) -> Result<Pin, Error> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let spki = parsed.subject_public_key_info();
    if ed25519_key(&spki).is_none() {
        return Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotEd25519)))));
    }
    Ok(key_pin(&spki))
}

/// The 32 bytes of an Ed25519 public key; none for a key of any other kind.
pub(crate) fn ed25519_key<'a>(spki: &'a SubjectPublicKeyInfoDer<'_>) -> Option<&'a [u8; 32]> {
    spki.strip_prefix(&ED25519_SPKI_PREFIX)?.try_into().ok()
}

/// The pin of a key.
pub(crate) fn key_pin(spki: &SubjectPublicKeyInfoDer<'_>) -> Pin {
    let mut pin = Pin([0; 32]);
    pin.0.copy_from_slice(digest(&SHA256, spki).as_ref());
    pin
}

/// The pin that a peer proved in the handshake: `peer_pin(connection.peer_identity())` with quinn.
///
/// `None` when the peer showed no certificate or this is not the identity of a TLS connection; with the
/// configurations of [`crate::tls`] neither happens once the handshake is complete.
#[must_use]
pub fn peer_pin(peer_identity: Option<Box<dyn Any>>) -> Option<Pin> {
    let chain = peer_identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().and_then(|certificate| spki_pin(certificate).ok())
}

/// A certificate holds a key of another algorithm.
#[derive(Debug, thiserror::Error)]
#[error("its key is not an Ed25519 key")]
struct NotEd25519;

/// 256 bits in characters of five bits, rounded up.
const PIN_CHARS: usize = 52;

/// DER of an Ed25519 `SubjectPublicKeyInfo` up to the 32 bytes of the key (RFC 8410, section 4): a sequence of the
/// algorithm 1.3.101.112 without parameters and of a bit string without unused bits.
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_back_from_its_text_in_any_grouping() {
        let pin = Pin(std::array::from_fn(|i| (i * 37) as u8));
        let text = pin.to_string();
        assert_eq!(text.len(), 52 + 12, "13 groups of four: {text}");
        assert!(text.split('-').all(|group| group.len() == 4), "{text}");
        for variant in [
            text.clone(),
            text.to_uppercase(),
            text.replace('-', ""),
            format!(" {}\n", text.replace('-', ": ")),
        ] {
            assert_eq!(variant.parse(), Ok(pin), "{variant}");
        }
    }

    #[test]
    fn text_that_is_no_pin_is_refused_with_its_reason() {
        let text = Pin([7; 32]).to_string();
        assert_eq!(text[..text.len() - 1].parse::<Pin>(), Err(PinParseError::Length(51)));
        assert_eq!(format!("{text}a").parse::<Pin>(), Err(PinParseError::Length(53)));
        assert_eq!("".parse::<Pin>(), Err(PinParseError::Length(0)));
        assert_eq!(text.replacen(|_| true, "0", 1).parse::<Pin>(), Err(PinParseError::Character('0')));
        assert_eq!(format!("é{}", &text[1..]).parse::<Pin>(), Err(PinParseError::Character('é')));
        let one_bit_too_many = format!("{}b", &text[..text.len() - 1]);
        assert_eq!(one_bit_too_many.parse::<Pin>(), Err(PinParseError::Character('b')));
    }

    #[test]
    fn a_pin_is_that_of_the_key_whatever_the_certificate() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let certify = |name: &str| {
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("valid parameters");
            params.self_signed(&key).expect("a certificate")
        };
        let pin = spki_pin(certify("vchat").der()).expect("an Ed25519 key");
        assert_eq!(spki_pin(certify("another.example").der()).expect("an Ed25519 key"), pin);
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let params = rcgen::CertificateParams::new(vec!["vchat".to_owned()]).expect("valid parameters");
        assert_ne!(
            spki_pin(params.self_signed(&other).expect("a certificate").der()).expect("an Ed25519 key"),
            pin
        );
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_pin() {
        for bytes in [vec![], vec![0x30], vec![0xff; 300]] {
            assert!(spki_pin(&bytes.into()).is_err());
        }
        assert_eq!(peer_pin(None), None);
        assert_eq!(peer_pin(Some(Box::new("not a chain"))), None);
        assert_eq!(peer_pin(Some(Box::new(Vec::<CertificateDer<'static>>::new()))), None);
    }
}
