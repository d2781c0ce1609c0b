//! Pictures of a display.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, ensure};

/// A picture in RGB, 8 bits each, rows from the top without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

impl Image {
    /// Red, green and blue of a pixel; black outside of the picture.
    #[must_use]
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        if x >= self.width || y >= self.height {
            return [0; 3];
        }
        let at = 3 * (y * self.width + x);
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    /// The part at (`x`, `y`) of at most this size; what lies outside of the picture is left away.
    #[must_use]
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Self {
        let (x, y) = (x.min(self.width), y.min(self.height));
        let (width, height) = (width.min(self.width - x), height.min(self.height - y));
        let row = |row: usize| &self.rgb[3 * (row * self.width + x)..][..3 * width];
        Self { width, height, rgb: (y..y + height).flat_map(row).copied().collect() }
    }

    /// Writes the picture as a PNG file.
    pub fn save_png(&self, path: &Path) -> anyhow::Result<()> {
        ensure!(self.rgb.len() == 3 * self.width * self.height, "the picture has not the size it says");
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut encoder =
            png::Encoder::new(BufWriter::new(file), u32::try_from(self.width)?, u32::try_from(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        writer.finish().with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_picture_is_cut_out_and_saved() {
        let rgb = (0..4 * 3).flat_map(|i| [i, 100 + i, 200]).collect();
        let image = Image { width: 4, height: 3, rgb };
        let part = image.crop(2, 1, 10, 1);
        assert_eq!(part, Image { width: 2, height: 1, rgb: vec![6, 106, 200, 7, 107, 200] });
        assert_eq!(image.pixel(3, 2), [11, 111, 200]);
        assert_eq!(image.pixel(4, 0), [0; 3]);
        assert!(image.crop(9, 9, 1, 1).rgb.is_empty());

        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("part.png");
        part.save_png(&path).expect("saved");
        let file = std::io::BufReader::new(File::open(&path).expect("opened"));
        let mut reader = png::Decoder::new(file).read_info().expect("a PNG file");
        let mut read = vec![0; reader.output_buffer_size().expect("a size")];
        reader.next_frame(&mut read).expect("a picture");
        assert_eq!(read, part.rgb);
    }
}
