//! Sound: from the microphone to Opus packets, and from the packets of several speakers to the loudspeaker.
//!
//! ```text
//! device ring --\                                      /-> per speaker: jitter buffer -> decode -> stretch --\
//! wav, tone -----> Capture thread: level, gate, Opus  network                                                 mix, limit -> device ring, wav
//! ```
//!
//! Inside, sound is mono at 48 kHz in `f32`. Two threads do all the work; a device callback only moves samples between
//! the device and a ring. [`Capture`] and [`Playback`] own those threads and end them when dropped.
//!
//! Where the delay goes (docs/audio.md has the measurements): 10 ms to fill a packet, 6.5 ms of Opus lookahead, the
//! network, the jitter buffer (5 to 10 ms on a good network), one device period of ring, and the sound server.

mod capture;
mod codec;
mod device;
mod level;
mod libopus;
mod limiter;
mod mixer;
mod playback;
mod protection;
mod resample;
mod sink;
mod source;
mod spec;
#[cfg(test)]
mod speech;
mod stretch;
mod voice;

use std::path::PathBuf;

pub use self::capture::{AudioPacket, Capture};
pub use self::device::{DeviceInfo, Devices, devices};
pub use self::playback::{Heard, PeerAudio, Playback, PlaybackHandle, PlaybackStats};
pub use self::protection::Loss;
pub use self::source::tone;
pub use self::spec::{MicSpec, SpeakerSpec, SpecError};

/// Why there is no sound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudioError {
    /// No device has the name given.
    #[error("there is no {kind} called '{name}'; run 'vchat-client devices' for the names")]
    NoSuchDevice {
        /// Microphone or speaker.
        kind: Kind,
        /// The name asked for.
        name: String,
    },
    /// The system has no such device at all.
    #[error("no {kind} found; plug one in, start the sound server or choose 'none'")]
    NoDevice {
        /// Microphone or speaker.
        kind: Kind,
    },
    /// The device is there but does not start.
    #[error("the {kind} '{name}' does not start: {reason}")]
    Device {
        /// Microphone or speaker.
        kind: Kind,
        /// Name of the device.
        name: String,
        /// What the sound system says.
        reason: String,
    },
    /// The device went away while it was in use.
    #[error("the {kind} '{name}' is gone ({reason}); the call goes on without it")]
    Gone {
        /// Microphone or speaker.
        kind: Kind,
        /// Name of the device.
        name: String,
        /// What the sound system says.
        reason: String,
    },
    /// A wav file or its directory cannot be used.
    #[error("cannot use '{path}' for sound: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Opus or the resampler refuses its settings.
    #[error("the audio codec does not start: {0}")]
    Codec(String),
    /// The system gives no thread.
    #[error("cannot start the audio thread: {0}")]
    Thread(String),
}

/// The two kinds of audio devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sound comes in.
    Microphone,
    /// Sound goes out.
    Speaker,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Microphone => "microphone",
            Self::Speaker => "speaker",
        })
    }
}

/// Samples a second everywhere between the devices.
pub const RATE: u32 = 48_000;
/// Samples in a packet: 10 ms, the shortest frame for which Opus keeps its speech modes and their in-band FEC.
pub const FRAME: usize = 480;
/// Samples mixed at once: 2.5 ms. What is decoded but not mixed yet is delay, so this is a quarter of a packet.
pub(crate) const BLOCK: usize = 120;

/// Microseconds that `samples` last.
pub(crate) const fn samples_us(samples: i64) -> i64 {
    samples * 1000 / 48
}

/// Starts an audio thread: raises its priority, makes its `machine` there and runs that until it ends.
///
/// Devices are opened on this thread because the threads of the sound system that come with them inherit the priority.
pub(crate) fn spawn<T: 'static, R: Send + 'static>(
    name: &str,
    make: impl FnOnce() -> Result<(T, R), AudioError> + Send + 'static,
    run: impl FnOnce(T) + Send + 'static,
) -> Result<(std::thread::JoinHandle<()>, R), AudioError> {
    let (made, result) = std::sync::mpsc::sync_channel(1);
    let body = move || {
        // Without the right to it (RLIMIT_NICE) things stay as they are.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "audio runs at normal priority");
        }
        match make() {
            Ok((machine, told)) => {
                // The starter waits for it.
                let _ = made.send(Ok(told));
                run(machine);
            }
            Err(error) => drop(made.send(Err(error))),
        }
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    let thread = thread.map_err(|e| AudioError::Thread(e.to_string()))?;
    match result.recv() {
        Ok(Ok(told)) => Ok((thread, told)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(AudioError::Thread("it ended at once".to_owned())),
    }
}

/// What PulseAudio asks for itself: sound goes before everything that may be late.
const NICE: i32 = -11;
