//! Wire formats and state machines of vchat, for both ends of a connection.
//!
//! Nothing here does I/O, reads a clock, draws randomness or starts a thread: time and bytes come in as arguments,
//! so a whole call runs in a test with a clock that jumps.

pub mod admission;
pub mod bucket;
pub mod cc;
pub mod ceiling;
pub mod egress;
pub mod hop;
pub mod id;
pub mod jitter;
pub mod ladder;
pub mod packetize;
pub mod playout;
pub mod reassemble;
pub mod room;
pub mod session;
pub mod stats;
pub mod units;
pub mod wire;
