//! YUV4MPEG2 files: raw pictures that every video tool reads and writes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::convert;
use super::scale;
use crate::picture::{MAX_SIDE, Picture};

/// Reads the pictures of a file in 4:2:0 with 8 bits, again and again if wished.
pub struct Reader {
    path: PathBuf,
    input: BufReader<File>,
    header: Header,
    first_frame: u64,
}

impl Reader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The file cannot be read, is no YUV4MPEG2, or has a size, rate or colour format that is not handled.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Y4mError> {
        let path = path.as_ref().to_owned();
        let io = |e| Y4mError::Io { path: path.clone(), why: e };
        let mut input = BufReader::with_capacity(BUFFER, File::open(&path).map_err(io)?);
        let line = read_line(&mut input).map_err(io)?;
        let header = Header::parse(&line).map_err(|what| Y4mError::Header { path: path.clone(), what })?;
        let first_frame = line.len() as u64 + 1;
        Ok(Self { path, input, header, first_frame })
    }

    /// Width in pixels.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.header.width
    }

    /// Height in pixels.
    #[must_use]
    pub const fn height(&self) -> usize {
        self.header.height
    }

    /// Pictures a second as a fraction, both parts above 0.
    #[must_use]
    pub const fn rate(&self) -> (u32, u32) {
        self.header.rate
    }

    /// The next picture, or none at the end.
    ///
    /// # Errors
    /// The file cannot be read or ends within a picture.
    pub fn read(&mut self) -> Result<Option<Picture>, Y4mError> {
        let io = |e| Y4mError::Io { path: self.path.clone(), why: e };
        if self.input.fill_buf().map_err(io)?.is_empty() {
            return Ok(None);
        }
        let line = read_line(&mut self.input).map_err(io)?;
        if line != b"FRAME" && !line.starts_with(b"FRAME ") {
            return Err(Y4mError::Damaged(self.path.clone()));
        }
        let mut picture = Picture::black(self.header.width, self.header.height);
        for plane in picture.planes_mut() {
            self.input.read_exact(plane).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => Y4mError::Damaged(self.path.clone()),
                _ => io(e),
            })?;
        }
        if self.header.full_range {
            convert::limit_range(&mut picture);
        }
        Ok(Some(picture))
    }

    /// Goes back to the first picture.
    ///
    /// # Errors
    /// The file is not one that can be read twice.
    pub fn rewind(&mut self) -> Result<(), Y4mError> {
        let to = SeekFrom::Start(self.first_frame);
        self.input.seek(to).map(drop).map_err(|e| Y4mError::Io { path: self.path.clone(), why: e })
    }
}

/// Writes pictures to a file, all in one size.
pub struct Writer {
    path: PathBuf,
    output: BufWriter<File>,
    width: usize,
    height: usize,
}

impl Writer {
    /// Creates (or empties) a file for pictures of `width` x `height` at a nominal `fps`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: impl AsRef<Path>, width: usize, height: usize, fps: u32) -> Result<Self, Y4mError> {
        let path = path.as_ref().to_owned();
        let io = |e| Y4mError::Io { path: path.clone(), why: e };
        let mut output = BufWriter::with_capacity(BUFFER, File::create(&path).map_err(io)?);
        writeln!(output, "YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg XCOLORRANGE=LIMITED")
            .map_err(io)?;
        Ok(Self { path, output, width, height })
    }

    /// Appends a picture, scaled (with its aspect ratio kept) when it has another size.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn write(&mut self, picture: &Picture) -> Result<(), Y4mError> {
        if (picture.width(), picture.height()) != (self.width, self.height) {
            return self.append(&scale::scale(picture, self.width, self.height));
        }
        self.append(picture)
    }

    /// Hands everything written so far to the system.
    ///
    /// # Errors
    /// The disk is full or gone. Without this call, what is left is written on drop and an error is lost.
    pub fn flush(&mut self) -> Result<(), Y4mError> {
        self.output.flush().map_err(|e| Y4mError::Io { path: self.path.clone(), why: e })
    }

    fn append(&mut self, picture: &Picture) -> Result<(), Y4mError> {
        let mut run = || {
            self.output.write_all(b"FRAME\n")?;
            picture.planes().iter().try_for_each(|plane| self.output.write_all(plane))
        };
        run().map_err(|e| Y4mError::Io { path: self.path.clone(), why: e })
    }
}

