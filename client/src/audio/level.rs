//! How loud sound is, and whether someone speaks.

/// Peak and root mean square of a piece of sound.
pub(super) fn rms(pcm: &[f32]) -> f32 {
    (pcm.iter().map(|s| s * s).sum::<f32>() / pcm.len().max(1) as f32).sqrt()
}

/// Decibels relative to full scale, not below [`FLOOR_DB`].
pub(super) fn dbfs(rms: f32) -> f32 {
    (20.0 * rms.max(1e-9).log10()).max(FLOOR_DB)
}

/// Tells speaking from background, with hysteresis in loudness and in time.
///
/// Fed with 10 ms at a time. Someone speaks when the sound is louder than a threshold and clearly above the quietest
/// of the last seconds (fans and hum are steady, speech is not); the mark stays through the gaps between words.
#[derive(Debug)]
pub(super) struct Activity {
    /// Smoothed level in dB.
    level: f32,
    /// Estimate of the background in dB: falls at once, rises slowly.
    floor: f32,
    /// Frames in a row above the threshold.
    loud: u32,
    /// Frames left until the mark goes.
    hold: u32,
}

impl Default for Activity {
    fn default() -> Self {
        Self { level: FLOOR_DB, floor: 0.0, loud: 0, hold: 0 }
    }
}

impl Activity {
    /// Takes the root mean square of the next 10 ms.
    pub(super) fn update(&mut self, rms: f32) {
        let now = dbfs(rms);
        self.level += (now - self.level) * if now > self.level { 0.5 } else { 0.1 };
        self.floor = if now < self.floor { now } else { (self.floor + FLOOR_RISE_DB).min(now) };
        let threshold = if self.hold > 0 { OFF_DB } else { ON_DB };
        let margin = if self.hold > 0 { OFF_MARGIN_DB } else { ON_MARGIN_DB };
        let above = now > threshold && now > self.floor.min(MAX_FLOOR_DB) + margin;
        self.loud = if above { self.loud.saturating_add(1) } else { 0 };
        if self.loud >= if self.hold > 0 { 1 } else { ONSET } {
            self.hold = HOLD;
        } else {
            self.hold = self.hold.saturating_sub(1);
        }
    }

    /// The smoothed level in dB of full scale.
    pub(super) const fn level(&self) -> f32 {
        self.level
    }

    /// Whether someone speaks.
    pub(super) const fn speaking(&self) -> bool {
        self.hold > 0
    }
}

/// Silence, in dB.
pub(super) const FLOOR_DB: f32 = -100.0;
/// Quiet speech near a microphone is around -40 dB; room noise mostly below -50.
const ON_DB: f32 = -45.0;
const OFF_DB: f32 = -50.0;
/// Above the background, in dB.
const ON_MARGIN_DB: f32 = 9.0;
const OFF_MARGIN_DB: f32 = 5.0;
/// A background louder than this is no background: a steady loud tone counts as speaking.
const MAX_FLOOR_DB: f32 = -40.0;
/// Rise of the background estimate in each frame: 3 dB a second, slower than a long vowel.
const FLOOR_RISE_DB: f32 = 0.03;
/// Frames before the mark comes (30 ms: a click is shorter) and before it goes (400 ms: the gap between words).
const ONSET: u32 = 3;
const HOLD: u32 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(activity: &mut Activity, db: f32, frames: usize) {
        (0..frames).for_each(|_| activity.update(10_f32.powf(db / 20.0)));
    }

    #[test]
    fn the_mark_comes_with_speech_stays_between_words_and_goes() {
        let mut a = Activity::default();
        feed(&mut a, -60.0, 100);
        assert!(!a.speaking());
        feed(&mut a, -25.0, 3);
        assert!(a.speaking());
        feed(&mut a, -60.0, 30);
        assert!(a.speaking(), "a gap of 300 ms");
        feed(&mut a, -60.0, 20);
        assert!(!a.speaking());
    }

    #[test]
    fn clicks_and_steady_noise_are_no_speech_but_a_loud_tone_is_heard() {
        let mut a = Activity::default();
        feed(&mut a, -60.0, 50);
        feed(&mut a, -20.0, 1);
        feed(&mut a, -60.0, 5);
        assert!(!a.speaking(), "a click");
        feed(&mut a, -43.0, 3000);
        assert!(!a.speaking(), "a fan for 30 s");
        feed(&mut a, -20.0, 3000);
        assert!(a.speaking(), "a loud tone for 30 s");
    }

    #[test]
    fn levels_are_in_decibels_of_full_scale() {
        assert!((dbfs(rms(&[0.5; 480])) + 6.02).abs() < 0.01);
        assert_eq!(dbfs(rms(&[0.0; 480])), FLOOR_DB);
        assert_eq!(dbfs(rms(&[])), FLOOR_DB);
    }
}
