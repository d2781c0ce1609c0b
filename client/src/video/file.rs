//! A y4m file as a camera.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pace::Pacer;
use super::scale;
use super::source::{Captured, OpenError, Source, SourceError};
use super::y4m::{self, Y4mError};
use crate::clock::MediaClock;
use crate::picture::Picture;

/// A file played in real time, again and again.
///
/// With another rate than the file's own, pictures are left out or repeated: time passes as in the file.
pub(super) struct FileSource {
    path: PathBuf,
    reader: y4m::Reader,
    size: (usize, usize),
    rate: (u32, u32),
    pacer: Pacer,
    clock: MediaClock,
    /// The picture shown last, and how many were read to get there.
    current: Option<Arc<Picture>>,
    read: u64,
    /// Pictures by which the file runs late.
    late: u64,
}

impl FileSource {
    pub(super) fn open(
        path: &Path,
        size: Option<(usize, usize)>,
        fps: Option<u32>,
        clock: MediaClock,
    ) -> Result<Self, OpenError> {
        let mut reader = y4m::Reader::open(path)?;
        if reader.read()?.is_none() {
            return Err(OpenError::Empty(path.to_owned()));
        }
        reader.rewind()?;
        let size = size.unwrap_or_else(|| (reader.width(), reader.height()));
        let rate = fps.map_or_else(|| reader.rate(), |fps| (fps, 1));
        let pacer = Pacer::new(rate);
        Ok(Self { path: path.to_owned(), reader, size, rate, pacer, clock, current: None, read: 0, late: 0 })
    }

    pub(super) fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Pictures a second, rounded up.
    pub(super) fn fps(&self) -> u32 {
        self.rate.0.div_ceil(self.rate.1)
    }

    /// Reads on until `count` pictures were read in all.
    fn advance(&mut self, count: u64) -> Result<(), Y4mError> {
        let mut newest = None;
        while self.read < count {
            newest = self.reader.read()?;
            if newest.is_none() {
                self.reader.rewind()?;
                newest = self.reader.read()?;
            }
            self.read += 1;
        }
        if let Some(picture) = newest {
            self.current = Some(Arc::new(scale::scale_owned(picture, self.size.0, self.size.1)));
        }
        Ok(())
    }

    fn gone(&self, why: String) -> SourceError {
        SourceError::Gone { source_name: self.path.display().to_string(), why }
    }
}

impl Source for FileSource {
    fn next_frame(&mut self) -> Result<Captured, SourceError> {
        let round = self.pacer.wait();
        let captured = self.clock.now();
        // Which picture of the file is on at this time: round / rate * file rate.
        let (n, d) = self.reader.rate();
        let index = u128::from(round) * u128::from(self.rate.1) * u128::from(n)
            / (u128::from(self.rate.0) * u128::from(d));
        let count = u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1) - self.late;
        let jump = count.saturating_sub(self.read);
        let skipped = if jump > MAX_SKIP { jump - 1 } else { 0 };
        self.late += skipped;
        self.advance(count - skipped).map_err(|e| self.gone(e.to_string()))?;
        let picture = self.current.clone().ok_or_else(|| self.gone("it has no picture".to_owned()))?;
        Ok(Captured { picture, captured, frame: round as u32 })
    }

    fn describe(&self) -> String {
        let (n, d) = self.rate;
        let fps = f64::from(n) / f64::from(d);
        format!("file {}, {}x{} at {fps:.4} fps", self.path.display(), self.size.0, self.size.1)
    }
}

/// After a longer pause of the machine a file goes on where it was, instead of being read through to where it would be.
const MAX_SKIP: u64 = 300;

#[cfg(test)]
mod tests {
    use super::super::source::{CameraSpec, Opened, open};
    use super::*;

    fn file_of(count: u8, fps: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut writer = y4m::Writer::create(file.path(), 32, 32, fps).expect("created");
        for i in 0..count {
            let mut picture = Picture::black(32, 32);
            picture.planes_mut()[0].fill(20 + i);
            writer.write(&picture).expect("written");
        }
        file
    }

    fn open_file(file: &tempfile::NamedTempFile, size: Option<(usize, usize)>, fps: Option<u32>) -> Opened {
        let spec = CameraSpec::File(file.path().to_owned());
        open(&spec, size, fps, MediaClock::new()).expect("opened").expect("a source")
    }

    #[test]
    fn files_loop_and_keep_their_rate_and_are_scaled() {
        let mut opened = open_file(&file_of(3, 100), Some((16, 16)), None);
        assert_eq!((opened.width, opened.height, opened.fps), (16, 16, 100));
        for _ in 0..7 {
            let got = opened.source.next_frame().expect("a picture");
            assert_eq!((got.picture.width(), got.picture.height()), (16, 16));
            // Frames may be left out on a slow machine; number and picture still belong together.
            assert_eq!(u32::from(got.picture.planes()[0][0]), 20 + got.frame % 3);
        }
    }

    #[test]
    fn another_rate_keeps_the_speed_of_the_file() {
        let mut opened = open_file(&file_of(100, 50), None, Some(200));
        for _ in 0..12 {
            let got = opened.source.next_frame().expect("a picture");
            assert_eq!(u32::from(got.picture.planes()[0][0]), 20 + got.frame / 4);
        }
    }

    #[test]
    fn files_without_pictures_and_cut_short_ones_are_errors() {
        let empty = file_of(0, 25);
        let error = open(&CameraSpec::File(empty.path().into()), None, None, MediaClock::new()).err();
        assert!(matches!(error, Some(OpenError::Empty(_))));
        let cut = file_of(2, 200);
        let length = std::fs::metadata(cut.path()).expect("a file").len();
        cut.as_file().set_len(length - 1).expect("cut");
        let mut opened = open_file(&cut, None, None);
        let error = (0..3).find_map(|_| opened.source.next_frame().err()).expect("an error");
        assert!(matches!(error, SourceError::Gone { .. }), "{error}");
    }
}
