//! What a relay must still know after a crash, so that those it has forgotten hear of it at once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid, RandomConnectionIdGenerator};
use ring::{hkdf, hmac};
use vchat_proto::bucket::TokenBucket;

/// Keys of a relay's QUIC that outlive the process.
///
/// A relay that was killed gets packets of connections that it knows nothing of. With the same keys as before it tells that their
/// connection IDs are its own and answers with the stateless reset that the client expects (RFC 9000, section 10.3); with
/// others it could only keep silent, and clients would wait for their idle timeout. Address validation tokens stay good, too.
#[derive(Clone)]
pub struct RelaySecrets {
    reset: hmac::Key,
    ids: hmac::Key,
    tokens: Arc<hkdf::Prk>,
}

impl RelaySecrets {
    /// Derives the keys from a secret that is kept: HKDF-Expand with SHA-256 (RFC 5869), of which one block is enough.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        let prk = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let key = |info: &[u8]| hmac::sign(&prk, &[info, &[1]].concat());
        Self {
            reset: hmac::Key::new(hmac::HMAC_SHA256, key(b"vchat stateless reset").as_ref()),
            ids: hmac::Key::new(hmac::HMAC_SHA256, key(b"vchat connection id").as_ref()),
            tokens: Arc::new(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key(b"vchat token").as_ref())),
        }
    }

    pub(super) fn tokens(&self) -> Arc<hkdf::Prk> {
        Arc::clone(&self.tokens)
    }

    /// Gives an endpoint what it needs to reset the connections of before.
    pub(super) fn give(&self, config: &mut quinn::EndpointConfig) {
        let ids = Ids { key: self.ids.clone(), resets: Arc::new(Mutex::new(TokenBucket::new(RESETS))) };
        config
            .reset_key(Arc::new(self.reset.clone()))
            .cid_generator(move || Box::new(ids.clone()))
            // quinn sends one per interval to all clients together, so that of a hundred some would wait for seconds. We count
            // ourselves, in `validate`.
            .min_reset_interval(Duration::ZERO);
    }
}

/// Secrets are not for logs.
impl fmt::Debug for RelaySecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelaySecrets(..)")
    }
}

/// Connection IDs that their relay recognises: a random number and the first bytes of its HMAC.
///
/// quinn's own ones carry a hash that was not made to resist forgery; whoever can forge an ID can make the relay send resets to
/// addresses that did not ask for any.
#[derive(Clone)]
struct Ids {
    key: hmac::Key,
    resets: Arc<Mutex<TokenBucket>>,
}

impl Ids {
    fn tag(&self, number: &[u8]) -> [u8; TAG] {
        let tag = hmac::sign(&self.key, number);
        std::array::from_fn(|i| tag.as_ref().get(i).copied().unwrap_or_default())
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let number = RandomConnectionIdGenerator::new(NUMBER).generate_cid();
        let tag = self.tag(&number);
        ConnectionId::new(&[&number[..], &tag].concat())
    }

    /// Called for packets of no connection that the relay has, of which each that passes is answered with a reset.
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let Some((number, tag)) = cid.split_at_checked(NUMBER) else { return Err(InvalidCid) };
        if self.tag(number) != tag {
            return Err(InvalidCid);
        }
        let mut resets = self.resets.lock().unwrap_or_else(PoisonError::into_inner);
        if resets.take(Instant::now(), 1) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        NUMBER + TAG
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Bytes of a connection ID. One of four thousand million guesses is right, and is answered with fewer bytes than it had.
const NUMBER: usize = 4;
const TAG: usize = 4;

/// Resets a second, and at once: everybody that a relay can have has lost its connection, each sends sound, and the answer is a
/// round trip away. More are replayed.
const RESETS: (u32, u32) = (8_192, 16_384);

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(secret: u8) -> Ids {
        let keys = RelaySecrets::new(&[secret; 32]);
        Ids { key: keys.ids, resets: Arc::new(Mutex::new(TokenBucket::new(RESETS))) }
    }

    #[test]
    fn a_relay_knows_its_connection_ids_after_a_restart_and_no_others() {
        let id = ids(1).generate_cid();
        assert_eq!(id.len(), ids(1).cid_len());
        assert!(ids(1).validate(&id).is_ok(), "another process with the same secret");
        assert!(ids(2).validate(&id).is_err(), "another relay");
        for at in 0..id.len() {
            let mut forged = id.to_vec();
            forged[at] ^= 1;
            assert!(ids(1).validate(&ConnectionId::new(&forged)).is_err(), "byte {at}");
        }
        for len in 0..id.len() {
            assert!(ids(1).validate(&ConnectionId::new(&id[..len])).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn ids_that_are_replayed_are_answered_only_so_often() {
        let mut ids = ids(1);
        let id = ids.generate_cid();
        let answered = (0..4 * RESETS.1).filter(|_| ids.validate(&id).is_ok()).count();
        assert!((RESETS.1 as usize..2 * RESETS.1 as usize).contains(&answered), "{answered}");
    }

    #[test]
    fn keys_differ_from_each_other_and_from_the_secret() {
        let keys = RelaySecrets::new(&[3; 32]);
        let of = |key: &hmac::Key| hmac::sign(key, b"x").as_ref().to_vec();
        let raw = hmac::Key::new(hmac::HMAC_SHA256, &[3; 32]);
        assert!(of(&keys.reset) != of(&keys.ids) && of(&keys.reset) != of(&raw) && of(&keys.ids) != of(&raw));
        assert_eq!(format!("{keys:?}"), "RelaySecrets(..)");
    }
}
