//! The receiving side: packets of all speakers to the loudspeaker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use vchat_proto::id::{FrameId, ParticipantId};
use vchat_proto::stats::Distribution;
use vchat_proto::units::MediaTime;

use super::capture::RETRY;
use super::mixer::Mixer;
use super::sink::{self, Sink};
use super::{AudioError, SpeakerSpec};
use crate::clock::MediaClock;

/// A running loudspeaker. Ends when dropped; give [`Self::handle`] to whoever has packets for it.
#[derive(Debug)]
pub struct Playback {
    handle: PlaybackHandle,
    stop: Arc<AtomicBool>,
    device: Option<String>,
    thread: Option<JoinHandle<()>>,
}

/// Gives packets and news to a [`Playback`]. No method waits for the thread, except [`Self::poll_stats`].
///
/// The queue to the thread holds [`QUEUE`] entries; when it is full the newest is dropped and counted.
#[derive(Clone, Debug)]
pub struct PlaybackHandle {
    queue: SyncSender<News>,
    clock: MediaClock,
    dropped: Arc<AtomicU64>,
}

/// What is heard of a participant at this moment: cheap values that the playback thread keeps up to date.
#[derive(Clone, Debug)]
pub struct Heard(Arc<(AtomicI64, AtomicBool)>);

/// What is known of the sound of one participant.
#[derive(Clone, Debug)]
pub struct PeerAudio {
    /// Whose sound.
    pub participant: ParticipantId,
    /// Sound invented in place of lost or late packets of which nothing was known, and silence where nothing came for
    /// long, in milliseconds since the start.
    pub concealed_ms: u64,
    /// Sound restored from later packets, in milliseconds since the start.
    pub repaired_ms: u64,
    /// Packets that came after their turn, since the start.
    pub late: u64,
    /// How long sound waits in the jitter buffer now, in milliseconds.
    pub buffer_ms: u32,
    /// How long it should wait, in milliseconds.
    pub target_ms: u32,
    /// Capture to loudspeaker in microseconds, since the last poll; a difference of two clocks like [`Heard`].
    pub latency: Distribution,
    /// The same since the start.
    pub latency_total: Distribution,
    /// Loudness in dB of full scale; -100 is silence.
    pub level_dbfs: f32,
    /// Whether the participant speaks.
    pub speaking: bool,
    /// Payload received since the last poll, in kilobits a second.
    pub kbps: u32,
}

/// What happened to the loudspeaker itself since the start, and to each participant.
#[derive(Clone, Debug, Default)]
pub struct PlaybackStats {
    /// One for each participant that joined or was heard.
    pub peers: Vec<PeerAudio>,
    /// Times that the sound card found nothing to play.
    pub underruns: u64,
    /// Packets dropped because the thread did not keep up.
    pub dropped: u64,
}

enum News {
    Packet { at: MediaTime, from: ParticipantId, frame: FrameId, captured: MediaTime, payload: Bytes },
    Joined { who: ParticipantId, name: String, heard: Heard },
    Left(ParticipantId),
    Deaf(bool),
    Poll(SyncSender<PlaybackStats>),
}

impl Playback {
    /// Opens the sink and starts the thread that feeds it.
    ///
    /// `on_error` is called when a device or file is lost during the call; then the sound goes nowhere, but packets
    /// are decoded all the same. A device is looked for again, and taken when it is back.
    ///
    /// # Errors
    /// The sink cannot be opened. `auto` never fails for want of a speaker; see [`Self::device`].
    pub fn start(
        spec: &SpeakerSpec,
        clock: MediaClock,
        on_error: impl FnMut(AudioError) + Send + 'static,
    ) -> Result<Self, AudioError> {
        let (queue, news) = sync_channel(QUEUE);
        let handle = PlaybackHandle { queue, clock, dropped: Arc::default() };
        let stop = Arc::new(AtomicBool::new(false));
        let (spec, dropped, stopped) = (spec.clone(), handle.dropped.clone(), stop.clone());
        let make = move || {
            let opened = sink::open(&spec, clock)?;
            let player = Player {
                clock,
                news,
                stop: stopped,
                sink: opened.sink,
                spec,
                retry_at: None,
                mixer: Mixer::default(),
                dropped,
                on_error: Box::new(on_error),
            };
            Ok((player, opened.device))
        };
        let (thread, device) = super::spawn("audio-playback", make, |mut player: Player| player.run())?;
        Ok(Self { handle, stop, device, thread: Some(thread) })
    }

    /// The way to give it packets.
    #[must_use]
    pub fn handle(&self) -> PlaybackHandle {
        self.handle.clone()
    }

