//! The sending side: microphone, mute, silence, Opus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use vchat_proto::units::{Bitrate, MediaTime};

use super::codec::Encoder;
use super::level::{Activity, FLOOR_DB, rms};
use super::protection::Loss;
use super::source::{self, Source};
use super::{AudioError, FRAME, MicSpec, samples_us};
use crate::clock::MediaClock;

/// 10 ms of coded sound, to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioPacket {
    /// When the first sample that comes out of the decoder was captured.
    pub captured: MediaTime,
    /// The Opus packet; one of one byte announces that none follow for a while.
    pub data: Bytes,
}

/// A running source of sound. Ends when dropped.
///
/// While muted, or after 200 ms of digital silence, it sends nothing; the source is read all the same.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    device: Option<String>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    muted: AtomicBool,
    /// The source ended by itself.
    ended: AtomicBool,
    speaking: AtomicBool,
    /// Level in dB of full scale, the bits of an `f32`.
    level: AtomicU32,
    bps: AtomicU64,
    /// See [`pack`].
    loss: AtomicU64,
}

impl Capture {
    /// Opens the source and hands each packet to `on_packet`, on a thread of its own.
    ///
    /// `on_error` is called when the source ends by itself (a device that was unplugged). A device is then looked for
    /// again, and taken when it is back.
    ///
    /// # Errors
    /// The source cannot be opened. `auto` never fails for want of a microphone; see [`Self::device`].
    pub fn start(
        spec: &MicSpec,
        clock: MediaClock,
        on_packet: impl FnMut(AudioPacket) + Send + 'static,
        mut on_error: impl FnMut(AudioError) + Send + 'static,
    ) -> Result<Self, AudioError> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            muted: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            speaking: AtomicBool::new(false),
            level: AtomicU32::new(FLOOR_DB.to_bits()),
            bps: AtomicU64::new(32_000),
            loss: AtomicU64::new(pack(START_LOSS)),
        });
        let spec = spec.clone();
        if spec == MicSpec::None {
            return Ok(Self { shared, device: None, thread: None });
        }
        let of_thread = shared.clone();
        let again = spec.clone();
        let make = move || {
            let opened = source::open(&spec, clock)?;
            let device = opened.as_ref().map(|opened| opened.device.clone());
            let sender = Sender::new(of_thread, on_packet)?;
            Ok(((opened, sender), device))
        };
        let run = move |(opened, mut sender): (Option<source::Opened>, Sender<_>)| {
            let mut source = opened;
            while let Some(mut opened) = source {
                let Err(error) = sender.run(opened.source.as_mut()) else { return };
                drop(opened);
                sender.shared.level.store(FLOOR_DB.to_bits(), Ordering::Relaxed);
                sender.shared.speaking.store(false, Ordering::Relaxed);
                sender.shared.ended.store(true, Ordering::Relaxed);
                on_error(error);
                source = sender.wait_for(&again, clock);
                sender.shared.ended.store(false, Ordering::Relaxed);
            }
        };
        let (thread, device) = super::spawn("audio-capture", make, run)?;
        // Without a source the thread has ended.
        Ok(Self { shared, thread: device.is_some().then_some(thread), device: device.flatten() })
    }

    /// The microphone in use; none for other sources and where `auto` found none.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Whether there is any source: false for `none`, for `auto` without a microphone, and while a lost
    /// device is not back.
    #[must_use]
    pub fn has_source(&self) -> bool {
        self.thread.is_some() && !self.shared.ended.load(Ordering::Relaxed)
    }

    /// Stops or resumes sending.
    pub fn set_muted(&self, muted: bool) {
        self.shared.muted.store(muted, Ordering::Relaxed);
    }

    /// Whether sending is stopped.
    #[must_use]
    pub fn muted(&self) -> bool {
        self.shared.muted.load(Ordering::Relaxed)
    }

    /// Sets the bitrate of the sound (16 to 40 kb/s are used), and the loss against which it is protected.
    ///
    /// Cheap, and felt with the next packet; once a second is often enough. What protects comes on top of `rate`.
    pub fn adapt(&self, rate: Bitrate, loss: Loss) {
        self.shared.bps.store(rate.bps(), Ordering::Relaxed);
        self.shared.loss.store(pack(loss), Ordering::Relaxed);
    }

    /// Loudness of the source in dB of full scale (-100 is silence), also while muted.
    #[must_use]
    pub fn level(&self) -> f32 {
        f32::from_bits(self.shared.level.load(Ordering::Relaxed))
    }

    /// Whether someone speaks into the source, also while muted.
    #[must_use]
    pub fn speaking(&self) -> bool {
        self.shared.speaking.load(Ordering::Relaxed)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported on its own.
            let _ = thread.join();
        }
    }
}

