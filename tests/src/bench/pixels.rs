//! What was shown and when, read back from the pictures themselves.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, ensure};
use vchat_client::video::barcode;
use vchat_client::video::y4m::Reader;
use vchat_proto::stats::Distribution;

use super::clip::Clip;
use crate::harness::Image;

/// All pictures that a client has shown of another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    pictures: Vec<Picture>,
    /// The first damaged one, in shades of grey, and its number.
    pub(super) damaged: Option<(usize, Image)>,
}

/// A picture that was shown. Times in microseconds on the clock that all clients of a machine share.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Picture {
    shown: i64,
    /// As its barcode says; none if that cannot be read, which means that the picture is damaged.
    captured: Option<i64>,
    /// How alike it is to its original in decibels, where that is known.
    psnr: Option<f64>,
}

/// What can be said of the pictures in a stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pictures {
    /// From capture to display.
    pub(super) delay: Distribution,
    /// How many were shown.
    pub(super) count: u64,
    /// How many of them were damaged.
    pub(super) damaged: u64,
    /// Gaps that W3C's webrtc-stats counts as freezes, and the time in them in microseconds.
    pub(super) freezes: u64,
    pub(super) frozen: i64,
    /// The time in gaps of more than [`SLOW`], and the longest gap, in microseconds.
    pub(super) slow: i64,
    pub(super) longest: i64,
    /// How alike they are to their originals, in decibels.
    pub(super) psnr: Vec<f64>,
}

impl Shown {
    /// Reads what `vchat-client --display y4m:DIR` has written about the participant `name`, who showed the test card or
    /// this film. Who went and came back has several files; who never showed anything has none.
    pub(super) fn read(dir: &Path, name: &str, clip: Option<&Clip>) -> anyhow::Result<Self> {
        let mut all = Self { pictures: Vec::new(), damaged: None };
        let names = (1..).map(|n| if n == 1 { name.to_owned() } else { format!("{name}-{n}") });
        for name in names.take_while(|name| dir.join(format!("{name}.csv")).exists()) {
            let part = Self::read_files(dir, &name, clip)?;
            let before = all.pictures.len();
            all.pictures.extend(part.pictures);
            all.damaged =
                all.damaged.or_else(|| part.damaged.map(|(number, image)| (before + number, image)));
        }
        Ok(all)
    }

    fn read_files(dir: &Path, name: &str, clip: Option<&Clip>) -> anyhow::Result<Self> {
        let path = dir.join(format!("{name}.csv"));
        let csv =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines = parse(&csv).with_context(|| format!("{} is damaged", path.display()))?;
        let mut video = Reader::open(dir.join(format!("{name}.y4m")))?;
        let (mut pictures, mut damaged, mut numbers) = (Vec::with_capacity(lines.len()), None, Vec::new());
        while let Some(picture) = video.read()? {
            let &(shown, told) =
                lines.get(pictures.len()).context("there are more pictures than lines about them")?;
            let stamp = barcode::read(&picture);
            if stamp.is_none() && damaged.is_none() {
                let rgb = picture.planes()[0].iter().flat_map(|luma| [*luma; 3]).collect();
                let image = Image { width: picture.width(), height: picture.height(), rgb };
                damaged = Some((pictures.len(), image));
            }
            let captured = stamp.map(|stamp| stamp.captured.as_micros() as i64);
            let psnr = stamp.zip(clip).and_then(|(stamp, clip)| clip.psnr(stamp.frame, &picture));
            pictures.push(Picture { shown, captured, psnr });
            numbers.push(stamp.map(|stamp| (stamp.frame, told)));
        }
        ensure!(
            pictures.len() == lines.len(),
            "{} pictures, but {} lines about them",
            pictures.len(),
            lines.len()
        );
        if let Some(clip) = clip {
            let times = film_times(&numbers, clip.len() as f64, 1e6 / f64::from(clip.fps));
            pictures.iter_mut().zip(times).for_each(|(picture, time)| picture.captured = time);
        }
        Ok(Self { pictures, damaged })
    }

