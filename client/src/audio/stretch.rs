//! Makes sound longer or shorter without changing its pitch: waveform similarity overlap-add.
//!
//! After W. Verhelst and M. Roelands, "An overlap-add technique based on waveform similarity (WSOLA) for high quality
//! time-scale modification of speech" (ICASSP 1993): cut out (or repeat) a piece at whose two ends the wave looks the
//! same, and cross-fade there. The likeness is the normalised cross-correlation over the cross-fade. In voiced speech
//! the best piece is one or more pitch periods; in noise and silence any piece will do.

/// Cuts a piece of at most `most` samples out of `pcm`, at index `start`; returns its length.
///
/// What comes before `start` stays. None when no piece has ends that are alike enough; `rough` lowers the demand.
pub(super) fn shorten(pcm: &mut Vec<f32>, start: usize, most: usize, rough: bool) -> Option<usize> {
    let room = pcm.len().checked_sub(start + FADE)?;
    let (lag, likeness) = best(MIN_LAG..=room.min(most).min(MAX_LAG), |lag| Some((start, start + lag)), pcm)?;
    if likeness < demand(rough) {
        return None;
    }
    for i in 0..FADE {
        pcm[start + i] = blend(pcm[start + i], pcm[start + lag + i], i);
    }
    pcm.drain(start + FADE..start + FADE + lag);
    Some(lag)
}

/// Repeats a piece of about `wanted` samples that ends at index `start` of `pcm`; returns its length.
///
/// What comes before `start` stays. None when there is no piece before it whose ends are alike enough.
pub(super) fn lengthen(pcm: &mut Vec<f32>, start: usize, wanted: usize) -> Option<usize> {
    pcm.len().checked_sub(start + FADE)?;
    let most = start.min(MAX_LAG).min((wanted * 2).max(MIN_LAG * 2));
    let (lag, likeness) = best(MIN_LAG..=most, |lag| Some((start, start.checked_sub(lag)?)), pcm)?;
    if likeness < demand(false) {
        return None;
    }
    let mut piece: Vec<f32> = pcm[start - lag..start - lag + FADE.max(lag)].to_vec();
    // The piece starts like what would have come next, and goes over into what came before.
    for i in 0..FADE {
        piece[i] = blend(pcm[start + i], piece[i], i);
    }
    // It replaces [start, start + FADE) and is followed by what follows it in the original, one lag earlier.
    let rest = start - lag + piece.len();
    let tail: Vec<f32> = pcm[rest..].to_vec();
    pcm.truncate(start);
    pcm.extend(piece);
    pcm.extend(tail);
    Some(lag)
}

