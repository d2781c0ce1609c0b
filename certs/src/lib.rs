//! Who is who: the keys of relays and clients, and the TLS that proves them.
//!
//! Every relay and every client owns one Ed25519 key, its [`identity`]. Its fingerprint, a [`Pin`](pin::Pin), is the
//! only name that counts: certificates are mere envelopes for keys, so their names, dates and issuers are never read.
//! [`tls`] makes both ends prove that they own the key they show, and [`known`] remembers which key a relay had.
//!
//! Deliberately absent: certificate authorities, validity dates (a wrong clock must not lock anyone out), revocation
//! lists, session resumption and early data (both would skip the check of the key).

mod file;
pub mod identity;
pub mod known;
pub mod pin;
pub mod tls;

pub use file::FileError;
