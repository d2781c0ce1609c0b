//! How speech is coded against the loss that its listeners see.

/// Loss between a microphone and its listeners, after all that the network's own repair could do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Packets of a hundred that did not come in time.
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
    /// Features of a longer past (DRED), from which bursts are made up for.
    Deep {
        /// The loss told to the encoder.
        percent: u8,
        /// Frames of 10 ms covered.
        frames: u8,
    },
}

impl Protection {
    /// What is right against that loss, while this is what is done: between two kinds the present one stays, since the
    /// figure is noisy and each change costs the deep redundancy its memory of the last second.
    pub(super) fn against(self, loss: Loss) -> Self {
        let Loss { percent, burst_ms } = loss;
        let deep = matches!(self, Self::Deep { .. });
        let heavy = percent >= if deep { HEAVY_PERCENT / 2 } else { HEAVY_PERCENT };
        let bursts = percent >= LIGHT_PERCENT && burst_ms > if deep { BURST_MS / 2 } else { BURST_MS };
        let light = percent >= if self == Self::None { LIGHT_PERCENT } else { 1 };
        if heavy || bursts {
            Self::Deep { percent: percent.clamp(DEEP_PERCENT, MAX_PERCENT), frames: cover(burst_ms) }
        } else if light {
            Self::Copy { percent: percent.clamp(COPY_PERCENT, MAX_PERCENT) }
        } else {
            Self::None
        }
    }
}

/// Frames to cover: runs of losses are about exponential, and one in 50 is longer than four times their mean.
fn cover(burst_ms: u32) -> u8 {
    let frames = burst_ms.saturating_mul(4) / 10;
    u8::try_from(frames).unwrap_or(MOST_FRAMES).clamp(FEWEST_FRAMES, MOST_FRAMES).next_multiple_of(CHUNK_FRAMES)
}

/// Below 2 % the decoder's concealment is not told from speech, and copies would cost the sound two thirds of a packet.
const LIGHT_PERCENT: u8 = 2;
/// From here on two packets in a row are lost so often (0.6 %) that a copy of one is too little.
const HEAVY_PERCENT: u8 = 8;
/// Runs longer than two packets are beyond what a copy of one mends.
const BURST_MS: u32 = 20;
/// The encoder spends no bits on copies, or on features, for a loss declared lower than this (measured).
const COPY_PERCENT: u8 = 5;
const DEEP_PERCENT: u8 = 10;
/// Above it the encoder takes too much from the sound itself.
const MAX_PERCENT: u8 = 40;
/// Bounds of what is covered: 100 ms, and a second, beyond which there is nothing more to have.
const FEWEST_FRAMES: u8 = 10;
const MOST_FRAMES: u8 = 100;
/// Redundancy comes in pieces of 40 ms.
const CHUNK_FRAMES: u8 = 4;