    /// The speaker in use; none for other sinks and where `auto` found none.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }
}

impl Drop for Playback {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported on its own.
            let _ = thread.join();
        }
    }
}

impl PlaybackHandle {
    /// Hands over a packet that has just arrived. Its participant need not have joined.
    pub fn packet(&self, from: ParticipantId, frame: FrameId, captured: MediaTime, payload: Bytes) {
        self.tell(News::Packet { at: self.clock.now(), from, frame, captured, payload });
    }

    /// A participant came; `name` names its file for `wav:`. Returns what is heard of it, kept up to date from now on.
    pub fn joined(&self, who: ParticipantId, name: &str) -> Heard {
        let heard = Heard::default();
        self.tell(News::Joined { who, name: name.to_owned(), heard: heard.clone() });
        heard
    }

    /// A participant went.
    pub fn left(&self, who: ParticipantId) {
        self.tell(News::Left(who));
    }

    /// Silences all participants (or not); statistics and speaking marks go on.
    pub fn set_deaf(&self, deaf: bool) {
        self.tell(News::Deaf(deaf));
    }

    /// Statistics since the last call. Waits for the thread, a few milliseconds; empty when it has ended.
    #[must_use]
    pub fn poll_stats(&self) -> PlaybackStats {
        let (answer, stats) = sync_channel(1);
        self.tell(News::Poll(answer));
        stats.recv_timeout(POLL_TIMEOUT).unwrap_or_default()
    }

