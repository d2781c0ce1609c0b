//! Sound that comes late, twice, out of order, or with clocks that jump.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use vchat_proto::id::FrameId;
use vchat_proto::jitter::{JitterBuffer, MAX_PACKETS, Packet, Tick};
use vchat_proto::units::MediaTime;

#[derive(Arbitrary, Debug)]
enum Step {
    /// The next packet, after so many lost ones and so many milliseconds on the way.
    Packet {
        lost: u8,
        way: u8,
        reach: u8,
        pauses: bool,
    },
    /// Any packet.
    Stray {
        id: u32,
        captured: u64,
    },
    Tick,
    Stretched(i64),
    Pass(u8),
}

/// Nothing overflows, and a sender that ends leaves silence behind.
pub fn jitter(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut buffer = JitterBuffer::new();
    let mut now = MediaTime::from_micros(1_000_000_000);
    let mut next = FrameId(u32::MAX - 3);
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        match step {
            Step::Packet { lost, way, reach, pauses } => {
                next = next.plus(u32::from(lost % 4) + 1);
                let captured = now.offset(-i64::from(way) * 1000);
                buffer.handle_packet(
                    now,
                    Packet { id: next, captured, reach: reach.into(), pauses, payload: Bytes::new() },
                );
            }
            Step::Stray { id, captured } => {
                let captured = MediaTime::from_micros(captured);
                let (reach, pauses, payload) = (0, false, Bytes::new());
                buffer.handle_packet(now, Packet { id: FrameId(id), captured, reach, pauses, payload });
            }
            Step::Tick => drop(buffer.tick(now)),
            Step::Stretched(us) => buffer.handle_stretched(us),
            Step::Pass(ms) => now = now.offset(i64::from(ms) * 1000),
        }
        let _ = buffer.stats();
    }
    // Every packet held is played, and the last of them is followed by a little concealment.
    let rest = (0..PATIENCE).position(|_| {
        now = now.offset(1_000_000);
        buffer.tick(now) == Tick::Silence
    });
    assert!(rest.is_some(), "sound that never ends: {:?}", buffer.stats());
}

/// Each packet may have a hole before it that is concealed for ten ticks, and restored for as many as the packet reaches.
const PATIENCE: usize = MAX_PACKETS * (11 + u8::MAX as usize) + 11;
