//! The picture format that every source, codec and display shares.

/// A picture in planar YUV 4:2:0 with 8 bits a sample, BT.601 matrix, limited range (16 to 235 for luma).
///
/// Planes have no padding: luma has `width` bytes a row, each chroma plane [`Self::chroma_width`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    planes: [Vec<u8>; 3],
}

impl Picture {
    /// A black picture. Both sides must be between 1 and [`MAX_SIDE`]; they are clamped to that.
    #[must_use]
    pub fn black(width: usize, height: usize) -> Self {
        let (width, height) = (width.clamp(1, MAX_SIDE), height.clamp(1, MAX_SIDE));
        let chroma = width.div_ceil(2) * height.div_ceil(2);
        Self { width, height, planes: [vec![16; width * height], vec![128; chroma], vec![128; chroma]] }
    }

    /// Width in pixels.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub const fn height(&self) -> usize {
        self.height
    }

    /// Bytes in a row of a chroma plane.
    #[must_use]
    pub const fn chroma_width(&self) -> usize {
        self.width.div_ceil(2)
    }

    /// Rows of a chroma plane.
    #[must_use]
    pub const fn chroma_height(&self) -> usize {
        self.height.div_ceil(2)
    }

    /// The planes Y, U, V.
    #[must_use]
    pub const fn planes(&self) -> &[Vec<u8>; 3] {
        &self.planes
    }

    /// The planes Y, U, V, to be painted. Their lengths stay.
    pub fn planes_mut(&mut self) -> [&mut [u8]; 3] {
        self.planes.each_mut().map(Vec::as_mut_slice)
    }
}

/// Longest side of a picture: what AV1 level 5 decoders must take, and a bound on what a peer makes us allocate.
pub const MAX_SIDE: usize = 4096;
