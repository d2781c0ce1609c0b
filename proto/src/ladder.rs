//! Which size and frame rate a bitrate is good for.
//!
//! When the bits of a picture become too few, fewer pictures look better than worse ones, and after that smaller ones.
//! The bitrate follows its target at once, because what does not fit the path waits in a queue. A step down comes when the
//! target has stayed too low for [`FALL`], a step up late and with a margin: each change of size costs a key frame, and a picture that changes its
//! sharpness every few seconds is worse than one that stays soft.

use std::time::{Duration, Instant};

use crate::units::Bitrate;

/// Chooses the rung for the video of one camera.
///
/// Feed it with [`Self::handle_target`] at least some times a second, for instance for every picture, whether the
/// target changed or not, and look at [`Self::rung`] after that; there is no other timeout.
#[derive(Clone, Debug)]
pub struct Ladder {
    /// Best first; never empty.
    steps: Vec<Step>,
    max: Bitrate,
    bitrate: Bitrate,
    current: usize,
    fall: Option<Fall>,
    climb: Option<Climb>,
    /// How long the target must allow more before there is more.
    hold: Duration,
    climbed: Option<Instant>,
}

/// What to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Pictures a second: those of the camera or half of them.
    pub fps: u32,
    /// The rate to encode at.
    pub bitrate: Bitrate,
}

/// A rung and the least bitrate it is good for.
#[derive(Clone, Copy, Debug)]
struct Step {
    width: usize,
    height: usize,
    fps: u32,
    least: Bitrate,
}

/// The target allows less than there is.
#[derive(Clone, Copy, Debug)]
struct Fall {
    since: Instant,
    /// The largest target since then.
    most: Bitrate,
}

/// The target allows more than there is.
#[derive(Clone, Copy, Debug)]
struct Climb {
    since: Instant,
    /// The smallest target since then.
    least: Bitrate,
}

impl Ladder {
    /// For pictures of `full` width and height, `fps` of them a second, and never more than `max`. Begins as if `max` was
    /// the target.
    #[must_use]
    pub fn new(full: (usize, usize), fps: u32, max: Bitrate) -> Self {
        let mut steps = Vec::new();
        let mut size = Some(full);
        while let Some((width, height)) = size {
            let halved = Some(fps / 2).filter(|&fps| fps >= MIN_FPS);
            for fps in [Some(fps), halved].into_iter().flatten() {
                steps.push(Step { width, height, fps, least: least(width * height, fps) });
            }
            size = half((width, height));
        }
        let mut ladder =
            Self { steps, max, bitrate: max, current: 0, fall: None, climb: None, hold: HOLD, climbed: None };
        ladder.current = ladder.best(max);
        ladder
    }

    /// The encoder may have that much now.
    pub fn handle_target(&mut self, now: Instant, target: Bitrate) {
        self.bitrate = target.min(self.max);
        let step = self.steps[self.current];
        if self.bitrate < step.least {
            // A dip is ridden out with coarse pictures; what it allowed at most is what the path carries.
            let fall = self.fall.get_or_insert(Fall { since: now, most: self.bitrate });
            fall.most = fall.most.max(self.bitrate);
            let Fall { since, most } = *fall;
            self.climb = None;
            if now.saturating_duration_since(since) < FALL {
                return;
            }
            self.fall = None;
            self.current = self.best(most).max(self.current);
            // Who falls soon after climbing tries again later and later.
            if self.climbed.take().is_some_and(|at| now.saturating_duration_since(at) < RELAPSE) {
                self.hold = (self.hold * 2).min(MAX_HOLD);
            }
            return;
        }
        self.fall = None;
        if self.climbed.is_some_and(|at| now.saturating_duration_since(at) >= RELAPSE) {
            self.climbed = None;
            self.hold = HOLD;
        }
        let sure = Bitrate::from_bps(self.bitrate.bps() / MARGIN.1 * MARGIN.0);
        if self.best(sure) >= self.current {
            self.climb = None;
            return;
        }
        let climb = self.climb.get_or_insert(Climb { since: now, least: sure });
        climb.least = climb.least.min(sure);
        let Climb { since, least } = *climb;
        if now.saturating_duration_since(since) >= self.hold {
            self.current = self.best(least);
            (self.climb, self.climbed) = (None, Some(now));
        }
    }

