//! The network thread: runs the session over quinn, sends our media and hands out that of the others.

mod connect;
mod history;
mod inbound;
mod invite;
mod link;
mod moving;
mod pair;
mod reach;
mod run;
mod talk;
mod uplink;

pub(crate) use self::connect::not_paired;
pub use self::history::{Read, run as history};
pub use self::invite::{Invited, run as invite};
pub use self::pair::{PairError, Paired, run as pair};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use vchat_certs::pin::Pin;
use vchat_proto::id::{ChatId, FrameId, ParticipantId};
use vchat_proto::session::{Event, SayError};
use vchat_proto::units::Bitrate;
use vchat_proto::wire::pb;

use crate::audio::{AudioPacket, PlaybackHandle};
use crate::call::decode::Channel;
use crate::cli::Config;
use crate::clock::MediaClock;
use crate::news::NewsSender;
use crate::video::encoder::FrameOptions;
use crate::video::{EncodedFrame, Encoding};

/// Our way to the network thread. Ends the session when [`Net::leave`] is called.
#[derive(Debug)]
pub struct Net {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// The way of our media to the network thread.
#[derive(Clone, Debug)]
pub struct Media {
    /// Overflow: the newest is dropped; the thread only falls behind when the machine is overloaded.
    pub(crate) audio: mpsc::Sender<AudioPacket>,
    /// The encoder looks for room before it encodes, and waits otherwise, so nothing is dropped here.
    pub(crate) video: mpsc::Sender<EncodedFrame>,
    /// What the encoder must know.
    pub(crate) demand: Arc<Demand>,
}

/// What the network wants of the video encoders.
#[derive(Debug, Default)]
pub struct Demand {
    /// There is a track to send on.
    pub(crate) live: AtomicBool,
    /// Nothing comes through at the moment, or much waits already: encode nothing.
    pub(crate) hold: AtomicBool,
    /// Of the full encoding.
    pub(crate) full: Wanted,
    /// Of the small encoding, which there is only while it has a bitrate.
    pub(crate) small: Wanted,
}

/// What the network wants of one encoding.
#[derive(Debug, Default)]
pub struct Wanted {
    /// In bits a second; 0 while nobody has said.
    target_bps: AtomicU64,
    /// What the encoder would take at most, in bits a second; 0 before it has a picture.
    max_bps: AtomicU64,
    /// Nobody wants it now.
    paused: AtomicBool,
    key_frame: AtomicBool,
    /// With [`REFERENCE`], the newest frame that all receivers have.
    reference: AtomicU64,
}

/// What the rest of the client asks of the network thread. Few and small, hence no limit on the queue: the user types them.
#[derive(Debug)]
enum Command {
    Say(ChatId, String),
    MediaState(pb::MediaState),
    /// The decoder of this channel failed.
    DecoderFailed(Channel),
    /// How high the pictures of the others are shown.
    View(Vec<(ParticipantId, u32)>),
    /// Older lines of the chat are wanted.
    ReadBack,
    Leave,
}

/// What the network thread tells.
#[derive(Debug)]
pub enum NetNews {
    /// From the session.
    Event(Event),
    /// This relay is known from now on, by a key that nobody has vouched for.
    FirstUse {
        /// The relay's key.
        relay: Pin,
        /// Our own.
        ours: Pin,
    },
    /// The relay is one that is known by this other name.
    Alias(String),
    /// The relay has the new key that it had announced.
    NewKey(Pin),
    /// This device and the relay have paired.
    Paired(Paired),
    /// What was said could not be taken.
    SayFailed(ChatId, SayError),
    /// Once a second while connected.
    Stats(NetStats),
    /// Something failed for good before or beside the session: no identity, no socket.
    Failed(String),
}

/// A second of network, as the client sees it.
#[derive(Clone, Debug, Default)]
pub struct NetStats {
    /// How long this second was.
    pub seconds: f64,
    /// Round-trip time to the relay in milliseconds.
    pub rtt_ms: f64,
    /// Sent all in all, in kilobits a second on the wire.
    pub up_kbps: f64,
    /// Bytes beyond first transmissions of media, as a share of those.
    pub up_overhead: f64,
    /// Share of our datagrams that were lost lately, 0 to 1.
    pub up_loss: f64,
    /// Share of our sound that is lost in spite of copies, 0 to 1.
    pub up_residual_loss: f64,
    /// How long losses last when they come, in milliseconds.
    pub up_burst_ms: u32,
    /// What we may send all in all, in kilobits a second on the wire.
    pub up_target_kbps: f64,
    /// Received all in all, in kilobits a second on the wire.
    pub down_kbps: f64,
    /// As for what we sent.
    pub down_overhead: f64,
    /// Share of the datagrams for us that were lost, 0 to 1.
    pub down_loss: f64,
    /// Video frames sent in this second.
    pub up_frames: u32,
    /// For each of the others.
    pub peers: Vec<PeerNetStats>,
}

/// A second of one participant's media on our downlink.
#[derive(Clone, Copy, Debug)]
pub struct PeerNetStats {
    /// Who.
    pub participant: ParticipantId,
    /// Video received, in kilobits a second.
    pub video_kbps: f64,
    /// What to add to their media time to get ours, in microseconds; none while it is unknown.
    pub clock_difference: Option<i64>,
}

impl Net {
    /// Starts the thread, which connects at once.
    pub fn start(
        config: &Config,
        clock: MediaClock,
        publish: Vec<pb::TrackKind>,
        media_state: pb::MediaState,
        playback: Option<PlaybackHandle>,
        news: NewsSender,
    ) -> std::io::Result<(Self, Media)> {
        let (commands, commands_in) = mpsc::unbounded_channel();
        let (audio, audio_in) = mpsc::channel(AUDIO_QUEUE);
        let (video, video_in) = mpsc::channel(VIDEO_QUEUE);
        let media = Media { audio, video, demand: Arc::default() };
        let setup = run::Setup {
            relay: config.relay.clone(),
            invite: config.invite.clone(),
            trust_on_first_use: config.trust_on_first_use,
            config_dir: config.config_dir.clone(),
            state_dir: config.state_dir.clone(),
            room: config.room.clone(),
            name: config.name.clone(),
            publish,
            media_state,
            clock,
            playback,
            news,
            demand: media.demand.clone(),
            commands: commands_in,
            back: commands.downgrade(),
            audio: audio_in,
            video: video_in,
        };
        let thread = std::thread::Builder::new().name("net".into()).spawn(move || run::thread(setup))?;
        Ok((Self { commands, thread: Some(thread) }, media))
    }

