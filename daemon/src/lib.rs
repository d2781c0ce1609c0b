//! The relay daemon of vchat: takes QUIC connections, keeps rooms, forwards media it never looks into.
//!
//! ```text
//! accept task -> one task per connection: handshake, hello -> the room's task (owns a `proto::room::Room`)
//!                  | reads control, chat, datagrams  ------------^  |
//!                  | writes control, chat; sends media <------------'  bounded queues, one set per connection
//! ```

pub mod config;
mod connection;
mod devices;
mod room;
mod rooms;
mod sender;
pub mod server;