/// Lives on the thread.
struct Sender<F> {
    shared: Arc<Shared>,
    encoder: Encoder,
    activity: Activity,
    gate: Gate,
    on_packet: F,
}

impl<F: FnMut(AudioPacket)> Sender<F> {
    fn new(shared: Arc<Shared>, on_packet: F) -> Result<Self, AudioError> {
        let encoder = Encoder::new()?;
        Ok(Self { shared, encoder, activity: Activity::default(), gate: Gate::default(), on_packet })
    }

    fn run(&mut self, source: &mut dyn Source) -> Result<(), AudioError> {
        let mut frame = [0.0; FRAME];
        while !self.shared.stop.load(Ordering::Relaxed) {
            if let Some(captured) = source.read(&mut frame)? {
                self.frame(captured, &mut frame)?;
            }
        }
        Ok(())
    }

    /// Looks for the device until it is back; none when the call is over, or when what ended was no device.
    fn wait_for(&self, spec: &MicSpec, clock: MediaClock) -> Option<source::Opened> {
        if !matches!(spec, MicSpec::Auto | MicSpec::Named(_)) {
            return None;
        }
        loop {
            for _ in 0..RETRY_STEPS {
                if self.shared.stop.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::sleep(RETRY / RETRY_STEPS);
            }
            if let Ok(Some(opened)) = source::open(spec, clock) {
                tracing::info!("the microphone is back");
                return Some(opened);
            }
        }
    }

    fn frame(&mut self, captured: MediaTime, frame: &mut [f32; FRAME]) -> Result<(), AudioError> {
        // A broken driver's NaN would stay in the codec's filters for good.
        frame.iter_mut().for_each(|s| *s = if s.is_finite() { s.clamp(-1.0, 1.0) } else { 0.0 });
        self.activity.update(rms(frame));
        self.shared.level.store(self.activity.level().to_bits(), Ordering::Relaxed);
        self.shared.speaking.store(self.activity.speaking(), Ordering::Relaxed);
        let bps = self.shared.bps.load(Ordering::Relaxed);
        let loss = self.shared.loss.load(Ordering::Relaxed);
        self.encoder.adapt(Bitrate::from_bps(bps), unpack(loss));
        let captured = captured.offset(-samples_us(self.encoder.lookahead() as i64));
        let data = match self.gate.pass(frame, self.shared.muted.load(Ordering::Relaxed)) {
            Pass::Send => self.encoder.encode(frame)?,
            Pass::Announce => self.encoder.pause(),
            Pass::Hold => return Ok(()),
        };
        (self.on_packet)(AudioPacket { captured, data });
        Ok(())
    }
}

/// A loss in one atomic number, so that its two parts are always of the same moment.
fn pack(loss: Loss) -> u64 {
    u64::from(loss.percent) << 32 | u64::from(loss.burst_ms)
}

fn unpack(packed: u64) -> Loss {
    let percent = u8::try_from(packed >> 32).unwrap_or(u8::MAX);
    Loss { percent, burst_ms: u32::try_from(packed & u64::from(u32::MAX)).unwrap_or(u32::MAX) }
}

/// Until it is measured: enough that single losses are mended, at a price that nobody hears.
const START_LOSS: Loss = Loss { percent: 5, burst_ms: 10 };
/// How often a lost device is looked for: soon enough for who plugs it in again, seldom enough to cost nothing.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// The end of the call is noticed in between.
const RETRY_STEPS: u32 = 20;

/// Decides what is sent of a muted or silent source.
///
/// Opus has discontinuous transmission of its own, but its detector may take soft music or a steady tone for noise.
/// This one stops only for what nobody hears.
#[derive(Debug, Default)]
struct Gate {
    quiet: u32,
    muted: bool,
    open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Send,
    /// Send a packet that says that none follow.
    Announce,
    Hold,
}

