//! A call: what joins devices, codecs, network and display.
//!
//! ```text
//! camera --slot--> encode --3 frames--> net (tokio, quinn, session) --16 frames--> decode (one per remote) --slot--> main: display
//! mic --> Opus ------------------------> net --> jitter buffer per speaker --> mix --> speaker
//! ```
//! The main thread owns what is shown and said; everything else tells it through one queue ([`crate::news`]).

mod camera;
pub mod decode;
mod display;
mod events;
mod files;
mod freeze;
mod peer;
mod state;
mod statistics;
mod stream;

use std::io::{BufRead, IsTerminal, Read};
use std::sync::mpsc::{RecvTimeoutError, channel, sync_channel};
use std::time::{Duration, Instant};

use vchat_proto::session::End;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::limits::MAX_CHAT_TEXT;
use vchat_proto::wire::pb;

use self::camera::{Camera, Plan};
use self::display::Display;
use self::events::Printer;
pub(crate) use self::events::for_terminal;
use self::state::Call;
use crate::audio::{AudioError, Capture, MicSpec, Playback};
use crate::cli::{Config, DisplaySpec};
use crate::clock::MediaClock;
use crate::net::{Net, not_paired};
use crate::news::{News, NewsSender};
use crate::video::CameraSpec;

/// Why a call could not be made or ended; the number is the program's exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The relay does not answer (3).
    #[error("the relay {relay} cannot be reached: {why}")]
    Unreachable {
        /// Which.
        relay: String,
        /// What happened.
        why: String,
    },
    /// The relay does not want us, or is not the one that is trusted (4).
    #[error("{0}")]
    Refused(String),
    /// A device that was asked for cannot be used (5).
    #[error("{0}")]
    Device(String),
    /// Anything else (1).
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 3,
            Self::Refused(_) => 4,
            Self::Device(_) => 5,
            Self::Other(_) => 1,
        }
    }

    fn end(end: End, config: &Config) -> Self {
        match end {
            End::Unreachable(why) => Self::Unreachable { relay: config.relay.to_string(), why },
            End::Refused(CloseCode::NotPaired) => Self::Refused(not_paired(&config.relay, None)),
            End::Refused(CloseCode::Revoked) => Self::Refused(format!(
                "the relay {} has revoked this device; only a new invite from its operator lets it in again",
                config.relay
            )),
            End::Refused(code) => {
                Self::Refused(format!("the relay {} closed the call: {}", config.relay, code.reason()))
            }
            End::Untrusted(why) => Self::Refused(why),
        }
    }
}

/// Makes the call and returns when it is over. `started` is when the program started.
///
/// # Errors
/// See [`Failure`].
pub fn run(config: &Config, started: Instant) -> Result<(), Failure> {
    let printer = match &config.display {
        _ if config.events => Printer::Json,
        DisplaySpec::Window => Printer::Silent,
        DisplaySpec::None | DisplaySpec::Y4m(_) => Printer::Chat,
    };
    let result = attend(config, started, printer);
    if let Err(e) = &result {
        let code = match e {
            Failure::Unreachable { .. } => "unreachable",
            Failure::Refused(_) => "refused",
            Failure::Device(_) => "device",
            Failure::Other(_) => "failed",
        };
        printer.error(code, &e.to_string());
    }
    printer.event(&serde_json::json!({"event": "bye"}));
    result
}

