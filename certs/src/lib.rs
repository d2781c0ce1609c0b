//! Who is who: the keys of relays and clients, and the TLS that proves them.
//!
//! Every relay and every client owns one Ed25519 key, its [`identity`]. Its fingerprint, a [`Pin`](pin::Pin), is the
//! only name that counts: certificates are mere envelopes for keys, so their names, dates and issuers are never read.
//! [`tls`] makes both ends prove that they own the key they show, and [`known`] remembers which key a relay has.
//!
//! Keys get to know each other by pairing: by an [`invite`] link that holds the relay's pin and a secret, or by a spoken
//! [`code`] that both sides prove to each other by [`pake`]; a relay keeps the codes it has given out in [`codes`]. A relay can
//! change its key by [`rotation`].
//!
//! What comes from the network or from people ends in a value or an error: nothing here panics on it.
//!
//! Deliberately absent: certificate authorities, validity dates (a wrong clock must not lock anyone out), revocation
//! lists, session resumption and early data (both would skip the check of the key).

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod authority;
pub mod code;
pub mod codes;
mod file;
pub mod identity;
pub mod invite;
pub mod known;
pub mod pake;
pub mod pin;
mod random;
pub mod rotation;
pub mod secret;
pub mod tls;

pub use file::FileError;
pub use random::NoRandomness;
