//! One hop of a call, from a client to the relay or back: numbering, reports, repair, pacing and the estimate of its rate.
//!
//! A lost datagram costs a round trip of its own hop and nothing of any other, because each hop repairs itself:
//!
//! - The receiving end ([`Receiver`]) reports which numbers came and when ([`Report`](crate::wire::hop::Report)).
//! - The sending end ([`Sender`]) keeps what it sent for as long as another try would be in time, and sends it again; it adds
//!   copies of sound and parity of pictures when losses are so frequent that a round trip each would be felt.
//! - The same reports feed the [`Estimator`](crate::cc::Estimator), which says how much may be sent in all.
//!
//! Payloads are opaque here, so a relay does all this without knowing what it carries.

mod chains;
mod erasure;
mod number;
mod protection;
mod receiver;
mod sender;
mod shares;
mod sound;
#[cfg(test)]
mod tests;

pub use self::receiver::{Receiver, Totals};
pub use self::sender::{Refresh, Sender, Sent, Settings};
