//! Where the pictures go: a window, files, or nowhere.

use std::time::Duration;

use super::files::Files;
use super::state::Call;
use super::{Failure, IDLE};
use crate::cli::{Config, DisplaySpec};
use crate::window::Window;

/// The display of a call.
pub(crate) enum Display {
    Window(Box<Window>),
    Files(Files),
    None,
}

impl Display {
    pub(crate) fn open(config: &Config) -> Result<Self, Failure> {
        Ok(match &config.display {
            DisplaySpec::Window => {
                let window =
                    Window::open(TITLE, WIDTH, HEIGHT).map_err(|e| Failure::Device(e.to_string()))?;
                Self::Window(Box::new(window))
            }
            DisplaySpec::Y4m(dir) => {
                let fps = config.fps.unwrap_or(NOMINAL_FPS);
                Self::Files(Files::create(dir, fps).map_err(|e| Failure::Other(format!("{e:#}")))?)
            }
            DisplaySpec::None => Self::None,
        })
    }

    /// How long nothing may be done for it.
    pub(crate) const fn poll(&self) -> Duration {
        match self {
            Self::Window(_) => WINDOW_POLL,
            Self::Files(_) | Self::None => IDLE,
        }
    }

    /// Shows what is new in the call, and tells the call what was shown and what the user wants.
    pub(crate) fn show(&mut self, call: &mut Call) -> Result<(), Failure> {
        match self {
            Self::Window(window) => {
                let scene = call.scene();
                if !scene.room.is_empty() {
                    window.set_title(&format!("{TITLE} — {}", scene.room));
                }
                let shown = window.show(scene).map_err(|e| Failure::Device(e.to_string()))?;
                let now = call.clock.now();
                shown.pictures.into_iter().for_each(|(tile, version)| call.shown(tile, version, now));
                call.set_heights(&shown.heights);
                shown.actions.into_iter().for_each(|action| call.act(action));
            }
            Self::Files(files) => {
                for id in call.take_fresh() {
                    let now = call.clock.now();
                    if let Some(remote) = call.remotes.get(&id) {
                        files.write(remote, now).map_err(|e| Failure::Other(format!("{e:#}")))?;
                    }
                    call.shown_remote(id, now);
                }
                let present = |id| call.remotes.contains_key(&id);
                files.keep(present).map_err(|e| Failure::Other(format!("{e:#}")))?;
            }
            Self::None => {
                for id in call.take_fresh() {
                    let now = call.clock.now();
                    call.shown_remote(id, now);
                }
            }
        }
        Ok(())
    }

    /// The call is over.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        match self {
            Self::Files(files) => files.flush().map_err(|e| Failure::Other(format!("{e:#}"))),
            Self::Window(_) | Self::None => Ok(()),
        }
    }
}

/// Until the room is known, which is then added to it.
const TITLE: &str = "vchat";
/// Fits small laptops with room for a panel of chat beside two tiles.
const WIDTH: usize = 1100;
const HEIGHT: usize = 620;
/// Keys and the mouse are answered this often when no picture comes.
const WINDOW_POLL: Duration = Duration::from_millis(10);
/// The rate that the header of a written file names; the csv has the real times.
const NOMINAL_FPS: u32 = 30;