    fn tell(&self, news: News) {
        match self.queue.try_send(news) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Default for Heard {
    fn default() -> Self {
        Self(Arc::new((AtomicI64::new(NO_DELAY), AtomicBool::new(false))))
    }
}

impl Heard {
    /// Microseconds from capture to loudspeaker, for showing pictures in step; none while the participant is silent. The
    /// difference of two clocks when the participant is on another machine.
    #[must_use]
    pub fn delay_us(&self) -> Option<i64> {
        Some(self.0.0.load(Ordering::Relaxed)).filter(|&us| us != NO_DELAY)
    }

    /// Whether the participant speaks.
    #[must_use]
    pub fn speaking(&self) -> bool {
        self.0.1.load(Ordering::Relaxed)
    }

    pub(super) fn set_delay(&self, us: Option<i64>) {
        self.0.0.store(us.unwrap_or(NO_DELAY), Ordering::Relaxed);
    }

    pub(super) fn set_speaking(&self, speaking: bool) {
        self.0.1.store(speaking, Ordering::Relaxed);
    }
}

/// Lives on the thread.
struct Player {
    clock: MediaClock,
    news: Receiver<News>,
    stop: Arc<AtomicBool>,
    sink: Box<dyn Sink>,
    spec: SpeakerSpec,
    /// When to look for a lost device again.
    retry_at: Option<MediaTime>,
    mixer: Mixer,
    dropped: Arc<AtomicU64>,
    on_error: Box<dyn FnMut(AudioError) + Send>,
}

impl Player {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.news.recv_timeout(self.sink.wait(self.clock.now())) {
                Ok(first) => {
                    self.handle(first);
                    // At most as many as fit into the queue, so that a flood does not starve the loudspeaker.
                    for _ in 0..QUEUE {
                        let Ok(news) = self.news.try_recv() else { break };
                        self.handle(news);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Err(error) = self.feed() {
                tracing::warn!(%error, "playing into nothing");
                self.sink = sink::silent(self.clock).sink;
                if matches!(self.spec, SpeakerSpec::Auto | SpeakerSpec::Named(_)) {
                    self.retry_at = Some(self.clock.now() + RETRY);
                }
                (self.on_error)(error);
            }
            self.retry();
        }
    }

    /// Takes a lost device that is back.
    fn retry(&mut self) {
        let now = self.clock.now();
        if self.retry_at.is_none_or(|t| now < t) {
            return;
        }
        self.retry_at = Some(now + RETRY);
        if let Ok(opened) = sink::open(&self.spec, self.clock)
            && opened.device.is_some()
        {
            tracing::info!("the speaker is back");
            (self.sink, self.retry_at) = (opened.sink, None);
        }
    }

    fn feed(&mut self) -> Result<(), AudioError> {
        let now = self.clock.now();
        self.sink.check(now)?;
        while self.sink.wants(now) {
            let (mix, voices) = self.mixer.mix(now, self.sink.heard(now));
            self.sink.write(&mix, voices)?;
        }
        Ok(())
    }

    fn handle(&mut self, news: News) {
        match news {
            News::Packet { at, from, frame, captured, payload } => {
                if !self.mixer.has(from) {
                    self.join(from, &from.0.to_string(), Heard::default());
                }
                self.mixer.receive(at, from, frame, captured, payload);
            }
            News::Joined { who, name, heard } => self.join(who, &name, heard),
            News::Left(who) => {
                self.mixer.leave(who);
                self.sink.left(who);
            }
            News::Deaf(deaf) => self.mixer.set_deaf(deaf),
            News::Poll(answer) => {
                let stats = PlaybackStats {
                    peers: self.mixer.poll_stats(self.clock.now()),
                    underruns: self.sink.underruns(),
                    dropped: self.dropped.load(Ordering::Relaxed),
                };
                // Whoever asked may have given up waiting.
                let _ = answer.try_send(stats);
            }
        }
    }

    fn join(&mut self, who: ParticipantId, name: &str, heard: Heard) {
        match self.mixer.join(self.clock.now(), who, heard) {
            Ok(()) => self.sink.joined(who, name),
            Err(error) => tracing::warn!(%error, participant = who.0, "a participant is not heard"),
        }
    }
}

/// Entries on the way to the thread: 100 ms of packets of a hundred speakers.
const QUEUE: usize = 1024;
/// Longer than any stall of the thread that a call survives.
const POLL_TIMEOUT: Duration = Duration::from_millis(200);
/// Stands for "silent"; no delay is 292 000 years.
const NO_DELAY: i64 = i64::MIN;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{Capture, MicSpec, tone};

    /// From the tone to wav files, in real time, through everything but the network and the sound card.
    #[test]
    fn the_tone_is_heard_in_the_files_and_its_delay_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = MediaClock::new();
        let playback = Playback::start(&SpeakerSpec::Wav(dir.path().to_owned()), clock, |e| panic!("{e}"));
        let playback = playback.expect("starts");
        let (ann, handle) = (ParticipantId(5), playback.handle());
        let heard = handle.joined(ann, "ann");
        let (sender, mut id) = (handle.clone(), FrameId(u32::MAX - 100));
        let on_packet = move |packet: crate::audio::AudioPacket| {
            sender.packet(ann, id, packet.captured, packet.data);
            id = id.plus(1);
        };
        let capture = Capture::start(&MicSpec::Tone, clock, on_packet, |e| panic!("{e}")).expect("starts");
        // Until three seconds of sound are in the file.
        let path = dir.path().join("ann.wav");
        let length = || hound::WavReader::open(&path).map_or(0, |r| r.duration());
        while length() < 48_000 * 3 {
            std::thread::sleep(Duration::from_millis(50));
        }
        let stats = handle.poll_stats();
        let told = heard.delay_us().expect("sound is heard");
        drop((capture, playback));
        let peer = stats.peers.first().expect("one participant");
        assert_eq!((stats.peers.len(), peer.participant, stats.dropped), (1, ann, 0));
        assert!((10..=60).contains(&peer.kbps), "{} kb/s", peer.kbps);
        let p50 = peer.latency_total.quantile(0.5).expect("samples");
        // 10 ms of packet and 6.5 ms of codec at least.
        assert!(p50 > 16_000 && told > 16_000, "{p50} us, {told} us");
        for file in ["ann.wav", "mix.wav"] {
            let mut reader = hound::WavReader::open(dir.path().join(file)).expect("a good file");
            let pcm: Vec<f32> =
                reader.samples::<i16>().map(|s| f32::from(s.expect("a sample")) / 32768.0).collect();
            assert!(tone::find_chirps(&pcm).len() >= 2, "{file}: the chirps of three seconds");
        }
    }

    #[test]
    fn auto_starts_on_any_machine_and_none_still_decodes() {
        let clock = MediaClock::new();
        for spec in [SpeakerSpec::Auto, SpeakerSpec::None] {
            let playback = Playback::start(&spec, clock, |_| {}).expect("starts");
            let handle = playback.handle();
            handle.packet(ParticipantId(3), FrameId(0), clock.now(), Bytes::from_static(&[8]));
            let heard =
                std::iter::from_fn(|| Some(handle.poll_stats())).take(100).find(|s| !s.peers.is_empty());
            assert_eq!(heard.expect("a participant").peers[0].participant, ParticipantId(3));
        }
    }

    #[test]
    fn a_full_queue_drops_and_never_waits() {
        let (queue, _news) = sync_channel(QUEUE);
        let handle = PlaybackHandle { queue, clock: MediaClock::new(), dropped: Arc::default() };
        for n in 0..QUEUE as u32 + 7 {
            handle.packet(ParticipantId(1), FrameId(n), MediaTime::default(), Bytes::new());
        }
        assert_eq!(handle.dropped.load(Ordering::Relaxed), 7);
    }
}