struct Header {
    width: usize,
    height: usize,
    rate: (u32, u32),
    full_range: bool,
}

impl Header {
    /// Reads the first line of a file; the error says what is wrong with it.
    fn parse(line: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(line).map_err(|_| "is not text".to_owned())?;
        let mut words = text.split(' ');
        if words.next() != Some("YUV4MPEG2") {
            return Err("does not begin with YUV4MPEG2".to_owned());
        }
        let (mut width, mut height, mut rate, mut full_range) = (None, None, None, false);
        for word in words.filter(|word| !word.is_empty()) {
            let (tag, value) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
            match tag {
                "W" => width = value.parse().ok(),
                "H" => height = value.parse().ok(),
                "F" => rate = parse_rate(value),
                "C" if !COLOURS.contains(&value) => {
                    return Err(format!("has colour format '{value}', use 420 with 8 bits (C420jpeg)"));
                }
                "I" if value != "p" && value != "?" => {
                    return Err(format!("is interlaced ('I{value}'), use progressive pictures"));
                }
                "X" => full_range |= value == "COLORRANGE=FULL",
                _ => {}
            }
        }
        let side = |side: Option<usize>| side.filter(|n| (1..=MAX_SIDE).contains(n));
        let (Some(width), Some(height)) = (side(width), side(height)) else {
            return Err(format!("has no size from 1x1 to {MAX_SIDE}x{MAX_SIDE} in its header"));
        };
        let rate = rate.ok_or_else(|| "has no frame rate from 1 to 240 in its header".to_owned())?;
        Ok(Self { width, height, rate, full_range })
    }
}

fn parse_rate(text: &str) -> Option<(u32, u32)> {
    let (n, d) = text.split_once(':')?;
    let (n, d) = (n.parse::<u32>().ok()?, d.parse::<u32>().ok()?);
    let sane = d > 0 && n >= d && u64::from(n) <= u64::from(d) * u64::from(super::encoder::MAX_FPS);
    sane.then_some((n, d))
}

/// Reads up to a newline, which is not returned, but at most [`MAX_LINE`] bytes.
fn read_line(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.pop_if(|last| *last == b'\n').is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a header line does not end"));
    }
    Ok(line)
}

