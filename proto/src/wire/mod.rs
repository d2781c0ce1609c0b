//! The vchat protocol, version 1: the normative specification. `docs/protocol.md` explains it with examples.
//!
//! # Connection
//! QUIC version 1 with TLS 1.3 and ALPN `vchat/1`. Both sides present a self-signed Ed25519 certificate; a side is
//! known by the SHA-256 of its SubjectPublicKeyInfo (SPKI pin). No 0-RTT and no resumption: both would skip the check
//! of the pin. The relay looks the client's pin up after the handshake and closes the connection of a device that it does not
//! know (`NotPaired`) or no longer wants (`Revoked`) before it reads anything. The client keeps the connection alive ([`limits::KEEP_ALIVE`]); either side gives it up after
//! [`limits::IDLE_TIMEOUT`]. A side closes with a [`close::CloseCode`]; before it leaves, a client sends `Goodbye`.
//!
//! # Streams
//! The client opens two bidirectional streams and writes a type byte as the first byte of each: [`STREAM_CONTROL`],
//! then [`STREAM_CHAT`]. The relay writes no type byte. After it, both directions carry messages, each preceded by its
//! length as a protobuf varint ([`framing`]): `ClientControl`/`RelayControl` and `ChatUp`/`ChatDown` of
//! `vchat.proto` (proto3; unknown fields and unknown bodies are ignored, so that later versions can add some). A client's
//! messages have at most [`limits::MAX_CLIENT_MESSAGE`] bytes, its hello [`limits::MAX_HELLO`], a relay's
//! [`limits::MAX_MESSAGE`]. Until the welcome a client sends no datagram; one is a breach of the protocol.
//!
//! ```text
//! client                                relay
//!   | control: Hello                      |   within HELLO_TIMEOUT, at most MAX_HELLO bytes
//!   |                     Welcome :control|   the client's id, its track ids, everybody else
//!   | chat: Resume                        |
//!   |              History, Line... :chat |   what the client missed, in order
//!   | datagrams                 datagrams |
//!   | control: MediaState, ...            |
//!   |        Participant, Left... :control|
//!   | chat: Post                          |
//!   |           Ack to it, Line to all    |
//!   | control: Goodbye, close             |
//! ```
//!
//! A `Post` carries an id made by its client. The relay stores a post once, numbers it (`seq`, counting by one from 1 in
//! each history) and then acknowledges it to its author and sends the line to everybody, the author included, in the
//! order of the numbers. A client sends a post that was not acknowledged again after a reconnect. A history has a random
//! id; when it differs from the one the client knew (the relay lost its memory), the client starts from the beginning.
//!
//! A relay has the newest lines of a room at hand and sends those to who joins (`History` says where they begin). A client asks for
//! older ones page by page (`Older`), each before the oldest that it has, and is answered by `Page`: the lines just before that
//! number, as many as were asked for, as the relay gives at once ([`limits::MAX_PAGE`]) and as fit a message, and whether there are
//! more. A page may have to be read from a disk, so one at a time is under way for a client, others are ignored, and each counts
//! as [`limits::PAGE_COST`] messages. A page of another history than the client's is of no use to it.
//!
//! # Pairing
//! A client becomes known on a connection with ALPN `vchat-pair/1`. It opens one bidirectional stream (no type byte) for
//! `PairUp`/`PairDown`; messages have at most [`limits::MAX_PAIRING`] bytes, and everything is over after
//! [`limits::PAIRING_TIMEOUT`]. With a link the client knows the relay's pin and sends `PairByLink`; the answer is `Paired` or
//! `PairRefused`. With a spoken code it accepts any key and sends `PairByCode`, gets `PairShare`, sends `PairProof`, and gets
//! `Paired` or `PairRefused`; the relay is trusted only after its proof in `Paired`. Then the client closes the
//! connection and makes another for the call. A link redeemed again by the same device is answered `Paired` again.
//!
//! # Administration
//! An administrator's device invites others on a connection with ALPN `vchat-admin/1`: one bidirectional stream (no type byte)
//! for one `AdminUp` of at most [`limits::MAX_HELLO`] bytes and one `AdminDown`, within [`limits::PAIRING_TIMEOUT`]. Any other
//! device is closed with `NotAdmin`.
//!
//! # Old chat
//! A device that may be in a room may read its chat without being there, on a connection with ALPN `vchat-history/1`: one
//! bidirectional stream (no type byte) on which each `HistoryUp` of at most [`limits::MAX_HELLO`] bytes is answered by one
//! `HistoryDown`. A device that was invited to other rooms is closed with `OtherRoom`. The relay answers at [`limits::PAGE_RATE`] and waits
//! for each request [`limits::PAIRING_TIMEOUT`] at most.
//!
//! # The relay's next key
//! A relay that changes its key announces the next one (`NextKey`) to every client after its welcome. A client verifies the
//! signature, stores the next pin beside the present one and says so (`NextKeyStored`). It accepts either from then on; once it
//! has met the relay with the next key, the old one is no longer good.
//!
//! # Coming back, and moving
//! After the welcome a client is told a proof of its number (`Seat`). In the hello of a later connection to the same room it shows
//! number and proof, and gets the number again if nobody has it. The frames of its tracks count on, however the tracks are numbered
//! then, so who hears it goes on as after any other loss.
//!
//! `GoAway` says that another process of the relay serves at the same address from now on. The client connects there at once, keeps
//! this connection for its media until the time that is named, and listens to both for two seconds after that. This connection takes
//! no posts any more; the client repeats on the new one what was not acknowledged.
//!
//! # Media datagrams
//! One QUIC datagram carries one fragment of one frame, or repairs some. Big endian:
//!
//! ```text
//!  byte  0 1   hop number: counts the datagrams of this connection and direction from 0    } hop prefix
//!        2     kind: 1 video (AV1 temporal unit), 2 audio (Opus, 10 ms, 48 kHz)            } end to end,
//!        3 4   track                                                                       } forwarded
//!        5-8   frame: counts the frames of the track, wraps                                } unchanged
//!        9 10  index of the fragment, from 0
//!       11 12  count of fragments, 1..=256; audio: 1
//!       13     bit 0 key frame (video), 1 discardable, 2-4 temporal layer, 5-6 spatial layer, 7 zero
//!       14 15  how many frames back the frame lies that this one depends on; 0 for key frames and audio
//!       16-21  capture time, microseconds of the sender's media clock
//!       22-    payload, at least one byte; the frame is the payloads in the order of their indexes
//! ```
//!
//! A datagram has at most [`limits::MAX_DATAGRAM`] bytes. Unknown kinds are ignored. A frame may be decoded when the frame
//! it depends on has been decoded; a receiver that waits in vain asks for one that it can decode (`KeyFrameRequest`). A relay
//! drops frames whole and, after a drop, everything that depends on it.
//!
//! ## Repair of a hop
//! The part of such a datagram after the hop prefix is its body. Five more kinds repair what one hop lost; they end there:
//!
//! ```text
//!  3 report   2  kind; the bytes before it are zero: reports have no number
//!             3 4  highest number that has come
//!             5 6  how long ago that was, in ticks of 250 microseconds
//!             7-10 when, in ticks of the receiver's clock, wraps
//!             11   count of numbers told of, 1..=255, from the highest one down
//!             12-  two bits for each, the first in the lowest: 0 missing, 1 missing but restored by parity, 2 arrived (the highest has);
//!                  then for each that arrived but the first: ticks that it came before the one told before it, zigzag varint
//!  4 again    3 4  the number under which the body that follows was lost
//!  5 parity   3 4  number of the first datagram of the group
//!             5 6  bit n: the datagram with the n-th number after it belongs to the group
//!             7    row, 0..=15
//!             8-   the sum over GF(2^8) (polynomial 11d) of the bodies, each behind its length in two bytes and filled up with
//!                  zeros, times 1 / ((16 + row) xor n)
//!  6 bundle   3-   audio bodies, each behind its length in two bytes, the newest last
//!  7 padding  3-   zeros
//! ```
//!
//! A receiver reports at least every 50 ms while anything comes, every 25 ms while there are losses, some milliseconds after
//! numbers are missing, and goes on for two seconds when nothing comes any more. A report tells of all numbers since the
//! third (sixth, while there are losses) report before it. A sender paces what it sends and repairs what it thinks worth it.
//! Sound may come several times; a relay forwards each frame of it once.
//!
//! # Layers
//! A client may publish a small camera track beside a camera: the same pictures at half the width and height, encoded only
//! while the relay says that somebody receives it (`Wanted`). The relay sends a receiver one of the two at a time, or neither, as
//! that receiver's hop and `View` allow, and may leave out discardable frames. It changes from one to the other where a
//! key frame of the other begins, so that the receiver needs nothing but the frames that come. Each receiver of a participant
//! listens to both tracks and shows what comes of either. When all receive the small track the full one is not wanted until somebody
//! is to see it again. Where each of those who receive a full track could take only so much of it, the relay tells its owner
//! the most that any of them could (`Limit`), and the owner keeps to that.
//!
//! A request for a frame (`KeyFrameRequest`) names the newest frame of the track that the receiver has decoded and on which
//! others may depend; without one it asks for a key frame. The relay makes few requests of many: the owner of the track is asked for
//! a frame that helps everybody who waits, key frames at most every 300 ms and other refreshes at most every 100 ms. A request
//! about a track that the relay does not send to who asks is ignored.
//!
//! # Clocks
//! All capture times of one participant are of one clock with an arbitrary zero. Each client measures how its media
//! clock relates to the relay's (`ClockPing`, `ClockPong`; Cristian's algorithm: the relay's time belongs to the middle of
//! the shortest round trip) and publishes that as `Clock`, so that a receiver can tell how old a picture is.
//! Clients on one machine use the same clock (their offsets agree within the error) and compare times directly.
//! An offset of 2^48 microseconds or more is no clock's and is ignored.

use crate::units::MediaTime;

pub mod close;
pub mod datagram;
pub mod framing;
pub mod hop;
pub mod limits;

/// The messages of `vchat.proto`.
#[allow(missing_docs, clippy::all, clippy::use_self)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/vchat.v1.rs"));
}

impl pb::Clock {
    /// Whether two media clocks can differ by that: both fit 48 bits. An offset that cannot be is ignored.
    pub(crate) const fn is_possible(&self) -> bool {
        self.offset_us.unsigned_abs() <= MediaTime::MAX.as_micros()
    }
}

/// First byte of the control stream.
pub const STREAM_CONTROL: u8 = 1;

/// First byte of the chat stream.
pub const STREAM_CHAT: u8 = 2;
