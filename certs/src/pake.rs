//! Pairing by a spoken code: SPAKE2 inside a TLS session with a relay that is not trusted yet.
//!
//! ```text
//! client                                              relay
//!   | Client::start     nameplate, share A  -----------> |  Relay::answer
//!   |                   <------------------------ share B |
//!   | Client::prove     proof of the client -----------> |  Relay::check: a wrong one burns one of the code's tries
//!   |                   <-------------- proof of the relay |
//!   | Client::check: only now is the relay trusted        |
//! ```
//! SPAKE2 (Abdalla and Pointcheval 2005; RFC 9382 in another encoding) turns the code into a key that only a side with the
//! same code gets, and gives whoever plays either side without it one guess and nothing to work on afterwards. Both keys' pins are
//! its identities, and the proofs cover the TLS exporter (RFC 8446, section 7.5): a man in the middle who passes the exchange
//! along has two TLS sessions with two exporters, so the proofs of the one mean nothing in the other, and cannot
//! take over a session after the exchange either. Client and relay prove under different labels, so neither proof can be
//! played back to its author. The client proves first: a relay shows nothing to somebody who has not shown the code.

use ring::hmac;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroize;

use crate::code::Code;
use crate::pin::Pin;

/// What [`Exporter`] is derived under; without a context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-vchat-pair";

/// 32 bytes that TLS derives for this session and no other, from [`EXPORTER_LABEL`].
pub type Exporter = [u8; 32];

/// The other side does not have the same code, is not the one that is connected, or sent nonsense: all look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the code does not match")]
pub struct Mismatch;

/// A client that has sent its share.
pub struct Client(Spake2<Ed25519Group>);

/// A client that has sent its proof.
pub struct ClientProven(Proofs);

/// A relay that has answered and waits for the client's proof.
pub struct Relay(Proofs);

impl Client {
    /// Begins; `relay` is the pin of the key that the relay has shown in the TLS handshake. Returns the share to send.
    #[must_use]
    pub fn start(code: &Code, client: Pin, relay: Pin) -> (Self, Vec<u8>) {
        let (spake, share) = Spake2::start_a(&password(code), &client_id(client), &relay_id(relay));
        (Self(spake), share)
    }

    /// Takes the relay's share. Returns the proof to send.
    pub fn prove(self, share: &[u8], exporter: &Exporter) -> Result<(ClientProven, Vec<u8>), Mismatch> {
        let proofs = Proofs::of(self.0, share, exporter)?;
        let own = proofs.make(CLIENT_PROOF);
        Ok((ClientProven(proofs), own))
    }
}

impl ClientProven {
    /// Takes the relay's proof: after `Ok` it is certain that the relay of this TLS session has the same code.
    pub fn check(self, proof: &[u8]) -> Result<(), Mismatch> {
        self.0.check(RELAY_PROOF, proof)
    }
}

impl Relay {
    /// Answers a client's share; `client` is the pin of the key that it proved in the TLS handshake. Returns the share to send.
    pub fn answer(
        code: &Code,
        client: Pin,
        relay: Pin,
        share: &[u8],
        exporter: &Exporter,
    ) -> Result<(Self, Vec<u8>), Mismatch> {
        let (spake, own_share) = Spake2::start_b(&password(code), &client_id(client), &relay_id(relay));
        Ok((Self(Proofs::of(spake, share, exporter)?), own_share))
    }

    /// Takes the client's proof. Returns the relay's own, to be sent once the client has been written down as a device.
    pub fn check(self, proof: &[u8]) -> Result<Vec<u8>, Mismatch> {
        self.0.check(CLIENT_PROOF, proof)?;
        Ok(self.0.make(RELAY_PROOF))
    }
}

/// Makes and checks proofs of one exchange in one TLS session.
struct Proofs {
    key: hmac::Key,
    exporter: Exporter,
}

impl Proofs {
    fn of(spake: Spake2<Ed25519Group>, share: &[u8], exporter: &Exporter) -> Result<Self, Mismatch> {
        let mut secret = spake.finish(share).map_err(|_| Mismatch)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        secret.zeroize();
        Ok(Self { key, exporter: *exporter })
    }

    fn make(&self, label: &[u8]) -> Vec<u8> {
        hmac::sign(&self.key, &self.statement(label)).as_ref().to_vec()
    }

    /// In constant time: how far a wrong proof was right must not show.
    fn check(&self, label: &[u8], proof: &[u8]) -> Result<(), Mismatch> {
        hmac::verify(&self.key, &self.statement(label), proof).map_err(|_| Mismatch)
    }

    fn statement(&self, label: &[u8]) -> Vec<u8> {
        [label, &self.exporter].concat()
    }
}

fn password(code: &Code) -> Password {
    let mut text = code.password();
    let password = Password::new(&text);
    text.zeroize();
    password
}

fn client_id(pin: Pin) -> Identity {
    Identity::new(&[&b"vchat-client"[..], &pin.0].concat())
}

fn relay_id(pin: Pin) -> Identity {
    Identity::new(&[&b"vchat-relay"[..], &pin.0].concat())
}