impl Gate {
    /// Looks at the next frame and fades it when muting begins or ends.
    fn pass(&mut self, frame: &mut [f32; FRAME], muted: bool) -> Pass {
        let ramp = |n: usize| n as f32 / FRAME as f32;
        match (self.muted, muted) {
            (false, true) => frame.iter_mut().enumerate().for_each(|(n, s)| *s *= 1.0 - ramp(n)),
            (true, false) => frame.iter_mut().enumerate().for_each(|(n, s)| *s *= ramp(n)),
            (true, true) => frame.fill(0.0),
            (false, false) => {}
        }
        let fading = self.muted != muted;
        self.muted = muted;
        let silent = frame.iter().all(|s| s.abs() < SILENT);
        self.quiet = if silent { self.quiet.saturating_add(1) } else { 0 };
        let patience = if muted { FLUSH } else { PATIENCE };
        if fading || self.quiet <= patience {
            // Silence from the very start is not worth a packet.
            if !self.open && silent {
                return Pass::Hold;
            }
            self.open = true;
            Pass::Send
        } else if std::mem::take(&mut self.open) {
            Pass::Announce
        } else {
            Pass::Hold
        }
    }
}

/// Samples below -66 dB of full scale are silence: a microphone in the quietest room gives more.
const SILENT: f32 = 0.0005;
/// Silent frames before sending stops (200 ms: the gap between two words is sent), and after muting (the rest of the
/// fade is still in the encoder's lookahead).
const PATIENCE: u32 = 20;
const FLUSH: u32 = 1;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_gate_stops_for_silence_announces_it_once_and_opens_at_once() {
        let mut gate = Gate::default();
        let mut run = |level: f32, muted, frames: usize| {
            (0..frames).map(|_| gate.pass(&mut [level; FRAME], muted)).collect::<Vec<_>>()
        };
        assert!(run(0.0, false, 30).iter().all(|p| *p == Pass::Hold), "nothing to say yet");
        assert!(run(0.1, false, 10).iter().all(|p| *p == Pass::Send));
        let silence = run(0.0, false, 50);
        assert_eq!(silence.iter().filter(|p| **p == Pass::Send).count(), PATIENCE as usize);
        assert_eq!(silence.iter().filter(|p| **p == Pass::Announce).count(), 1);
        assert_eq!(run(0.1, false, 1), [Pass::Send]);
        assert_eq!(run(0.1, true, 4), [Pass::Send, Pass::Send, Pass::Announce, Pass::Hold], "muted");
        assert_eq!(run(0.1, false, 2), [Pass::Send, Pass::Send], "unmuted");
    }

    #[test]
    fn muting_fades_instead_of_cutting() {
        let mut gate = Gate::default();
        let mut frame = [0.5; FRAME];
        gate.pass(&mut frame, true);
        assert!(frame.windows(2).all(|w| (w[0] - w[1]).abs() < 0.01));
        assert!(frame[FRAME - 1] < 0.01);
        let mut frame = [0.5; FRAME];
        gate.pass(&mut frame, true);
        assert_eq!(frame, [0.0; FRAME]);
    }

    #[test]
    fn the_tone_becomes_packets_until_it_is_muted() {
        let clock = MediaClock::new();
        let (packets, received) = mpsc::channel();
        let capture = Capture::start(
            &MicSpec::Tone,
            clock,
            move |packet| drop(packets.send(packet)),
            |error| panic!("the tone ended: {error}"),
        )
        .expect("starts");
        let wait = Duration::from_secs(20);
        let mut last: Option<AudioPacket> = None;
        for _ in 0..30 {
            let packet = received.recv_timeout(wait).expect("a packet");
            assert!(packet.data.len() > 2);
            assert!(clock.now().micros_since(packet.captured) >= 10_000, "a frame is sent when it is over");
            if let Some(last) = last {
                assert_eq!(packet.captured.micros_since(last.captured) % 10_000, 0);
            }
            last = Some(packet);
        }
        assert!(capture.level() > -60.0 && capture.has_source() && capture.device().is_none());
        capture.set_muted(true);
        let announced = std::iter::from_fn(|| received.recv_timeout(wait).ok()).find(|p| p.data.len() == 1);
        assert!(announced.is_some(), "a pause is announced");
        drop(capture);
        assert_eq!(received.try_iter().count(), 0, "and nothing follows");
    }

    #[test]
    fn auto_starts_on_any_machine() {
        let capture = Capture::start(&MicSpec::Auto, MediaClock::new(), |_| {}, |_| {}).expect("starts");
        assert_eq!(capture.has_source(), capture.device().is_some());
    }

    #[test]
    fn none_is_no_source_and_a_missing_file_is_an_error() {
        let start = |spec: MicSpec| Capture::start(&spec, MediaClock::new(), |_| {}, |_| {});
        assert!(!start(MicSpec::None).expect("starts").has_source());
        let error = start(MicSpec::File("/no/such.wav".into())).expect_err("no file").to_string();
        assert!(error.contains("/no/such.wav"), "{error}");
    }
}
