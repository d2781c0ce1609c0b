//! The network thread: runs the session over quinn, sends our media and hands out that of the others.

mod connect;
mod inbound;
mod invite;
mod link;
mod pair;
mod reach;
mod run;
mod talk;
mod uplink;

pub(crate) use self::connect::not_paired;
pub use self::invite::{Invited, run as invite};
pub use self::pair::{PairError, Paired, run as pair};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use vchat_certs::pin::Pin;
use vchat_proto::id::{ChatId, ParticipantId, TrackId};
use vchat_proto::session::{Event, SayError};
use vchat_proto::wire::pb;

use crate::audio::{AudioPacket, PlaybackHandle};
use crate::cli::Config;
use crate::clock::MediaClock;
use crate::news::NewsSender;
use crate::video::EncodedFrame;

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

/// What the network wants of the video encoder.
#[derive(Debug, Default)]
pub struct Demand {
    /// There is a track to send on.
    pub(crate) live: AtomicBool,
    /// The next frame must be a key frame.
    pub(crate) key_frame: AtomicBool,
    /// Video waits to be sent, or nothing passes: do not encode more of it now.
    pub(crate) backlog: AtomicBool,
    /// What the network bears, in bits a second of encoded video; 0 before it is known.
    pub(crate) target_bps: AtomicU64,
    /// What the camera would send at most, in bits a second.
    pub(crate) max_bps: AtomicU64,
}

/// What the rest of the client asks of the network thread. Few and small, hence no limit on the queue: the user types them.
#[derive(Debug)]
enum Command {
    Say(ChatId, String),
    MediaState(pb::MediaState),
    /// The decoder of this participant's track failed.
    DecoderFailed(TrackId),
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

    /// Tells the others whether we are muted and seen.
    pub fn set_media_state(&self, state: pb::MediaState) {
        drop(self.commands.send(Command::MediaState(state)));
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
    /// Whether the next frame must be a key frame; asks once.
    pub(crate) fn take_key_frame(&self) -> bool {
        self.key_frame.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn want_key_frame(&self) {
        self.key_frame.store(true, Ordering::Relaxed);
    }
}

/// 160 ms of sound.
const AUDIO_QUEUE: usize = 16;
/// Two frames: one on its way and one ready.
const VIDEO_QUEUE: usize = 2;
