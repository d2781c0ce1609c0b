//! The relay daemon of vchat: lets known devices in, keeps rooms, forwards media it never looks into.
//!
//! ```text
//! accept -> admission (owns the Gate) -> one task per connection: handshake, then by the key that was proved
//!              a device:   hello -> the room's task (owns a `proto::room::Room`)
//!                            | reads control, chat, datagrams  ------------^  |
//!                            | writes control, chat; sends media <------------'  bounded queues, one set per connection
//!              a stranger: pairing, which reaches the registry and nothing else
//! archive thread (owns the chat, SQLite) <- rooms, control socket
//! registry thread (owns devices and invites, SQLite) <- connections, control socket
//! keys task (owns the relay's keys) -> announcements to all clients, TLS of new connections
//! ```

mod admin;
mod archive;
mod backup;
pub mod ceilings;
pub mod config;
mod connection;
pub mod control;
pub mod handover;
mod history;
mod keys;
mod lan;
mod members;
mod outbox;
mod pairing;
mod probe;
mod qlog;
mod registry;
mod room;
mod rooms;
mod seats;
mod sender;
pub mod server;
pub mod service;
mod sqlite;
mod stats;
