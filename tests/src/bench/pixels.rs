//! What was shown and when, read back from the pictures themselves.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, ensure};
use vchat_client::video::barcode;
use vchat_client::video::y4m::Reader;
use vchat_proto::stats::Distribution;

use crate::harness::Image;

/// All pictures that a client has shown of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pictures: Vec<Picture>,
    /// The first damaged one, in shades of grey, and its number.
    pub(super) damaged: Option<(usize, Image)>,
}

/// A picture that was shown. Times in microseconds on the clock that all clients of a machine share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Picture {
    shown: i64,
    /// As its barcode says; none if that cannot be read, which means that the picture is damaged.
    captured: Option<i64>,
}

/// What can be said of the pictures in a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
}

impl Shown {
    /// Reads what `vchat-client --display y4m:DIR` has written about the participant `name`.
    pub(super) fn read(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let path = dir.join(format!("{name}.csv"));
        let csv =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let shown = parse(&csv).with_context(|| format!("{} is damaged", path.display()))?;
        let mut video = Reader::open(dir.join(format!("{name}.y4m")))?;
        let (mut pictures, mut damaged) = (Vec::with_capacity(shown.len()), None);
        while let Some(picture) = video.read()? {
            let shown =
                *shown.get(pictures.len()).context("there are more pictures than lines about them")?;
            let captured = barcode::read(&picture).map(|stamp| stamp.captured.as_micros() as i64);
            if captured.is_none() && damaged.is_none() {
                let rgb = picture.planes()[0].iter().flat_map(|luma| [*luma; 3]).collect();
                let image = Image { width: picture.width(), height: picture.height(), rgb };
                damaged = Some((pictures.len(), image));
            }
            pictures.push(Picture { shown, captured });
        }
        ensure!(
            pictures.len() == shown.len(),
            "{} pictures, but {} lines about them",
            pictures.len(),
            shown.len()
        );
        Ok(Self { pictures, damaged })
    }

    /// The pictures shown within a stretch of time, in microseconds.
    ///
    /// A gap between two pictures is a freeze when it is longer than three times the average of the last 30 gaps and
    /// than that average plus 150 ms; it counts where it ends.
    pub(super) fn within(&self, time: &Range<i64>) -> Pictures {
        let mut result = Pictures::default();
        let mut gaps: Vec<i64> = Vec::new();
        for (at, picture) in self.pictures.iter().enumerate() {
            let counts = time.contains(&picture.shown);
            if counts {
                result.count += 1;
                match picture.captured {
                    Some(captured) => result.delay.record(picture.shown - captured),
                    None => result.damaged += 1,
                }
            }
            let Some(before) = at.checked_sub(1).map(|at| self.pictures[at]) else { continue };
            let gap = picture.shown - before.shown;
            let recent = &gaps[gaps.len().saturating_sub(AVERAGED)..];
            if counts && !recent.is_empty() {
                let average = recent.iter().sum::<i64>() / recent.len() as i64;
                if gap > (3 * average).max(average + 150_000) {
                    result.freezes += 1;
                    result.frozen += gap;
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
}

impl Pictures {
    /// Adds those that another client has shown in the same time.
    pub(super) fn merge(&mut self, other: &Self) {
        self.delay.merge(&other.delay);
        self.count += other.count;
        self.damaged += other.damaged;
        self.freezes += other.freezes;
        self.frozen += other.frozen;
    }
}

/// The first column of lines `shown_us,capture_us,frame` under their names.
fn parse(csv: &str) -> anyhow::Result<Vec<i64>> {
    let mut lines = csv.lines();
    ensure!(lines.next() == Some("shown_us,capture_us,frame"), "unknown columns");
    let time = |line: &str| {
        let (shown, _) = line.split_once(',')?;
        shown.parse().ok()
    };
    lines.map(|line| time(line).with_context(|| format!("{line:?} begins with no time"))).collect()
}

/// Gaps in the average that W3C compares with (webrtc-stats, `freezeCount`).
const AVERAGED: usize = 30;

#[cfg(test)]
mod tests {
    use vchat_client::picture;
    use vchat_client::video::barcode::Stamp;
    use vchat_client::video::y4m::Writer;
    use vchat_proto::units::MediaTime;

    use super::*;

    fn shown(pictures: impl IntoIterator<Item = (i64, Option<i64>)>) -> Shown {
        let picture = |(shown, captured)| Picture { shown, captured };
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

        let shown = Shown::read(dir.path(), "ann").expect("readable");
        let (number, image) = shown.damaged.clone().expect("one without a barcode");
        assert_eq!((number, image.pixel(7, 7)), (4, [16; 3]));
        let all = shown.all();
        assert_eq!((all.count, all.damaged, all.freezes), (10, 1, 0));
        assert_eq!((all.delay.len(), all.delay.quantile(0.5)), (9, Some(25_000)));
        assert_eq!((all.delay.quantile(0.95), all.delay.max()), (Some(29_000), Some(29_000)));
        let some = shown.within(&(5_021_000..5_000_000 + 5 * 33_000 + 25_000));
        assert_eq!((some.count, some.damaged, some.delay.max()), (4, 1, Some(23_000)));

        std::fs::write(dir.path().join("ann.csv"), csv + "5400000,5,6\n").expect("written");
        Shown::read(dir.path(), "ann").expect_err("a line too many");
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
        assert_eq!(shown.within(&(0..last + 480_000)).freezes, 0);
        assert_eq!(shown.within(&(last + 480_000..i64::MAX)).freezes, 1);
        let mut twice = all.clone();
        twice.merge(&all);
        assert_eq!((twice.freezes, twice.frozen, twice.count), (2, 600_000, 126));
    }
}