    /// What to encode now.
    #[must_use]
    pub fn rung(&self) -> Rung {
        let Step { width, height, fps, .. } = self.steps[self.current];
        Rung { width, height, fps, bitrate: self.bitrate }
    }

    /// The best step that `bitrate` is enough for; the last when it is for none.
    fn best(&self, bitrate: Bitrate) -> usize {
        self.steps.iter().position(|s| s.least <= bitrate).unwrap_or(self.steps.len() - 1)
    }
}

/// Half of a size, in even numbers. None when that is too small to recognise a face.
#[must_use]
pub fn half((width, height): (usize, usize)) -> Option<(usize, usize)> {
    let (width, height) = (width / 4 * 2, height / 4 * 2);
    let (long, short) = (width.max(height), width.min(height));
    (long >= MIN_SIDES.0 && short >= MIN_SIDES.1).then_some((width, height))
}

/// The least that pictures of so many pixels, so many a second, look acceptable with.
///
/// 180 kb/s for 640x360 at 30 a second; larger pictures need fewer bits a pixel (exponent 0.75 fits common ladders).
fn least(pixels: usize, fps: u32) -> Bitrate {
    let size = (pixels as f64 / (640.0 * 360.0)).powf(0.75);
    Bitrate::from_bps((180_000.0 * size * f64::from(fps) / 30.0) as u64)
}

