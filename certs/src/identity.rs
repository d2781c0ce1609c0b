//! The key of a relay or of a device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::file::{self, Content, DirLock, FileError};
use crate::pin::{Pin, spki_pin};

/// An Ed25519 key with its self-signed certificate.
///
/// The key has no text form, so it cannot reach a log; what may be shown is [`Self::pin`].
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    pin: Pin,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or its directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Others may read or change the key, so it may be theirs by now.
    #[error("{path} holds a private key but has mode {mode:04o}: make it yours alone with `chmod 600`", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold one Ed25519 certificate and its key. It is left as it is.
    #[error(
        "{path} is damaged, {why}: restore it, or move it away for a new identity that others must accept anew",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No key could be made, for want of randomness.
    #[error("cannot make a key: {0}")]
    Make(#[from] rcgen::Error),
}

impl Identity {
    /// The identity that `dir` holds in `identity.pem`; made there (and `dir`, with mode 0700) when there is none.
    ///
    /// Processes that start at once end with one identity. A file that cannot be trusted or read is an error and
    /// stays untouched: a new key would lock the owner out everywhere the old one is known.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        Self::load_or_create_as(dir, FILE_NAME)
    }

    fn load_or_create_as(dir: &Path, name: &str) -> Result<Self, IdentityError> {
        let path = dir.join(name);
        if let Some(content) = file::read(&path)? {
            return Self::from_file(&path, &content);
        }
        let lock = DirLock::take(dir)?;
        // Another process may have been first.
        if let Some(content) = file::read(&path)? {
            return Self::from_file(&path, &content);
        }
        let pem = generate()?;
        // Parsed before it is written: a file that could not be read again would be worse than none.
        let identity = Self::from_pem(&pem).map_err(|why| IdentityError::Damaged { path, why })?;
        lock.write(name, &pem)?;
        Ok(identity)
    }

    /// The identity that `dir` holds, if there is one.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        Self::load_as(dir, FILE_NAME)
    }

    fn load_as(dir: &Path, name: &str) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(name);
        file::read(&path)?.map(|content| Self::from_file(&path, &content)).transpose()
    }

    /// The identity that waits in `dir` to become the next one, if there is one.
    pub fn load_next(dir: &Path) -> Result<Option<Self>, IdentityError> {
        Self::load_as(dir, NEXT_FILE_NAME)
    }

    /// Makes an identity that waits in `dir` to become the next one, or returns the one that waits already.
    pub fn create_next(dir: &Path) -> Result<Self, IdentityError> {
        Self::load_or_create_as(dir, NEXT_FILE_NAME)
    }

    /// The identity that waits in `dir` takes the place of the present one, whose key is gone then. After a crash there is
    /// either the old state or the new one.
    pub fn promote_next(dir: &Path) -> Result<(), IdentityError> {
        Ok(DirLock::take(dir)?.rename(NEXT_FILE_NAME, FILE_NAME)?)
    }

    /// The fingerprint of the key, under which others know this identity.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// The certificate as it is shown to peers.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        // `from_pem` builds the chain from exactly one certificate.
        &self.certified.cert[0]
    }

    /// Certificate and signing key as rustls wants them.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// The public key as it stands in the certificate.
    pub(crate) fn spki(&self) -> Result<SubjectPublicKeyInfoDer<'static>, webpki::Error> {
        Ok(webpki::EndEntityCert::try_from(self.certificate())?.subject_public_key_info().into_owned())
    }

    fn from_file(path: &Path, content: &Content) -> Result<Self, IdentityError> {
        if content.is_exposed() {
            return Err(IdentityError::Exposed { path: path.into(), mode: content.mode });
        }
        Self::from_pem(&content.bytes).map_err(|why| IdentityError::Damaged { path: path.into(), why })
    }

    /// Takes exactly one certificate and one PKCS#8 key that belong together; the error says what is wrong.
    fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let mut certificates = Vec::new();
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            match section.map_err(|e| format!("it is no PEM text ({e:?})"))? {
                (SectionKind::Certificate, der) => certificates.push(CertificateDer::from(der)),
                (SectionKind::PrivateKey, der) => keys.push(Zeroizing::new(der)),
                (other, _) => return Err(format!("it has a section that does not belong there ({other:?})")),
            }
        }
        let (certificate, key) = match (certificates.pop(), keys.pop()) {
            (Some(certificate), Some(key)) if certificates.is_empty() && keys.is_empty() => {
                (certificate, key)
            }
            _ => return Err("it should have one CERTIFICATE and one PRIVATE KEY".into()),
        };
        let pin = spki_pin(&certificate).map_err(|e| format!("its certificate cannot be used ({e})"))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
        // Fails unless the key is that of the certificate, which `spki_pin` found to be Ed25519.
        let certified = CertifiedKey::from_der(vec![certificate], key, &default_provider())
            .map_err(|e| format!("its key cannot be used or is not the certificate's ({e})"))?;
        Ok(Self { certified: Arc::new(certified), pin })
    }
}

