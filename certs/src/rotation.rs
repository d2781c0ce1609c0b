//! A relay's next key, announced to those who know the present one.
//!
//! The announcement travels inside a TLS session that the present key has authenticated, so it says by itself who makes
//! it. What is left to prove is that the relay owns the next key: otherwise it could pass off somebody else's relay as its own
//! (RFC 4253 hosts do the same in OpenSSH's `hostkeys-prove`). So the next key signs the present pin.

use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::SignatureScheme;
use rustls::pki_types::SubjectPublicKeyInfoDer;

use crate::identity::Identity;
use crate::pin::{Pin, ed25519_key, key_pin};

/// What a relay says of its next key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextKey {
    /// DER of the key's SubjectPublicKeyInfo (RFC 8410), 44 bytes.
    pub spki: Vec<u8>,
    /// The next key's Ed25519 signature, 64 bytes.
    pub signature: Vec<u8>,
}

/// An announcement that is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// The key is not an Ed25519 key.
    #[error("the relay announces a next key that is none")]
    Key,
    /// The signature is not the next key's over the present pin.
    #[error("the relay announces a next key without proof that it owns it")]
    Proof,
    /// It is the present key.
    #[error("the relay announces its present key as its next one")]
    Same,
    /// Our own key cannot sign.
    #[error("the key cannot sign")]
    Sign,
}

impl NextKey {
    /// The relay whose present key is `current` announces `next`.
    pub fn announce(current: Pin, next: &Identity) -> Result<Self, RotationError> {
        let spki = next.spki().map_err(|_| RotationError::Key)?;
        let signer =
            next.certified().key.choose_scheme(&[SignatureScheme::ED25519]).ok_or(RotationError::Sign)?;
        let signature = signer.sign(&statement(current, &spki)).map_err(|_| RotationError::Sign)?;
        Ok(Self { spki: spki.to_vec(), signature })
    }

    /// The pin of the next key, if the relay with the pin `current` has proved that it owns it.
    pub fn verify(&self, current: Pin) -> Result<Pin, RotationError> {
        let spki = SubjectPublicKeyInfoDer::from(self.spki.as_slice());
        let key = ed25519_key(&spki).ok_or(RotationError::Key)?;
        let proof = UnparsedPublicKey::new(&ED25519, key);
        proof.verify(&statement(current, &spki), &self.signature).map_err(|_| RotationError::Proof)?;
        let pin = key_pin(&spki);
        if pin == current { Err(RotationError::Same) } else { Ok(pin) }
    }
}

/// Begins unlike anything else that is signed with such keys: TLS 1.3 signs 64 spaces first (RFC 8446, section 4.4.3).
fn statement(current: Pin, next: &[u8]) -> Vec<u8> {
    [b"vchat next relay key v1\0", &current.0[..], next].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::load_or_create(tempfile::tempdir().expect("a directory").path()).expect("made")
    }

    #[test]
    fn an_announcement_names_the_next_pin() {
        let (current, next) = (identity(), identity());
        let said = NextKey::announce(current.pin(), &next).expect("signed");
        assert_eq!((said.spki.len(), said.signature.len()), (44, 64));
        assert_eq!(said.verify(current.pin()), Ok(next.pin()));
    }

    #[test]
    fn somebody_elses_key_cannot_be_announced() {
        let (mine, victim, current) = (identity(), identity(), identity());
        let mut said = NextKey::announce(current.pin(), &mine).expect("signed");
        said.spki = NextKey::announce(current.pin(), &victim).expect("signed").spki;
        assert_eq!(said.verify(current.pin()), Err(RotationError::Proof));
    }

    #[test]
    fn another_relays_announcement_cannot_be_replayed() {
        let (current, other, next) = (identity(), identity(), identity());
        let said = NextKey::announce(other.pin(), &next).expect("signed");
        assert_eq!(said.verify(current.pin()), Err(RotationError::Proof));
    }

    #[test]
    fn what_is_no_key_or_no_proof_or_no_change_is_refused() {
        let (current, next) = (identity(), identity());
        let good = NextKey::announce(current.pin(), &next).expect("signed");
        for spki in [vec![], vec![0; 44], good.spki[..43].to_vec(), [&good.spki[..], &[0]].concat()] {
            assert_eq!(NextKey { spki, ..good.clone() }.verify(current.pin()), Err(RotationError::Key));
        }
        for signature in [vec![], vec![0; 64], good.signature[..63].to_vec()] {
            assert_eq!(
                NextKey { signature, ..good.clone() }.verify(current.pin()),
                Err(RotationError::Proof)
            );
        }
        let same = NextKey::announce(current.pin(), &current).expect("signed");
        assert_eq!(same.verify(current.pin()), Err(RotationError::Same));
    }
}
