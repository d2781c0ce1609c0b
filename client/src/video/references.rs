//! Which frames an encoder predicts from and which it keeps, for the encoder that can be told.
//!
//! The base frames (T0) form a chain: each is predicted from the one before. In between lie frames of higher temporal
//! layers that nobody needs:
//!
//! ```text
//! layers 1: T0 T0 T0 T0     layers 2: T0 T1 T0 T1     layers 3: T0 T2 T1 T2
//! ```
//!
//! AV1 keeps eight pictures. The last base frames lie there densely and older ones sparsely, so that a frame that others
//! are known to have is likely to be kept still: the chain then goes on from there ([`FrameOptions::reference`]), and
//! what lies after it is never referred to again.

use std::ops::Range;

use vchat_proto::id::FrameId;
use vchat_proto::wire::datagram::Dependency;

use super::encoder::FrameOptions;

/// The frames that encoder and decoders keep, and the plan of the next one.
pub(super) struct References {
    layers: u8,
    next: FrameId,
    slots: [Kept; SLOTS],
    /// Slot of the last base frame. None before the first key frame.
    last: Option<usize>,
    /// Frames since the last base frame, which says what the next one is.
    since_base: usize,
    /// Base frames since the last that was kept for long.
    since_long: usize,
    /// Where those are kept.
    long: Range<usize>,
}

/// What lies in a slot.
#[derive(Clone, Copy, Debug)]
struct Kept {
    frame: FrameId,
    /// It is in the chain of the frame that comes next: who can decode that has this one too.
    in_chain: bool,
}

/// How to encode one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) number: FrameId,
    pub(super) temporal: u8,
    pub(super) discardable: bool,
    pub(super) dependency: Dependency,
    /// Slot of the frame it depends on and is predicted from. None for a key frame, which fills all slots.
    pub(super) from: Option<usize>,
    /// Where it is kept.
    pub(super) into: Option<usize>,
}

impl References {
    /// For `layers` temporal layers, 1 to 3; the first frame gets the number `next`.
    pub(super) fn new(layers: u8, next: FrameId) -> Self {
        let slots = [Kept { frame: next, in_chain: false }; SLOTS];
        let long = LONG_FROM..if layers > 2 { MIDDLE } else { SLOTS };
        Self { layers, next, slots, last: None, since_base: 0, since_long: 0, long }
    }

    /// From now on frames come in so many temporal layers.
    pub(super) fn set_layers(&mut self, layers: u8) {
        self.layers = layers;
    }

    /// The plan of the next frame, which has to be encoded so.
    pub(super) fn advance(&mut self, options: FrameOptions) -> Plan {
        let number = self.next;
        self.next = number.plus(1);
        let from = match (options.force_key, options.reference) {
            (true, _) => None,
            (false, Some(reference)) => self.go_back_to(reference),
            (false, None) => self.last,
        };
        let Some(from) = from else { return self.key_frame(number) };
        let anew = options.reference.is_some();
        let pattern = PATTERNS[usize::from(self.layers.clamp(1, 3)) - 1];
        let step = if anew { 0 } else { (self.since_base + 1) % pattern.len() };
        self.since_base = step;
        let plan = |from: usize, slots: &[Kept; SLOTS]| Plan {
            number,
            temporal: pattern[step],
            discardable: false,
            dependency: back(number, slots[from].frame),
            from: Some(from),
            into: None,
        };
        match pattern[step] {
            0 => self.base_frame(plan(from, &self.slots)),
            // The middle layer of three: kept for the one frame after it.
            1 if self.layers == 3 => {
                self.slots[MIDDLE] = Kept { frame: number, in_chain: false };
                Plan { into: Some(MIDDLE), ..plan(from, &self.slots) }
            }
            _ => {
                let middle = step > 1 && self.slots[MIDDLE].frame == number.minus(1);
                Plan { discardable: true, ..plan(if middle { MIDDLE } else { from }, &self.slots) }
            }
        }
    }

    fn key_frame(&mut self, number: FrameId) -> Plan {
        self.slots = [Kept { frame: number, in_chain: true }; SLOTS];
        (self.last, self.since_base, self.since_long) = (Some(0), 0, 0);
        Plan { number, temporal: 0, discardable: false, dependency: Dependency::None, from: None, into: None }
    }

    fn base_frame(&mut self, plan: Plan) -> Plan {
        self.since_long = (self.since_long + 1) % LONG_EVERY;
        let into = self.oldest(if self.since_long == 0 { self.long.clone() } else { 0..LONG_FROM });
        self.slots[into] = Kept { frame: plan.number, in_chain: true };
        self.last = Some(into);
        Plan { into: Some(into), ..plan }
    }

