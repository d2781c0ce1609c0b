//! What the tests, the demo and the benchmarks of vchat are made of.
//!
//! - [`bench`](mod@bench): measures whole calls (`vchat-bench`).
//! - [`demo`]: shows a call on this machine (`vchat-demo`).
//! - [`estimators`]: estimators of bandwidth on simulated hops, in virtual time (`vchat-bench estimators`).
//! - [`fuzz`]: what the fuzz targets run.
//! - [`harness`]: real programs under test, with a display and sound devices of their own.
//! - [`netem`]: an impaired network, as a machine in virtual time and as a UDP proxy (`vchat-netem`).
//! - [`virtual_call`]: whole calls of the state machines, in virtual time.

pub mod bench;
pub mod demo;
pub mod estimators;
pub mod fuzz;
pub mod harness;
pub mod netem;
pub mod virtual_call;
