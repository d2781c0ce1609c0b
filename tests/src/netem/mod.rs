//! A bad network between a client and a relay: loss in bursts, delay, jitter, a narrow link with a queue, reordering.
//!
//! [`Link`] is one direction as a machine without a clock, for tests in virtual time; [`Proxy`] puts two of them
//! between real sockets for each client. Two runs with one seed and the same packets at the same times behave alike.

mod link;
mod proxy;
mod random;
mod script;
mod settings;

pub use link::{Counts, Link, MAX_ON_THE_WAY};
pub use proxy::{Proxy, Report, Running};
pub use random::Random;
pub use script::{Script, ScriptError, Side, Step};
pub use settings::{Settings, SettingsError, parse_burst, parse_duration, parse_percent, parse_rate};
