//! The bodies of the fuzz targets: those of `vchat_tests`, without the codecs and devices that the rest of it needs.

#[path = "../../src/fuzz/mod.rs"]
pub mod fuzz;