    /// The pictures shown within a stretch of time, in microseconds.
    ///
    /// A gap between two pictures is a freeze when it is longer than three times the average of the last 30 gaps and
    /// than that average plus 150 ms. Of a gap that begins before the time or is not over at its end, the part within it
    /// counts; without any picture all of the time is one.
    pub(super) fn within(&self, time: &Range<i64>) -> Pictures {
        let mut result = Pictures::default();
        for picture in self.pictures.iter().filter(|picture| time.contains(&picture.shown)) {
            result.count += 1;
            match picture.captured {
                Some(captured) => result.delay.record(picture.shown - captured),
                None => result.damaged += 1,
            }
            result.psnr.extend(picture.psnr);
        }
        let open_end = (time.end != i64::MAX).then_some(time.end);
        let mut ends = self.pictures.iter().map(|picture| picture.shown).collect::<Vec<_>>();
        ends.retain(|shown| *shown < time.end);
        ends.extend(open_end);
        if ends.len() == 1 && open_end.is_some() {
            ends.insert(0, time.start);
        }
        let mut gaps: Vec<i64> = Vec::new();
        for pair in ends.windows(2) {
            let gap = pair[1] - pair[0];
            let part = pair[1] - pair[0].max(time.start);
            let recent = &gaps[gaps.len().saturating_sub(AVERAGED)..];
            let average = recent.iter().sum::<i64>() / (recent.len() as i64).max(1);
            if part > 0 {
                result.longest = result.longest.max(part);
                if gap > SLOW {
                    result.slow += part;
                }
                if gap > (3 * average).max(average + 150_000) {
                    result.freezes += 1;
                    result.frozen += part;
                }
            }
            gaps.push(gap);
        }
        result
    }

    /// All pictures.
    pub(super) fn all(&self) -> Pictures {
        self.within(&(i64::MIN..i64::MAX))
    }

    /// When each was shown and its delay, in microseconds, without damaged ones.
    pub(super) fn delays(&self) -> Vec<(i64, i64)> {
        self.pictures.iter().filter_map(|p| Some((p.shown, p.shown - p.captured?))).collect()
    }

    /// When the first one after `time` was shown.
    pub(super) fn first_after(&self, time: i64) -> Option<i64> {
        self.pictures.iter().map(|picture| picture.shown).find(|shown| *shown >= time)
    }
}

impl Pictures {
    /// Adds those that another client has shown in the same time.
    pub(super) fn merge(&mut self, other: &Self) {
        self.delay.merge(&other.delay);
        self.count += other.count;
        self.damaged += other.damaged;
        self.freezes += other.freezes;
        self.frozen += other.frozen;
        self.slow += other.slow;
        self.longest = self.longest.max(other.longest);
        self.psnr.extend(&other.psnr);
    }
}

/// When pictures of a film were taken, by their numbers and the times that the client believes in.
///
/// A film is played at an even pace, so its start, of which the first [`SETTLED`] pictures agree, tells when any picture
/// was; what the client believes later, when queues may have misled it, only tells in which round of the film.
fn film_times(numbers: &[Option<(u32, i64)>], length: f64, step: f64) -> Vec<Option<i64>> {
    let Some(&(number, told)) = numbers.iter().flatten().next() else { return vec![None; numbers.len()] };
    let count = |start: f64, (number, told): (u32, i64)| {
        let rounds = (((told as f64 - start) / step - f64::from(number)) / length).round();
        f64::from(number) + rounds * length
    };
    let first = told as f64 - f64::from(number) * step;
    let starts = numbers.iter().flatten().take(SETTLED);
    let mut starts: Vec<f64> = starts.map(|p| p.1 as f64 - count(first, *p) * step).collect();
    starts.sort_by(f64::total_cmp);
    let start = starts[starts.len() / 2];
    numbers.iter().map(|picture| Some((start + count(start, (*picture)?) * step) as i64)).collect()
}

/// The first two columns of lines `shown_us,capture_us,frame` under their names.
fn parse(csv: &str) -> anyhow::Result<Vec<(i64, i64)>> {
    let mut lines = csv.lines();
    ensure!(lines.next() == Some("shown_us,capture_us,frame"), "unknown columns");
    let times = |line: &str| {
        let mut columns = line.split(',').map(|column| column.parse().ok());
        Some((columns.next()??, columns.next()??))
    };
    lines.map(|line| times(line).with_context(|| format!("{line:?} begins with no times"))).collect()
}

/// Gaps in the average that W3C compares with (webrtc-stats, `freezeCount`).
const AVERAGED: usize = 30;
/// Below five pictures a second nothing moves any more. Unlike a freeze this does not depend on the gaps before.
const SLOW: i64 = 200_000;
/// Two seconds of pictures: enough to be sure of a film's start, and over before the measured time begins.
const SETTLED: usize = 60;

#[cfg(test)]
mod tests {
    use vchat_client::picture;
    use vchat_client::video::barcode::Stamp;
    use vchat_client::video::y4m::Writer;
    use vchat_proto::units::MediaTime;

    use super::*;