    /// Leaves out of the chain what comes after `reference`; the slot of the newest frame that remains.
    ///
    /// Whatever `reference` is, a frame of the chain or one of a branch that was left before: the frames of the chain not
    /// later than it are those that `reference` depends on too.
    fn go_back_to(&mut self, reference: FrameId) -> Option<usize> {
        for kept in &mut self.slots {
            kept.in_chain &= !kept.frame.is_after(reference) && self.next.since(kept.frame) <= MAX_BACK;
        }
        let usable = (0..SLOTS).filter(|&slot| self.slots[slot].in_chain);
        self.last = usable.max_by_key(|&slot| self.slots[slot].frame.since(self.next));
        self.last
    }

    /// The slot among these that is missed least: out of the chain, else the oldest.
    fn oldest(&self, among: Range<usize>) -> usize {
        let start = among.start;
        let key = |&i: &usize| (self.slots[i].in_chain, self.slots[i].frame.since(self.next));
        among.min_by_key(key).unwrap_or(start)
    }
}

fn back(number: FrameId, to: FrameId) -> Dependency {
    // At most `MAX_BACK`, or the few frames since the last base frame.
    Dependency::Back(u16::try_from(number.since(to)).unwrap_or(u16::MAX))
}

/// The temporal layers of successive frames, by the number of layers.
const PATTERNS: [&[u8]; 3] = [&[0], &[0, 1], &[0, 2, 1, 2]];
/// Pictures that AV1 keeps.
pub(super) const SLOTS: usize = 8;
/// The last five base frames are kept in the slots before this one: 330 ms at 15 of them a second, a long round trip and
/// the time to notice a loss. The slots from here on keep older ones.
const LONG_FROM: usize = 5;
/// Every eighth base frame is kept for long: three slots reach 16 to 24 base frames back, 1 to 1.6 s at 15 a second.
const LONG_EVERY: usize = 8;
/// Two seconds at 30 a second: of a frame that is older hardly anything is still to be seen, and a key frame looks better.
const MAX_BACK: i32 = 64;
/// With three layers the frame of the middle one is kept here for the frame after it.
const MIDDLE: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: FrameOptions = FrameOptions { force_key: true, reference: None };
    const NEXT: FrameOptions = FrameOptions { force_key: false, reference: None };

    fn refresh(reference: FrameId) -> FrameOptions {
        FrameOptions { force_key: false, reference: Some(reference) }
    }

    /// How far back the frame lies that the next one depends on; 0 for a key frame.
    fn depth(references: &mut References, options: FrameOptions) -> u16 {
        match references.advance(options).dependency {
            Dependency::None => 0,
            Dependency::Back(n) => n,
        }
    }

    #[test]
    fn a_base_frame_never_replaces_the_newest_ones() {
        for layers in 1..=3 {
            let mut references = References::new(layers, FrameId(u32::MAX - 20));
            let mut kept: [Option<FrameId>; SLOTS] = [None; SLOTS];
            let mut bases = Vec::new();
            for _ in 0..100 {
                let plan = references.advance(NEXT);
                match (plan.from, plan.into) {
                    (None, _) => kept = [Some(plan.number); SLOTS],
                    (_, Some(into)) => kept[into] = Some(plan.number),
                    _ => assert!(plan.discardable, "only what nobody needs is not kept"),
                }
                if plan.temporal == 0 {
                    bases.push(plan.number);
                }
                assert!(bases.iter().rev().take(LONG_FROM).all(|base| kept.contains(&Some(*base))));
            }
        }
    }

    #[test]
    fn what_was_left_is_not_referred_to_again() {
        let mut references = References::new(2, FrameId(0));
        (0..=20).for_each(|_| assert!(references.advance(NEXT).number.0 <= 20));
        assert_eq!(depth(&mut references, refresh(FrameId(17))), 5, "21 from 16");
        assert_eq!(depth(&mut references, NEXT), 1, "T1");
        assert_eq!(depth(&mut references, refresh(FrameId(20))), 7, "20 was left: 16 again");
        assert_eq!(depth(&mut references, refresh(FrameId(23))), 1, "24 from 23");
        assert_eq!(depth(&mut references, refresh(FrameId(22))), 9, "21 was left too: 16");
    }

    #[test]
    fn a_key_frame_ends_everything_before() {
        let mut references = References::new(2, FrameId(0));
        (0..10).for_each(|_| assert!(references.advance(NEXT).number.0 < 10));
        assert_eq!(depth(&mut references, KEY), 0);
        assert_eq!(depth(&mut references, refresh(FrameId(10))), 1);
        assert_eq!(depth(&mut references, refresh(FrameId(9))), 0, "a key frame again");
    }

    #[test]
    fn nothing_old_is_referred_to() {
        for layers in 1..=3 {
            let mut references = References::new(layers, FrameId(0));
            let mut random = 7_u32;
            for i in 0..2000_u32 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let options =
                    if random >> 28 == 0 { refresh(FrameId(i - i.min(random >> 20 & 31))) } else { NEXT };
                let depth = depth(&mut references, options);
                assert!(i32::from(depth) <= MAX_BACK, "{layers} layers, frame {i}: {depth} back");
            }
        }
    }
}