/// Why a file cannot be played or written.
#[derive(Debug, Error)]
pub enum Y4mError {
    /// The system said no.
    #[error("cannot use {}: {why}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The first line is not one we can work with.
    #[error("{} {what}", .path.display())]
    Header {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A picture is cut short or does not start where it should.
    #[error("{} ends within a picture or is damaged: write it anew", .0.display())]
    Damaged(PathBuf),
}

/// Names of 4:2:0 with 8 bits. They differ in where chroma samples lie, by half a pixel, which nobody sees. A file that
/// names none is of this kind too.
const COLOURS: &[&str] = &["420", "420jpeg", "420mpeg2", "420paldv"];
/// A header line is some 80 bytes; more than this is no header.
const MAX_LINE: u64 = 1024;
/// A few pictures' rows at once; larger planes bypass it.
const BUFFER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), content).expect("written");
        file
    }

    fn open_error(content: &[u8]) -> String {
        Reader::open(file(content).path()).err().expect("an error").to_string()
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let file = file(b"");
        let mut picture = Picture::black(5, 3);
        for (n, plane) in picture.planes_mut().into_iter().enumerate() {
            plane.iter_mut().enumerate().for_each(|(i, s)| *s = (n * 50 + i) as u8);
        }
        let mut writer = Writer::create(file.path(), 5, 3, 25).expect("created");
        writer.write(&picture).expect("written");
        writer.write(&Picture::black(10, 6)).expect("scaled and written");
        writer.flush().expect("flushed");

        let mut reader = Reader::open(file.path()).expect("opened");
        assert_eq!((reader.width(), reader.height(), reader.rate()), (5, 3, (25, 1)));
        for _ in 0..2 {
            assert_eq!(reader.read().expect("read"), Some(picture.clone()));
            assert_eq!(reader.read().expect("read"), Some(Picture::black(5, 3)));
            assert_eq!(reader.read().expect("the end"), None);
            reader.rewind().expect("rewound");
        }
    }

    #[test]
    fn all_names_of_420_are_read() {
        for colour in ["", " C420", " C420jpeg", " C420mpeg2 Ip", " C420paldv A1:1 XYSCSS=420PALDV"] {
            let mut content = format!("YUV4MPEG2 W2 H2 F30000:1001{colour}\nFRAME Ip\n").into_bytes();
            content.extend([20, 30, 40, 50, 60, 70]);
            let file = file(&content);
            let mut reader = Reader::open(file.path()).expect("opened");
            assert_eq!(reader.rate(), (30_000, 1001));
            let picture = reader.read().expect("read").expect("a picture");
            assert_eq!(picture.planes(), &[vec![20, 30, 40, 50], vec![60], vec![70]]);
        }
        let content = b"YUV4MPEG2 W2 H2 F1:1 XCOLORRANGE=FULL\nFRAME\n\x00\xff\x00\xff\x80\x80";
        let file = file(content);
        let picture = Reader::open(file.path()).and_then(|mut r| r.read()).expect("read").expect("a picture");
        assert_eq!(picture.planes()[0], [16, 235, 16, 235]);
    }

    #[test]
    fn headers_that_make_no_sense_say_why() {
        let has = |content: &str, part: &str| {
            let error = open_error(content.as_bytes());
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        };
        has("", "does not end");
        has("RIFF....\n", "does not begin with YUV4MPEG2");
        has("YUV4MPEG2 W2 H2 F30:1", "does not end");
        has("YUV4MPEG2 H2 F30:1\n", "has no size");
        has("YUV4MPEG2 W0 H2 F30:1\n", "has no size");
        has("YUV4MPEG2 W2 H99999999999999999999 F30:1\n", "has no size");
        has("YUV4MPEG2 W2 H2\n", "has no frame rate");
        has("YUV4MPEG2 W2 H2 F30:0\n", "has no frame rate");
        has("YUV4MPEG2 W2 H2 F0:0\n", "has no frame rate");
        has("YUV4MPEG2 W2 H2 F1000000:1\n", "has no frame rate");
        has("YUV4MPEG2 W2 H2 F30:1 C444\n", "colour format '444'");
        has("YUV4MPEG2 W2 H2 F30:1 C420p10\n", "colour format '420p10'");
        has("YUV4MPEG2 W2 H2 F30:1 It\n", "interlaced");
        has("YUV4MPEG2 W\u{fc}2 H2 F30:1\n", "has no size");
        assert!(open_error(b"YUV4MPEG2 W\xff\n").contains("is not text"));
        assert!(open_error(&[b'Y'; 5000]).contains("does not end"));
        assert!(
            Reader::open("/no/such/file.y4m")
                .err()
                .expect("an error")
                .to_string()
                .contains("/no/such/file.y4m")
        );
    }

    #[test]
    fn truncated_pictures_are_errors() {
        let whole = b"YUV4MPEG2 W2 H2 F30:1\nFRAME\n\x10\x10\x10\x10\x80\x80";
        for length in 23..whole.len() {
            let file = file(&whole[..length]);
            let error = Reader::open(file.path()).expect("opened").read().expect_err("cut short");
            assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
        }
        let file = file(b"YUV4MPEG2 W2 H2 F30:1\nFRAMES\n\x10\x10\x10\x10\x80\x80");
        assert!(Reader::open(file.path()).expect("opened").read().is_err());
    }
}
