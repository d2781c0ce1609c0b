//! Fragments in any order, with lies among them.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use vchat_proto::id::{FrameId, TrackId};
use vchat_proto::reassemble::{Output, Reassembler};
use vchat_proto::units::MediaTime;
use vchat_proto::wire::datagram::{Dependency, Media, MediaHeader, MediaKind};

#[derive(Arbitrary, Debug)]
enum Step {
    /// A fragment of a frame so far from the newest one.
    Fragment {
        ahead: i8,
        index: u8,
    },
    /// A header that fits nothing.
    Lie {
        frame: u32,
        index: u16,
        count: u16,
        back: u16,
    },
    /// A frame far away.
    Jump(u32),
    Pass(u8),
    Reset,
}

/// Frames come out in order, whole, and none without its reference; a timeout that was handled is over.
pub fn reassembly(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let (mut machine, start, mut newest) = (Reassembler::default(), Instant::now(), FrameId(5));
    let mut now = start;
    let (mut lied, mut decoded) = (false, Vec::new());
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        match step {
            Step::Fragment { ahead, index } => {
                let frame = if ahead < 0 {
                    newest.minus(ahead.unsigned_abs().into())
                } else {
                    newest.plus(u32::from(ahead.unsigned_abs() % 4))
                };
                if frame.is_after(newest) {
                    newest = frame;
                }
                let header = honest(frame, index);
                feed(&mut machine, start, now, &header);
            }
            Step::Lie { frame, index, count, back } => {
                let dependency = if back == 0 { Dependency::None } else { Dependency::Back(back) };
                let header =
                    MediaHeader { frame: FrameId(frame), index, count, dependency, ..honest(newest, 0) };
                lied |= feed(&mut machine, start, now, &header);
            }
            Step::Jump(to) => newest = FrameId(to),
            Step::Pass(ms) => now += Duration::from_millis(ms.into()),
            Step::Reset => {
                machine.reset(now);
                decoded.clear();
            }
        }
        machine.handle_timeout(now, media_time(start, now));
        assert!(machine.poll_timeout().is_none_or(|t| t > now), "a timeout that does not pass");
        while let Some(output) = machine.poll_output() {
            let Output::Frame(frame) = output else { continue };
            let header = honest(frame.id, 0);
            if lied {
                continue;
            }
            assert_eq!(frame.data.len(), usize::from(header.count), "whole");
            assert!(frame.data.iter().enumerate().all(|(i, byte)| *byte == i as u8), "in one piece");
            assert_eq!(frame.key, header.is_key());
            match header.dependency {
                Dependency::None => decoded.clear(),
                Dependency::Back(back) => {
                    assert!(decoded.last().is_some_and(|last| frame.id.is_after(*last)), "out of order");
                    assert!(
                        decoded.contains(&frame.id.minus(back.into())),
                        "{:?} lacks its reference",
                        frame.id
                    );
                }
            }
            decoded.push(frame.id);
        }
    }
}

/// All that belongs to a frame follows from its number.
const fn honest(frame: FrameId, index: u8) -> MediaHeader {
    let count = (frame.0 % 3 + 1) as u16;
    let dependency = match frame.0 % 8 {
        0 => Dependency::None,
        n if n % 2 == 0 => Dependency::Back(2),
        _ => Dependency::Back(1),
    };
    MediaHeader {
        kind: MediaKind::Video,
        track: TrackId(1),
        frame,
        index: index as u16 % count,
        count,
        dependency,
        discardable: false,
        temporal: 0,
        spatial: 0,
        captured: MediaTime::from_micros(frame.0 as u64),
    }
}

/// False when the header is none that may be on the wire.
fn feed(machine: &mut Reassembler, start: Instant, now: Instant, header: &MediaHeader) -> bool {
    let datagram = header.datagram(&[header.index as u8]).freeze();
    let Ok(media) = Media::parse(datagram) else { return false };
    machine.handle_media(now, media_time(start, now), &media);
    true
}

fn media_time(start: Instant, now: Instant) -> MediaTime {
    MediaTime::default() + now.saturating_duration_since(start)
}
