//! Real programs under test, with a display and sound devices of their own.
//!
//! Everything here belongs to the test that started it and ends with it: dropping a value ends its process. Waiting
//! is always for something that happens; a deadline only bounds a failure.

mod call;
mod clock;
mod display;
mod http;
mod image;
mod process;
mod programs;
mod sound;

use std::path::PathBuf;

use anyhow::{Context, ensure};

pub use call::Call;
pub use clock::Clock;
pub use display::{Window, Xvfb, keys};
pub use http::Reply;
pub use image::Image;
pub use process::{DEADLINE, Process};
pub use programs::{Relay, client, relay_command};
pub use sound::{PulseServer, Recording, SAMPLE_RATE, tone_level};

/// A program of this workspace, such as `vchatd`, built with the same profile as the running test.
pub fn bin(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    // Programs are in target/PROFILE, tests in target/PROFILE/deps.
    let mut places = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let path = places.find(|path| path.is_file());
    let path = path.with_context(|| format!("{name} is not built: run `make build` first"))?;
    ensure!(path != own, "{name} is the running program");
    Ok(path)
}
