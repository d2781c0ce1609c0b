//! What the tests, the demo and the benchmarks of vchat are made of.
//!
//! - [`netem`]: an impaired network, as a machine in virtual time and as a UDP proxy (`vchat-netem`).

pub mod netem;