fn attend(config: &Config, started: Instant, printer: Printer) -> Result<(), Failure> {
    let clock = MediaClock::new();
    let (news, inbox) = channel();
    let mut display = Display::open(config)?;
    let lost = |news: NewsSender| move |e: AudioError| drop(news.send(News::SoundGone(e.to_string())));
    let playback = Playback::start(&config.speaker, clock, lost(news.clone())).map_err(device)?;

    let mut publish = Vec::new();
    if config.camera != CameraSpec::None {
        publish.extend([pb::TrackKind::Camera, pb::TrackKind::CameraSmall]);
    }
    if config.mic != MicSpec::None {
        publish.push(pb::TrackKind::Microphone);
    }
    // What is not there yet is not shown as on: the real state follows when the devices are open.
    let off = pb::MediaState { muted: true, camera_off: true };
    let (net, media) = Net::start(config, clock, publish, off, Some(playback.handle()), news.clone())
        .map_err(|e| Failure::Other(format!("cannot start a thread: {e}")))?;

    let audio = media.audio.clone();
    let capture =
        Capture::start(&config.mic, clock, move |packet| drop(audio.try_send(packet)), lost(news.clone()));
    let plan = Plan {
        spec: config.camera.clone(),
        size: config.size,
        fps: config.fps,
        encoder: config.encoder,
        max_bitrate: config.max_bitrate,
    };
    let camera = Camera::start(plan, clock, media, news.clone()).map_err(device);
    let (capture, camera) = match (capture.map_err(device), camera) {
        (Ok(capture), Ok(camera)) => (capture, camera),
        (Err(e), _) | (_, Err(e)) => {
            net.leave();
            return Err(e);
        }
    };
    if config.display != DisplaySpec::Window || !std::io::stdin().is_terminal() {
        read_lines(news.clone());
    }
    watch_signals(news);

    let mut call = Call::new(config, started, clock, printer, net, capture, camera, playback);
    let deadline = config.duration.map(|d| Instant::now() + d);
    let result = loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let wait = display.poll().min(left.unwrap_or(Duration::MAX));
        let first = match inbox.recv_timeout(wait) {
            Ok(news) => Some(news),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break Ok(()),
        };
        // Everything that is there goes into one repaint.
        for news in first.into_iter().chain(inbox.try_iter()) {
            call.handle(news);
        }
        if let Err(e) = display.show(&mut call) {
            break Err(e);
        }
        if let Some(over) = call.over() {
            break over;
        }
        if deadline.is_some_and(|d| Instant::now() >= d) {
            break Ok(());
        }
    };
    call.finish();
    display.finish()?;
    result
}

fn device(error: impl std::fmt::Display) -> Failure {
    Failure::Device(error.to_string())
}

/// Lines on stdin are chat. The thread is left behind at the end: nothing can take it out of a read.
///
/// It waits for each line to be taken, so that a program that writes without end fills no memory; of a line longer than a
/// chat message the rest is left out.
fn read_lines(news: NewsSender) {
    let read = move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let limit = MAX_CHAT_TEXT as u64 + 1;
            if !(&mut input).take(limit).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                return;
            }
            if line.len() > MAX_CHAT_TEXT && input.skip_until(b'\n').is_err() {
                return;
            }
            let (taken, done) = sync_channel(1);
            let text = String::from_utf8_lossy(&line).into_owned();
            if news.send(News::Line(text, taken)).is_err() || done.recv().is_err() {
                return;
            }
        }
    };
    drop(std::thread::Builder::new().name("stdin".into()).spawn(read));
}

/// The first SIGINT or SIGTERM ends the call in order, the second at once.
fn watch_signals(news: NewsSender) {
    use tokio::signal::unix::{SignalKind, signal};
    let watch = move || -> std::io::Result<()> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let mut first = true;
            loop {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                if news.send(News::Stop).is_err() || !std::mem::take(&mut first) {
                    std::process::exit(1);
                }
            }
        })
    };
    drop(std::thread::Builder::new().name("signals".into()).spawn(watch));
}

/// Lets the calling thread give way: pictures may wait for a free core, sound and network may not.
///
/// On Linux a nice value is a thread's own, and raising it needs no rights. With all threads alike, two clients with 720p
/// on two cores kept sound waiting for tens of milliseconds.
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, CODEC_NICE) {
        tracing::debug!(%error, "codecs run at normal priority");
    }
}

/// A third of the weight of a normal thread (each step is about 1.25 times).
const CODEC_NICE: i32 = 5;

/// How long the main thread sleeps at most when nothing happens and there is no window to attend to.
const IDLE: Duration = Duration::from_millis(250);
