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
    generation: u8,
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
            generation: 0,
        }
    }

    /// The same for a process of this generation, 0 to 7: which of two processes a connection belongs to shows in its ID.
    #[must_use]
    pub fn of_generation(self, generation: u8) -> Self {
        Self { generation: generation % GENERATIONS, ..self }
    }

    /// The generation of these.
    #[must_use]
    pub const fn generation(&self) -> u8 {
        self.generation
    }

    /// The generation of the process that a packet belongs to; none if it belongs to no connection of this relay, as the first one of
    /// a client (RFC 9000, sections 17.2 and 17.3.1).
    #[must_use]
    pub fn generation_of(&self, packet: &[u8]) -> Option<u8> {
        let is_long = packet.first()? & 0x80 != 0;
        let id = match is_long {
            true if usize::from(*packet.get(5)?) != NUMBER + TAG => return None,
            true => packet.get(6..6 + NUMBER + TAG)?,
            false => packet.get(1..1 + NUMBER + TAG)?,
        };
        let (number, tag) = id.split_at_checked(NUMBER)?;
        (tag_of(&self.ids, number) == tag).then_some(number.first()? % GENERATIONS)
    }

    pub(super) fn tokens(&self) -> Arc<hkdf::Prk> {
        Arc::clone(&self.tokens)
    }

    /// Gives an endpoint what it needs to reset the connections of before.
    pub(super) fn give(&self, config: &mut quinn::EndpointConfig) {
        let resets = Arc::new(Mutex::new(TokenBucket::new(RESETS)));
        let ids = Ids { key: self.ids.clone(), generation: self.generation, resets };
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

/// Connection IDs that their relay recognises: a random number, the first byte of which modulo [`GENERATIONS`] is that of the process,
/// and the first bytes of its HMAC.
///
/// quinn's own ones carry a hash that was not made to resist forgery; whoever can forge an ID can make the relay send resets to
/// addresses that did not ask for any.
#[derive(Clone)]
struct Ids {
    key: hmac::Key,
    generation: u8,
    resets: Arc<Mutex<TokenBucket>>,
}

fn tag_of(key: &hmac::Key, number: &[u8]) -> [u8; TAG] {
    let tag = hmac::sign(key, number);
    std::array::from_fn(|i| tag.as_ref().get(i).copied().unwrap_or_default())
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut number = RandomConnectionIdGenerator::new(NUMBER).generate_cid().to_vec();
        if let Some(first) = number.first_mut() {
            *first = *first / GENERATIONS * GENERATIONS + self.generation;
        }
        let tag = tag_of(&self.key, &number);
        ConnectionId::new(&[&number[..], &tag].concat())
    }

    /// Called for packets of no connection that the relay has, of which each that passes is answered with a reset.
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let Some((number, tag)) = cid.split_at_checked(NUMBER) else { return Err(InvalidCid) };
        if tag_of(&self.key, number) != tag {
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

/// So many that a process is not taken for the one before the one before, which may not be at its end.
const GENERATIONS: u8 = 8;

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
        Ids { key: keys.ids, generation: 3, resets: Arc::new(Mutex::new(TokenBucket::new(RESETS))) }
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
    fn a_packet_shows_which_process_it_belongs_to() {
        let keys = RelaySecrets::new(&[1; 32]);
        for _ in 0..100 {
            let id = ids(1).generate_cid();
            let short = [&[0x41][..], &id, &[9; 20]].concat();
            let long = [&[0xe1, 0, 0, 0, 1, 8][..], &id, &[9; 20]].concat();
            let random = [&[0xc1, 0, 0, 0, 1, 20][..], &[9; 40]].concat();
            assert_eq!(keys.generation_of(&short), Some(3));
            assert_eq!(keys.generation_of(&long), Some(3));
            assert_eq!(keys.generation_of(&random), None, "a first packet");
            assert_eq!(RelaySecrets::new(&[2; 32]).generation_of(&short), None);
            assert!((0..9).all(|len| keys.generation_of(&short[..len]).is_none()));
            assert!((0..14).all(|len| keys.generation_of(&long[..len]).is_none()));
        }
        assert_eq!(RelaySecrets::new(&[1; 32]).of_generation(9).generation(), 1);
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