    /// Says something in the room's chat.
    pub fn say(&self, id: ChatId, text: String) {
        drop(self.commands.send(Command::Say(id, text)));
    }

    /// Asks for older lines of the room's chat; [`Event::ChatPage`] answers.
    pub fn read_back(&self) {
        drop(self.commands.send(Command::ReadBack));
    }

    /// Tells the others whether we are muted and seen.
    pub fn set_media_state(&self, state: pb::MediaState) {
        drop(self.commands.send(Command::MediaState(state)));
    }

    /// Tells the relay how high the pictures of the others are shown, in pixels; of who is missing everything is wanted.
    pub fn set_view(&self, heights: Vec<(ParticipantId, u32)>) {
        drop(self.commands.send(Command::View(heights)));
    }

    /// Says goodbye and waits until the relay has heard it, for half a second at most.
    pub fn leave(mut self) {
        drop(self.commands.send(Command::Leave));
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported on its own.
            drop(thread.join());
        }
    }
}

impl Demand {
    /// What is wanted of that encoding.
    #[must_use]
    pub const fn of(&self, encoding: Encoding) -> &Wanted {
        match encoding {
            Encoding::Full => &self.full,
            Encoding::Small => &self.small,
        }
    }
}

impl Wanted {
    /// The encoder may have that much. Zero: the full encoding gets a rate that suits its size, the small one ends.
    pub fn set_target(&self, bitrate: Bitrate) {
        self.target_bps.store(bitrate.bps(), Ordering::Relaxed);
    }

    /// What was said last.
    #[must_use]
    pub fn target(&self) -> Option<Bitrate> {
        Some(self.target_bps.load(Ordering::Relaxed)).filter(|bps| *bps > 0).map(Bitrate::from_bps)
    }

    /// Whether nobody wants this encoding now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// What the encoder would take at most.
    #[must_use]
    pub fn max(&self) -> Bitrate {
        Bitrate::from_bps(self.max_bps.load(Ordering::Relaxed))
    }

    pub(crate) fn set_max(&self, max: Bitrate) {
        self.max_bps.store(max.bps(), Ordering::Relaxed);
    }

    /// The next frame must be a key frame.
    pub fn want_key_frame(&self) {
        self.key_frame.store(true, Ordering::Relaxed);
    }

    /// The next frame must be decodable by all who have `reference`. Of several before that frame, the oldest counts.
    pub fn want_refresh(&self, reference: FrameId) {
        let older = |known: u64| {
            let known = (known & REFERENCE != 0).then_some(FrameId(known as u32));
            let oldest = known.filter(|known| reference.is_after(*known)).unwrap_or(reference);
            Some(REFERENCE | u64::from(oldest.0))
        };
        // The closure always has a value, so this cannot fail.
        self.reference.fetch_update(Ordering::Relaxed, Ordering::Relaxed, older).unwrap_or_default();
    }

    /// Whether the next frame should not be left out.
    pub(crate) fn is_urgent(&self) -> bool {
        self.key_frame.load(Ordering::Relaxed) || self.reference.load(Ordering::Relaxed) != 0
    }

    /// What the next frame must be; asks once.
    pub(crate) fn take(&self) -> FrameOptions {
        let reference = self.reference.swap(0, Ordering::Relaxed);
        FrameOptions {
            force_key: self.key_frame.swap(false, Ordering::Relaxed),
            reference: (reference & REFERENCE != 0).then_some(FrameId(reference as u32)),
        }
    }
}

/// 160 ms of sound.
const AUDIO_QUEUE: usize = 16;
/// Three frames: one on its way, and a picture in both encodings.
const VIDEO_QUEUE: usize = 3;
/// Tells that there is a reference; frames have 32 bits.
const REFERENCE: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_reference_counts_and_is_taken_once() {
        let wanted = Wanted::default();
        assert_eq!(wanted.take(), FrameOptions::default());
        for (first, second) in [(7, 9), (9, 7), (u32::MAX, 3), (3, u32::MAX)] {
            wanted.want_refresh(FrameId(first));
            wanted.want_refresh(FrameId(second));
            assert!(wanted.is_urgent());
            let oldest = FrameId(if first.min(second) == 3 { u32::MAX } else { 7 });
            assert_eq!(wanted.take(), FrameOptions { force_key: false, reference: Some(oldest) });
            assert!(!wanted.is_urgent());
            assert_eq!(wanted.take(), FrameOptions::default());
        }
        wanted.want_refresh(FrameId(0));
        assert_eq!(wanted.take().reference, Some(FrameId(0)), "frame 0 is one too");
    }
}
