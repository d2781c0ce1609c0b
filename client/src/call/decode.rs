//! The decoding thread of one remote participant.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use vchat_proto::id::{FrameId, ParticipantId};
use vchat_proto::reassemble::Frame;
use vchat_proto::units::MediaTime;

use crate::audio::Heard;
use crate::clock::MediaClock;
use crate::news::{News, NewsSender};
use crate::picture::Picture;
use crate::slot::Slot;
use crate::video::Decoder;

/// What a decoding thread needs.
pub(crate) struct Decoding {
    pub(crate) participant: ParticipantId,
    /// The channel that it begins with.
    pub(crate) channel: Channel,
    /// What is heard of this participant.
    pub(crate) heard: Option<Heard>,
    pub(crate) clock: MediaClock,
    /// Where its pictures go.
    pub(crate) slot: Slot<Decoded>,
    pub(crate) news: NewsSender,
}

/// Our own number of a track: one encoding of somebody's camera, through all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Channel(pub(crate) u32);

/// A picture that is due to be shown.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The picture.
    pub picture: Arc<Picture>,
    /// Which frame of its channel.
    pub frame: FrameId,
    /// When it was taken, on its sender's clock.
    pub captured: MediaTime,
    /// How late the same moment is heard, in microseconds between the two clocks; none while there is no sound.
    pub audio_delay_us: Option<i64>,
}

/// Starts a thread that decodes frames in the order they are sent, until the sender is dropped. `failed` is called when
/// the decoder needs a key frame.
pub(crate) fn start(
    decoding: Decoding,
    failed: impl Fn(Channel) + Send + 'static,
) -> Result<SyncSender<(Channel, Frame)>, String> {
    let mut decoder = Decoder::new().map_err(|e| e.to_string())?;
    let (frames, queue) = sync_channel(FRAMES);
    let run = move || run(&decoding, &mut decoder, &queue, failed);
    std::thread::Builder::new().name("decode".into()).spawn(run).map_err(|e| e.to_string())?;
    Ok(frames)
}

fn run(d: &Decoding, decoder: &mut Decoder, queue: &Receiver<(Channel, Frame)>, failed: impl Fn(Channel)) {
    super::give_way();
    let (mut current, mut broken, mut shown) = (d.channel, false, None);
    while let Ok((channel, frame)) = queue.recv() {
        // What was queued behind a damaged frame refers to it, and what is of another size to another key frame.
        let late = frame.key && channel != current && shown > Some(frame.captured);
        if late || !frame.key && (broken || channel != current) {
            continue;
        }
        current = channel;
        match decoder.decode(&frame.data) {
            Ok(picture) => {
                broken = false;
                // The first pictures of another size may have been taken before the last one shown.
                if let Some(picture) = picture.filter(|_| shown < Some(frame.captured)) {
                    shown = Some(frame.captured);
                    show(d, &frame, picture);
                }
            }
            Err(e) => {
                tracing::debug!(participant = d.participant.0, "cannot decode a frame: {e}");
                broken = true;
                failed(channel);
            }
        }
    }
}

/// Hands a picture over when it is due: at once, or later so that pictures follow each other evenly, or when it would be far
/// ahead of its sound.
fn show(d: &Decoding, frame: &Frame, picture: Picture) {
    let audio_delay_us = d.heard.as_ref().and_then(Heard::delay_us);
    let now = d.clock.now();
    let for_sound = wait(audio_delay_us, now.micros_since(frame.captured));
    let for_others = frame.due.and_then(|due| u64::try_from(due.micros_since(now)).ok());
    let for_others = for_others.map(|us| Duration::from_micros(us.min(MAX_WAIT_US.unsigned_abs())));
    if let Some(wait) = for_sound.max(for_others) {
        std::thread::sleep(wait);
    }
    let decoded =
        Decoded { picture: Arc::new(picture), frame: frame.id, captured: frame.captured, audio_delay_us };
    if d.slot.put(decoded) {
        drop(d.news.send(News::Picture(d.participant)));
    }
}

/// How long to hold a picture back so that it is not more than [`MAX_LEAD_US`] ahead of its sound.
///
/// Sound is the master: it cannot wait without being heard to. Pictures that are late are shown at once.
fn wait(audio_delay_us: Option<i64>, age_us: i64) -> Option<Duration> {
    let lead = audio_delay_us?.saturating_sub(age_us).saturating_sub(MAX_LEAD_US);
    u64::try_from(lead.min(MAX_WAIT_US)).ok().filter(|us| *us > 0).map(Duration::from_micros)
}

/// Frames that may wait for the decoder: those that are held back for their sound, and a few more.
pub(crate) const FRAMES: usize = 16;
/// People do not notice sound that is up to 45 ms late (ITU-R BT.1359, ATSC IS-191); a third of that leaves room for the
/// time until the picture is on the screen.
const MAX_LEAD_US: i64 = 15_000;
/// Beyond this the two have nothing to do with each other: another clock, or sound that was held up.
const MAX_WAIT_US: i64 = 300_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_waits_only_when_it_is_far_ahead_of_its_sound() {
        assert_eq!(wait(None, 0), None);
        assert_eq!(wait(Some(45_000), 30_000), None);
        assert_eq!(wait(Some(90_000), 30_000), Some(Duration::from_micros(60_000 - MAX_LEAD_US as u64)));
        assert_eq!(wait(Some(30_000), 90_000), None);
        assert_eq!(wait(Some(i64::MAX), 0), Some(Duration::from_millis(300)));
        assert_eq!(wait(Some(i64::MIN), i64::MAX), None);
    }
}