/// A new key and its certificate as PEM text.
///
/// The certificate has no name of its owner; rcgen gives it a validity from 1975 to 4096, which nobody checks.
fn generate() -> Result<Zeroizing<Vec<u8>>, rcgen::Error> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let mut params = rcgen::CertificateParams::new(vec![SUBJECT.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let certificate = params.self_signed(&key)?;
    let mut pem = Zeroizing::new(Vec::with_capacity(PEM_CAPACITY));
    push_pem(&mut pem, "CERTIFICATE", certificate.der());
    push_pem(&mut pem, "PRIVATE KEY", &Zeroizing::new(key.serialize_der()));
    Ok(pem)
}

/// Appends a section of textual encoding (RFC 7468).
fn push_pem(pem: &mut Vec<u8>, label: &str, der: &[u8]) {
    pem.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    for line in Zeroizing::new(BASE64.encode(der)).as_bytes().chunks(PEM_LINE_CHARS) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
}

const FILE_NAME: &str = "identity.pem";

/// Holds the key that a relay has announced and does not use yet.
const NEXT_FILE_NAME: &str = "next-identity.pem";

/// Alternative name of the certificate's subject. X.509 wants a name; nobody reads it.
const SUBJECT: &str = "vchat";

/// RFC 7468, section 2: lines of 64 characters.
const PEM_LINE_CHARS: usize = 64;

/// Twice what certificate (about 220 bytes) and key (83 bytes) take, so that the text never moves in memory.
const PEM_CAPACITY: usize = 1200;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it exists").permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("own file");
    }

    #[test]
    fn an_identity_is_made_once_and_for_its_owner_alone() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("state/vchat");
        let first = Identity::load_or_create(&dir).expect("made");
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join(FILE_NAME)), 0o600);
        let again = Identity::load_or_create(&dir).expect("loaded");
        assert_eq!(again.pin(), first.pin());
        assert_eq!(again.certificate(), first.certificate());
        let left: Vec<_> =
            fs::read_dir(&dir).expect("listed").map(|f| f.expect("entry").file_name()).collect();
        assert_eq!(left.len(), 2, "the identity, the lock and no temporary file: {left:?}");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let pin = Identity::load_or_create(dir.path()).expect("made").pin();
        let path = dir.path().join(FILE_NAME);
        for bad in [0o644, 0o640, 0o602, 0o604, 0o660] {
            set_mode(&path, bad);
            let error = Identity::load_or_create(dir.path()).err().expect("refused");
            let text = error.to_string();
            assert!(matches!(error, IdentityError::Exposed { mode, .. } if mode == bad), "{text}");
            assert!(
                text.contains("identity.pem")
                    && text.contains(&format!("{bad:04o}"))
                    && text.contains("chmod 600")
            );
        }
        set_mode(&path, 0o600);
        assert_eq!(Identity::load_or_create(dir.path()).expect("accepted again").pin(), pin);
    }

    #[test]
    fn a_damaged_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        Identity::load_or_create(dir.path()).expect("made");
        let path = dir.path().join(FILE_NAME);
        let good = fs::read_to_string(&path).expect("text");
        let other = String::from_utf8(generate().expect("made").to_vec()).expect("text");
        let (certificate, key) = good.split_at(good.find("-----BEGIN PRIVATE").expect("a key"));
        let (_, other_key) = other.split_at(other.find("-----BEGIN PRIVATE").expect("a key"));
        let ecdsa = {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
            let params = rcgen::CertificateParams::new(vec!["vchat".to_owned()]).expect("valid");
            let mut pem = Vec::new();
            push_pem(&mut pem, "CERTIFICATE", params.self_signed(&key).expect("made").der());
            push_pem(&mut pem, "PRIVATE KEY", &key.serialize_der());
            String::from_utf8(pem).expect("text")
        };
        for (what, content) in [
            ("empty", String::new()),
            ("cut short", good[..good.len() / 2].to_owned()),
            ("no key", certificate.to_owned()),
            ("no certificate", key.to_owned()),
            ("two keys", format!("{good}{key}")),
            ("two certificates", format!("{certificate}{good}")),
            ("the key of another certificate", format!("{certificate}{other_key}")),
            ("another algorithm", ecdsa),
            ("other bytes", "\u{0}\u{1}\u{2}".repeat(100)),
        ] {
            fs::write(&path, &content).expect("written");
            let error = Identity::load_or_create(dir.path()).err().expect(what);
            assert!(matches!(error, IdentityError::Damaged { .. }), "{what}: {error}");
            assert!(
                error.to_string().contains("identity.pem") && !error.to_string().contains('\n'),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).expect("still there"), content, "{what}");
        }
        fs::write(&path, good).expect("written");
        Identity::load_or_create(dir.path()).expect("the restored file is accepted");
    }

    #[test]
    fn many_that_start_at_once_end_with_one_identity() {
        for _ in 0..20 {
            let home = tempfile::tempdir().expect("a directory");
            let dir = home.path().join("new");
            let start = std::sync::Barrier::new(8);
            let pins: Vec<Pin> = std::thread::scope(|scope| {
                let make = || {
                    start.wait();
                    Identity::load_or_create(&dir).expect("an identity").pin()
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
                threads.into_iter().map(|t| t.join().expect("no panic")).collect()
            });
            assert!(pins.iter().all(|pin| *pin == pins[0]), "{pins:?}");
            assert_eq!(Identity::load_or_create(&dir).expect("loaded").pin(), pins[0]);
        }
    }

    #[test]
    fn the_next_identity_waits_and_then_takes_over() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path();
        let old = Identity::load_or_create(dir).expect("made").pin();
        assert!(Identity::load_next(dir).expect("nothing wrong").is_none());
        let text = Identity::promote_next(dir).expect_err("there is none").to_string();
        assert!(text.contains("next-identity.pem"), "{text}");
        let next = Identity::create_next(dir).expect("made").pin();
        assert_ne!(next, old);
        assert_eq!(Identity::create_next(dir).expect("there").pin(), next, "made once");
        assert_eq!(Identity::load_next(dir).expect("read").expect("there").pin(), next);
        assert_eq!(Identity::load_or_create(dir).expect("read").pin(), old, "not used before its time");
        assert_eq!(mode(&dir.join(NEXT_FILE_NAME)), 0o600);
        Identity::promote_next(dir).expect("promoted");
        assert_eq!(Identity::load_or_create(dir).expect("read").pin(), next);
        assert!(Identity::load_next(dir).expect("nothing wrong").is_none());
        assert_eq!(mode(&dir.join(FILE_NAME)), 0o600);
    }

    #[test]
    fn a_next_key_that_others_can_read_is_refused() {
        let home = tempfile::tempdir().expect("a directory");
        Identity::create_next(home.path()).expect("made");
        set_mode(&home.path().join(NEXT_FILE_NAME), 0o644);
        assert!(matches!(Identity::load_next(home.path()), Err(IdentityError::Exposed { .. })));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let home = tempfile::tempdir().expect("a directory");
        let blocked = home.path().join("file");
        fs::write(&blocked, "").expect("written");
        let text = Identity::load_or_create(&blocked.join("state")).err().expect("refused").to_string();
        assert!(text.contains("file/state"), "{text}");
    }
}
