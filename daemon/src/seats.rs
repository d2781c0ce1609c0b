//! Proof of the number that a client has had in a room, so that it gets the same one again and nobody else does.

use ring::hmac;
use vchat_certs::pin::Pin;
use vchat_certs::secret::SECRET_LEN;
use vchat_proto::id::{ParticipantId, RoomName};

/// Makes and checks such proofs. The key outlives the process, the numbers need not be kept anywhere: who comes back to a relay that
/// knows nothing of them brings their own.
#[derive(Clone)]
pub(crate) struct Seats(hmac::Key);

/// A client's number in a room.
#[derive(Clone, Copy)]
pub(crate) struct Seat<'a> {
    pub(crate) room: &'a RoomName,
    /// Of the client's key.
    pub(crate) pin: Pin,
    /// Which run of the client it is.
    pub(crate) instance: u64,
    pub(crate) id: ParticipantId,
}

impl Seats {
    /// Derives the key from a secret that is kept (one block of HKDF-Expand with SHA-256, RFC 5869).
    pub(crate) fn new(secret: &[u8; SECRET_LEN]) -> Self {
        let prk = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&prk, b"vchat seat\x01").as_ref()))
    }

    /// What the client is told, to show when it comes back.
    pub(crate) fn proof(&self, seat: Seat<'_>) -> Vec<u8> {
        hmac::sign(&self.0, &seat.bytes()).as_ref().to_vec()
    }

    /// Whether that was told of this seat.
    pub(crate) fn is_proof(&self, seat: Seat<'_>, proof: &[u8]) -> bool {
        hmac::verify(&self.0, &seat.bytes(), proof).is_ok()
    }
}

impl Seat<'_> {
    /// The room's name, which has no fixed length, comes last.
    fn bytes(&self) -> Vec<u8> {
        let (instance, id) = (self.instance.to_be_bytes(), self.id.0.to_be_bytes());
        [&self.pin.0[..], &instance, &id, self.room.as_str().as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_for_one_client_in_one_room_and_outlives_the_process() {
        let room = |name| RoomName::parse(name).expect("a name");
        let (team, lobby) = (room("team"), room("lobby"));
        let seat = Seat { room: &team, pin: Pin([1; 32]), instance: 7, id: ParticipantId(3) };
        let proof = Seats::new(&[5; 32]).proof(seat);
        let again = Seats::new(&[5; 32]);
        assert!(again.is_proof(seat, &proof));
        for other in [
            Seat { room: &lobby, ..seat },
            Seat { pin: Pin([2; 32]), ..seat },
            Seat { instance: 8, ..seat },
            Seat { id: ParticipantId(4), ..seat },
        ] {
            assert!(!again.is_proof(other, &proof));
        }
        assert!(!again.is_proof(seat, &proof[1..]) && !again.is_proof(seat, &[]));
        assert!(!Seats::new(&[6; 32]).is_proof(seat, &proof), "another relay");
    }
}