/// Below this a face moves in jerks, and smaller pictures are better.
const MIN_FPS: u32 = 10;
/// A tile of 160x90 still shows who speaks.
const MIN_SIDES: (usize, usize) = (160, 90);
/// A step up needs 5/4 of what it would be kept for: estimates swing by some 10 % around what a path carries.
const MARGIN: (u64, u64) = (4, 5);
/// Longer than an estimator takes to find the rate of a path that has become narrow, on the far side of it.
const FALL: Duration = Duration::from_millis(700);
/// An estimate that has held for so long has survived more than one probe.
const HOLD: Duration = Duration::from_secs(5);
/// A step down within this time after one up says that the step up was wrong.
const RELAPSE: Duration = Duration::from_secs(10);
/// Long enough that nobody is annoyed by one more try.
const MAX_HOLD: Duration = Duration::from_secs(40);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ladder, and a target fed to it every 33 ms.
    struct Run {
        ladder: Ladder,
        now: Instant,
        changes: Vec<(usize, u32)>,
    }

    impl Run {
        fn new(full: (usize, usize), fps: u32) -> Self {
            let ladder = Ladder::new(full, fps, Bitrate::from_kbps(10_000));
            let mut run = Self { ladder, now: Instant::now(), changes: Vec::new() };
            run.note();
            run
        }

        fn note(&mut self) {
            let Rung { height, fps, .. } = self.ladder.rung();
            if self.changes.last() != Some(&(height, fps)) {
                self.changes.push((height, fps));
            }
        }

        fn feed(&mut self, seconds: f64, kbps: impl Fn(f64) -> f64) -> (usize, u32) {
            let start = self.now;
            while (self.now - start).as_secs_f64() < seconds {
                let target = kbps((self.now - start).as_secs_f64());
                self.ladder.handle_target(self.now, Bitrate::from_bps((target * 1000.0) as u64));
                self.note();
                self.now += Duration::from_millis(33);
            }
            *self.changes.last().expect("noted at the start")
        }
    }

    #[test]
    fn the_rungs_of_common_cameras() {
        let rungs = |full, fps| {
            let ladder = Ladder::new(full, fps, Bitrate::from_kbps(10_000));
            ladder.steps.iter().map(|s| (s.height, s.fps, s.least.kbps())).collect::<Vec<_>>()
        };
        assert_eq!(
            rungs((640, 360), 30),
            [(360, 30, 180), (360, 15, 90), (180, 30, 63), (180, 15, 31), (90, 30, 22), (90, 15, 11)]
        );
        assert_eq!(rungs((1280, 720), 30)[..3], [(720, 30, 509), (720, 15, 254), (360, 30, 180)]);
        assert_eq!(rungs((640, 480), 15)[..2], [(480, 15, 111), (240, 15, 39)], "8 a second are too few");
        assert_eq!(rungs((360, 640), 30)[4], (160, 30, 22), "upright");
        assert_eq!(rungs((64, 36), 5), [(36, 5, 0)], "there is always one");
        assert_eq!(half((642, 366)), Some((320, 182)), "even");
    }

    #[test]
    fn the_bitrate_follows_at_once_and_stays_below_the_limit() {
        let mut ladder = Ladder::new((640, 360), 30, Bitrate::from_kbps(650));
        assert_eq!(ladder.rung().bitrate.kbps(), 650, "before the first target");
        for (target, bitrate) in [(300, 300), (2000, 650), (5, 5), (400, 400)] {
            ladder.handle_target(Instant::now(), Bitrate::from_kbps(target));
            assert_eq!(ladder.rung().bitrate.kbps(), bitrate);
        }
    }

    #[test]
    fn a_limit_below_the_best_rung_begins_on_the_right_one() {
        let rung = Ladder::new((640, 360), 30, Bitrate::from_kbps(100)).rung();
        assert_eq!((rung.height, rung.fps), (360, 15));
    }

    #[test]
    fn steps_down_come_soon_and_steps_up_after_a_hold() {
        let mut run = Run::new((640, 360), 30);
        assert_eq!(run.feed(10.0, |_| 200.0), (360, 30));
        assert_eq!(run.feed(0.5, |_| 10.0), (360, 30), "a dip is ridden out");
        assert_eq!(run.feed(0.1, |_| 200.0), (360, 30));
        assert_eq!(run.feed(0.8, |_| 150.0), (360, 15));
        assert_eq!(run.feed(0.8, |_| 70.0), (180, 30));
        assert_eq!(run.feed(4.9, |_| 600.0), (180, 30));
        assert_eq!(run.feed(0.3, |_| 600.0), (360, 30), "straight to the best");
        assert_eq!(run.changes, [(360, 30), (360, 15), (180, 30), (360, 30)]);
    }

    #[test]
    fn a_step_up_needs_a_margin_and_uses_the_smallest_of_what_was_seen() {
        let mut run = Run::new((640, 360), 30);
        assert_eq!(run.feed(0.8, |_| 20.0), (90, 15));
        assert_eq!(run.feed(30.0, |_| 27.0), (90, 15), "22 kb/s would do for 30 a second, but not surely");
        // It swings between enough for 360p15 and much more.
        assert_eq!(run.feed(6.0, |t| 500.0 + 360.0 * (t * 3.0).sin()), (360, 15));
    }

    #[test]
    fn a_target_that_swings_around_a_bound_does_not_flap() {
        let mut run = Run::new((640, 360), 30);
        run.feed(300.0, |t| 180.0 + 30.0 * (t * 0.7).sin());
        assert_eq!(run.changes, [(360, 30), (360, 15)], "the margin is wider than the swing");
        let mut run = Run::new((640, 360), 30);
        run.feed(300.0, |t| if t % 8.0 < 6.5 { 400.0 } else { 120.0 });
        assert!(run.changes.len() < 20, "wider swings are followed less and less: {:?}", run.changes);
    }

    #[test]
    fn a_calm_time_makes_the_ladder_quick_again() {
        let mut run = Run::new((640, 360), 30);
        run.feed(60.0, |t| if t % 8.0 < 6.5 { 400.0 } else { 120.0 });
        run.feed(120.0, |_| 400.0);
        assert_eq!(run.feed(0.8, |_| 120.0), (360, 15));
        assert_eq!(run.feed(5.2, |_| 400.0), (360, 30));
    }

    proptest! {
        #[test]
        fn a_rung_is_not_for_long_above_what_the_target_is_good_for(
            (width, height, fps) in (16_usize..4096, 16_usize..4096, 1_u32..240),
            targets in proptest::collection::vec((0_u64..8_000, 1_u64..4_000), 1..200),
        ) {
            let mut ladder = Ladder::new((width, height), fps, Bitrate::from_kbps(5_000));
            let mut now = Instant::now();
            let mut last = 0;
            for (kbps, ms) in targets {
                now += Duration::from_millis(ms);
                last = kbps;
                ladder.handle_target(now, Bitrate::from_kbps(kbps));
                prop_assert!(ladder.rung().bitrate <= Bitrate::from_kbps(5_000.min(kbps)));
            }
            for ms in (0..=4).map(|n| n * FALL.as_millis() as u64) {
                ladder.handle_target(now + Duration::from_millis(ms), Bitrate::from_kbps(last));
            }
            let lowest = ladder.current == ladder.steps.len() - 1;
            prop_assert!(lowest || ladder.steps[ladder.current].least <= ladder.rung().bitrate);
        }
    }
}
