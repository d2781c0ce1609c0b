//! How speech is coded against the loss that its listeners see.

/// Loss between a microphone and its listeners, after all that the network's own repair could do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Packets of a hundred that did not come in time: those that take 100 ms longer than the others count as lost, since
    /// a listener who waits for them would rather have had them restored.
    pub percent: u8,
    /// How long a run of lost packets is on average, in milliseconds; 0 when none is lost.
    pub burst_ms: u32,
}

/// What packets carry beside their own sound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protection {
    /// Nothing: the bits go into the sound.
    #[default]
    None,
    /// A coarse copy of the packet before (LBRR), which mends single losses.
    Copy {
        /// The loss told to the encoder, which decides by it how coarse copies are and which frames need none.
        percent: u8,
    },
    /// Features of a longer past (DRED) in some packets, from which bursts are made up for.
    Deep(Depth),
}

/// How much deep redundancy there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Depth {
    /// Frames of 10 ms that it covers.
    pub(super) frames: u8,
    /// Packets to one that carries it.
    pub(super) every: u32,
    /// Bits a second that such a packet is given for it.
    pub(super) bps: i32,
}

impl Protection {
    /// What is right against that loss, while this is what is done: the figure is noisy, and each change of kind costs
    /// the deep redundancy its memory, so the present kind stays until the loss is half of what called for it.
    pub(super) fn against(self, loss: Loss) -> Self {
        let Loss { percent, burst_ms } = loss;
        let deep = matches!(self, Self::Deep(_));
        let heavy = percent >= if deep { HEAVY_PERCENT / 2 } else { HEAVY_PERCENT };
        let bursts = percent >= LIGHT_PERCENT && burst_ms > if deep { BURST_MS / 2 } else { BURST_MS };
        let light = percent >= if self == Self::None { LIGHT_PERCENT } else { LIGHT_PERCENT / 2 };
        if heavy || bursts {
            Self::Deep(Depth::for_bursts(burst_ms))
        } else if light {
            Self::Copy { percent: percent.clamp(COPY_PERCENT, MAX_PERCENT) }
        } else {
            Self::None
        }
    }
}

impl Depth {
    /// Runs of losses are about exponential: one in 50 is longer than four times their mean.
    fn for_bursts(burst_ms: u32) -> Self {
        let frames = burst_ms.saturating_mul(4) / 10;
        let [shallow, middle, deep] = DEPTHS;
        match frames {
            ..=12 => shallow,
            13..=24 => middle,
            _ => deep,
        }
    }
}

/// Below 2 % the decoder's concealment is hardly told from speech, and copies would cost the sound bits.
const LIGHT_PERCENT: u8 = 2;
/// From here on two packets in a row are lost so often (0.6 %) that a copy of one is too little.
const HEAVY_PERCENT: u8 = 8;
/// Runs longer than two packets are beyond what a copy of one mends.
const BURST_MS: u32 = 20;
/// For less declared loss the encoder makes few copies, for more it takes too much from the sound itself.
const COPY_PERCENT: u8 = 5;
const MAX_PERCENT: u8 = 25;
/// About 16 kb/s each, on average of all packets: what reaches further comes less often, since a listener who waits for the end of
/// a long burst may as well wait for the next packet that tells of it. Nothing reaches further than the 400 ms that
/// a listener waits at most. The bits are libopus' own estimate (`estimate_dred_bitrate`) for the quantiser that it
/// chooses at these rates, so that the sound itself keeps its rate.
const DEPTHS: [Depth; 3] = [
    Depth { frames: 12, every: 2, bps: 33_600 },
    Depth { frames: 24, every: 3, bps: 46_600 },
    Depth { frames: 40, every: 4, bps: 61_900 },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn against(before: Protection, percent: u8, burst_ms: u32) -> Protection {
        before.against(Loss { percent, burst_ms })
    }

    #[test]
    fn protection_grows_with_loss_and_with_bursts() {
        let none = Protection::None;
        assert_eq!(against(none, 0, 0), none);
        assert_eq!(against(none, 1, 500), none, "an outage now and then is not worth bits all the time");
        assert_eq!(against(none, 3, 12), Protection::Copy { percent: 5 });
        assert_eq!(against(none, 7, 12), Protection::Copy { percent: 7 });
        let [shallow, middle, deep] = DEPTHS.map(Protection::Deep);
        assert_eq!(against(none, 8, 12), shallow);
        assert_eq!(against(none, 100, 40), middle);
        assert_eq!(against(none, 3, 60), middle);
        assert_eq!(against(none, 30, u32::MAX), deep);
    }

    #[test]
    fn noise_around_a_threshold_changes_nothing() {
        let deep = against(Protection::None, 8, 12);
        assert_eq!(against(deep, 5, 12), deep);
        assert_eq!(against(deep, 3, 10), Protection::Copy { percent: 5 });
        let copy = against(Protection::None, 2, 10);
        assert_eq!(against(copy, 1, 10), copy);
        assert_eq!(against(copy, 0, 0), Protection::None);
    }
}