    fn shown(pictures: impl IntoIterator<Item = (i64, Option<i64>)>) -> Shown {
        let picture = |(shown, captured)| Picture { shown, captured, psnr: None };
        Shown { pictures: pictures.into_iter().map(picture).collect(), damaged: None }
    }

    #[test]
    fn delays_are_between_the_csv_and_the_barcode() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut csv = "shown_us,capture_us,frame\n".to_owned();
        let mut video = Writer::create(dir.path().join("ann.y4m"), 320, 180, 30).expect("created");
        for frame in 0..10_u32 {
            let captured = 5_000_000 + u64::from(frame) * 33_000;
            let mut picture = picture::Picture::black(320, 180);
            if frame != 4 {
                barcode::paint(&mut picture, Stamp { frame, captured: MediaTime::from_micros(captured) });
            }
            video.write(&picture).expect("written");
            // What the client itself believes about the time of capture does not count.
            csv += &format!("{},77,{frame}\n", captured + 20_000 + u64::from(frame) * 1000);
        }
        video.flush().expect("written");
        std::fs::write(dir.path().join("ann.csv"), &csv).expect("written");

        let shown = Shown::read(dir.path(), "ann", None).expect("readable");
        let (number, image) = shown.damaged.clone().expect("one without a barcode");
        assert_eq!((number, image.pixel(7, 7)), (4, [16; 3]));
        let all = shown.all();
        assert_eq!((all.count, all.damaged, all.freezes), (10, 1, 0));
        assert_eq!((all.delay.len(), all.delay.quantile(0.5)), (9, Some(25_000)));
        assert_eq!((all.delay.quantile(0.95), all.delay.max()), (Some(29_000), Some(29_000)));
        let some = shown.within(&(5_021_000..5_000_000 + 5 * 33_000 + 25_000));
        assert_eq!((some.count, some.damaged, some.delay.max()), (4, 1, Some(23_000)));

        std::fs::write(dir.path().join("ann.csv"), csv + "5400000,5,6\n").expect("written");
        Shown::read(dir.path(), "ann", None).expect_err("a line too many");
        assert!(parse("shown_us,capture_us,frame\nx,1,2").is_err());
        assert!(parse("something\n").is_err());
    }

    #[test]
    fn a_freeze_counts_in_the_time_in_which_it_ends() {
        let mut times: Vec<i64> = (0..60).map(|i| i * 33_000).collect();
        let last = 59 * 33_000;
        times.extend([last + 180_000, last + 480_000, last + 513_000]);
        let shown = shown(times.into_iter().map(|t| (t, Some(t - 10_000))));
        let all = shown.all();
        assert_eq!((all.freezes, all.frozen), (1, 300_000), "180 ms is below 33 + 150 ms");
        assert_eq!((all.longest, all.slow), (300_000, 300_000));
        let begun = shown.within(&(0..last + 480_000));
        assert_eq!((begun.freezes, begun.frozen), (1, 300_000), "it lasts until the end of the time");
        let part = shown.within(&(last + 400_000..i64::MAX));
        assert_eq!((part.freezes, part.frozen, part.count), (1, 80_000, 2));
        let mut twice = all.clone();
        twice.merge(&all);
        assert_eq!((twice.freezes, twice.frozen, twice.count), (2, 600_000, 126));
        assert_eq!(shown.first_after(last + 1), Some(last + 180_000));
        let nothing = Shown { pictures: Vec::new(), damaged: None }.within(&(5_000_000..6_000_000));
        assert_eq!((nothing.count, nothing.frozen, nothing.slow), (0, 1_000_000, 1_000_000));
    }

    #[test]
    fn pictures_of_a_film_are_dated_by_their_numbers() {
        // 30 a second, 300 in the film; the first picture that arrives is number 290, taken at 1 s.
        let step = 1e6 / 30.0;
        let taken = |i: u32| 1_000_000 + (f64::from(i) * step) as i64;
        let numbers: Vec<_> = (0..700)
            .map(|i| {
                // Wrong by up to 3 ms at first, by half a second later.
                let wrong = if i < 100 { i64::from(i % 7) - 3 } else { 500 } * 1000;
                (i % 13 != 5).then_some(((290 + i) % 300, taken(i) + wrong))
            })
            .collect();
        for (i, time) in (0..).zip(film_times(&numbers, 300.0, step)) {
            match time {
                Some(time) => assert!((time - taken(i)).abs() <= 1000, "{i}: {time}"),
                None => assert_eq!(i % 13, 5),
            }
        }
        assert_eq!(film_times(&[None, None], 300.0, step), [None, None]);
    }
}