/// Of equal length, so that no label followed by an exporter is another label followed by another exporter.
const CLIENT_PROOF: &[u8] = b"vchat pair v1 client";
const RELAY_PROOF: &[u8] = b"vchat pair v1 relay ";

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Pin = Pin([1; 32]);
    const RELAY: Pin = Pin([2; 32]);
    const MALLORY: Pin = Pin([3; 32]);
    const SESSION: Exporter = [7; 32];

    fn code(text: &str) -> Code {
        text.parse().expect("a code")
    }

    /// What each side believes: its code, the client's pin, the relay's pin, the exporter.
    type View<'a> = (&'a str, Pin, Pin, Exporter);

    /// Runs the exchange. Returns whether the relay took the client, and whether the client took the relay.
    fn meet(client: View<'_>, relay: View<'_>) -> (bool, bool) {
        let (at_client, share) = Client::start(&code(client.0), client.1, client.2);
        let Ok((at_relay, answer)) = Relay::answer(&code(relay.0), relay.1, relay.2, &share, &relay.3) else {
            return (false, false);
        };
        let Ok((at_client, proof)) = at_client.prove(&answer, &client.3) else { return (false, false) };
        match at_relay.check(&proof) {
            Ok(proof) => (true, at_client.check(&proof).is_ok()),
            Err(Mismatch) => (false, false),
        }
    }

    const GOOD: View<'_> = ("4-1234-5678", ANN, RELAY, SESSION);

    #[test]
    fn the_same_code_convinces_both() {
        assert_eq!(meet(GOOD, GOOD), (true, true));
    }

    #[test]
    fn another_code_convinces_neither() {
        for other in ["4-1234-5679", "5-1234-5678"] {
            assert_eq!(meet(GOOD, (other, ANN, RELAY, SESSION)), (false, false), "{other}");
        }
    }

    #[test]
    fn a_man_in_the_middle_with_keys_of_his_own_convinces_neither() {
        // He shows the client his key, and the relay his, and passes the exchange along.
        assert_eq!(
            meet(("4-1234-5678", ANN, MALLORY, SESSION), ("4-1234-5678", MALLORY, RELAY, SESSION)),
            (false, false)
        );
        assert_eq!(meet(("4-1234-5678", ANN, MALLORY, SESSION), GOOD), (false, false), "relay's side alone");
        assert_eq!(
            meet(GOOD, ("4-1234-5678", MALLORY, RELAY, SESSION)),
            (false, false),
            "client's side alone"
        );
    }

    #[test]
    fn proofs_of_one_session_are_worth_nothing_in_another() {
        assert_eq!(meet(GOOD, ("4-1234-5678", ANN, RELAY, [8; 32])), (false, false));
    }

    #[test]
    fn no_proof_can_be_played_back_to_its_author() {
        let (client, share) = Client::start(&code(GOOD.0), ANN, RELAY);
        let (relay, answer) = Relay::answer(&code(GOOD.0), ANN, RELAY, &share, &SESSION).expect("a share");
        let (client, proof) = client.prove(&answer, &SESSION).expect("a share");
        assert_eq!(client.check(&proof), Err(Mismatch));
        let own = relay.check(&proof).expect("the right code");
        let (client, share) = Client::start(&code(GOOD.0), ANN, RELAY);
        assert!(client.prove(&share, &SESSION).is_err(), "nor a share");
        let (relay, _) = Relay::answer(&code(GOOD.0), ANN, RELAY, &share, &SESSION).expect("a share");
        assert!(relay.check(&own).is_err());
    }

    #[test]
    fn a_relay_without_the_code_cannot_convince_a_client() {
        let (client, share) = Client::start(&code(GOOD.0), ANN, RELAY);
        let (_, answer) = Relay::answer(&code("4-0000-0000"), ANN, RELAY, &share, &SESSION).expect("a share");
        let (client, _) = client.prove(&answer, &SESSION).expect("a share");
        // It has to send something: nothing, a guess, or all it knows.
        for proof in [vec![], vec![0; 32], answer] {
            let (client_again, share) = Client::start(&code(GOOD.0), ANN, RELAY);
            let (_, answer) =
                Relay::answer(&code("4-0000-0000"), ANN, RELAY, &share, &SESSION).expect("a share");
            let (client_again, _) = client_again.prove(&answer, &SESSION).expect("a share");
            assert_eq!(client_again.check(&proof), Err(Mismatch));
        }
        assert_eq!(client.check(&[]), Err(Mismatch));
    }

    #[test]
    fn shares_that_are_none_are_refused() {
        let (_, good) = Client::start(&code(GOOD.0), ANN, RELAY);
        let not_on_the_curve = (0..=255).map(|b| [&[0x41][..], &[b; 32]].concat());
        let bad = [vec![], vec![0x41], good[1..].to_vec(), [&good[..], &[0]].concat(), vec![0x53; 33]];
        let refused = |share: &[u8]| Relay::answer(&code(GOOD.0), ANN, RELAY, share, &SESSION).is_err();
        assert!(bad.iter().all(|share| refused(share)));
        assert!(not_on_the_curve.filter(|share| refused(share)).count() > 50);
        for share in bad {
            let (client, _) = Client::start(&code(GOOD.0), ANN, RELAY);
            assert!(client.prove(&share, &SESSION).is_err());
        }
    }

    #[test]
    fn a_low_order_share_gives_nobody_a_known_key() {
        // The neutral element and the point of order two, as a client without the code would try them.
        let mut neutral = [0; 33];
        (neutral[0], neutral[1]) = (0x41, 1);
        let mut second = [0xff; 33];
        (second[0], second[1], second[32]) = (0x41, 0xec, 0x7f);
        for share in [neutral, second] {
            let mut seen = Vec::new();
            for _ in 0..2 {
                let (relay, _) = Relay::answer(&code(GOOD.0), ANN, RELAY, &share, &SESSION).expect("a point");
                seen.push(relay.0.make(CLIENT_PROOF));
            }
            assert_ne!(seen[0], seen[1], "the relay's secret goes into the key");
        }
    }

    #[test]
    fn every_exchange_is_new() {
        let (_, one) = Client::start(&code(GOOD.0), ANN, RELAY);
        let (_, two) = Client::start(&code(GOOD.0), ANN, RELAY);
        assert_ne!(one, two);
    }
}