/// The lag whose two stretches of [`FADE`] samples are most alike, with the likeness (-1 to 1).
fn best(
    lags: std::ops::RangeInclusive<usize>,
    ends: impl Fn(usize) -> Option<(usize, usize)>,
    pcm: &[f32],
) -> Option<(usize, f32)> {
    let alike = |lag: usize| {
        let (a, b) = ends(lag)?;
        Some((lag, likeness(pcm.get(a..a + FADE)?, pcm.get(b..b + FADE)?)))
    };
    lags.filter_map(alike).max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Normalised cross-correlation; two quiet stretches count as alike whatever their shape.
fn likeness(a: &[f32], b: &[f32]) -> f32 {
    let (mut ab, mut aa, mut bb) = (0.0_f32, 0.0_f32, 0.0_f32);
    for (x, y) in a.iter().zip(b) {
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    let quiet = QUIET * QUIET * FADE as f32;
    if aa < quiet && bb < quiet { 1.0 } else { ab / (aa * bb).sqrt().max(f32::MIN_POSITIVE) }
}

/// Raised-cosine cross-fade from `a` to `b`: both are alike, so amplitudes (not powers) add up to one.
fn blend(a: f32, b: f32, i: usize) -> f32 {
    let phase = (i as f32 + 0.5) / FADE as f32;
    let w = 0.5 - 0.5 * (std::f32::consts::PI * phase).cos();
    a + (b - a) * w
}

const fn demand(rough: bool) -> f32 {
    if rough { ROUGH } else { ALIKE }
}

/// Length of the cross-fade: 4 ms, long enough to compare shapes at the pitch of most voices.
const FADE: usize = 192;
/// Shortest piece: 2 ms; shorter ones gain nothing.
const MIN_LAG: usize = 96;
/// Longest piece: 15 ms, the pitch period of the deepest voices (65 Hz).
const MAX_LAG: usize = 720;
/// Likeness above which a splice is not heard; NetEQ demands the same for its own stretching.
const ALIKE: f32 = 0.9;
/// Likeness enough when the delay hurts more than a splice.
const ROUGH: f32 = 0.5;
/// Root mean square (-54 dB of full scale) below which a splice is not heard whatever its shape.
const QUIET: f32 = 0.002;

#[cfg(test)]
mod tests {
    use std::f32::consts::TAU;

    use super::*;

    fn tone(hz: f32, samples: usize) -> Vec<f32> {
        (0..samples).map(|n| 0.5 * (TAU * hz * n as f32 / 48_000.0).sin()).collect()
    }

    /// The largest step between neighbouring samples.
    fn steepest(pcm: &[f32]) -> f32 {
        pcm.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max)
    }

    /// Upward zero crossings a second: the pitch of a pure tone.
    fn pitch(pcm: &[f32]) -> f32 {
        let ups: Vec<usize> = (1..pcm.len()).filter(|&n| pcm[n - 1] < 0.0 && pcm[n] >= 0.0).collect();
        let (first, last) = (ups[0], ups[ups.len() - 1]);
        (ups.len() - 1) as f32 * 48_000.0 / (last - first) as f32
    }

    #[test]
    fn tones_keep_their_pitch_and_have_no_step_when_shortened() {
        for hz in [150.0, 217.0, 440.0, 1000.0, 3100.0] {
            let mut pcm = tone(hz, 4800);
            let before = steepest(&pcm);
            let mut cut = 0;
            for start in [480, 1500, 2500] {
                cut += shorten(&mut pcm, start, 480, false).expect("a tone is like itself");
            }
            assert_eq!(pcm.len(), 4800 - cut);
            assert!(cut >= 3 * MIN_LAG, "{hz} Hz: {cut}");
            assert!(steepest(&pcm) < before * 1.05, "{hz} Hz: {} after {before}", steepest(&pcm));
            assert!((pitch(&pcm) / hz - 1.0).abs() < 0.01, "{hz} Hz became {}", pitch(&pcm));
        }
    }

    #[test]
    fn tones_keep_their_pitch_and_have_no_step_when_lengthened() {
        for hz in [150.0, 217.0, 440.0, 1000.0, 3100.0] {
            let mut pcm = tone(hz, 4800);
            let before = steepest(&pcm);
            let mut added = 0;
            for start in [960, 2500, 4000] {
                added += lengthen(&mut pcm, start, 240).expect("a tone is like itself");
            }
            assert_eq!(pcm.len(), 4800 + added);
            assert!(steepest(&pcm) < before * 1.05, "{hz} Hz: {} after {before}", steepest(&pcm));
            assert!((pitch(&pcm) / hz - 1.0).abs() < 0.01, "{hz} Hz became {}", pitch(&pcm));
        }
    }

    #[test]
    fn what_lies_before_the_splice_stays() {
        let original = tone(300.0, 2400);
        let (mut short, mut long) = (original.clone(), original.clone());
        shorten(&mut short, 1000, 480, false).expect("alike");
        lengthen(&mut long, 1000, 240).expect("alike");
        assert_eq!(short[..1000], original[..1000]);
        assert_eq!(long[..1000], original[..1000]);
        assert_eq!(long[long.len() - 100..], original[2300..], "and so does the end");
        assert_eq!(short[short.len() - 100..], original[2300..]);
    }

    #[test]
    fn noise_is_left_alone_unless_it_is_quiet_or_urgent() {
        let mut seed = 1_u32;
        let mut noise = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed as f32 / u32::MAX as f32 - 0.5
        };
        let loud: Vec<f32> = (0..2400).map(|_| noise()).collect();
        assert_eq!(shorten(&mut loud.clone(), 960, 480, false), None);
        assert_eq!(lengthen(&mut loud.clone(), 960, 480), None);
        let mut quiet: Vec<f32> = loud.iter().map(|s| s * 0.002).collect();
        assert!(shorten(&mut quiet, 960, 480, false).is_some());
        assert!(lengthen(&mut quiet, 960, 480).is_some());
    }

    #[test]
    fn short_input_is_left_alone() {
        for len in [0, 100, 250, 300] {
            let mut pcm = tone(440.0, len);
            assert!(shorten(&mut pcm, len / 2, 480, true).is_none_or(|cut| cut < len));
            lengthen(&mut pcm, len / 2, 480);
            assert_eq!(shorten(&mut pcm, 10_000, 480, true), None);
            assert_eq!(lengthen(&mut pcm, 10_000, 480), None);
        }
    }
}
