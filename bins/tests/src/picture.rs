//! Pictures: what a window shows, compared and saved.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Left edge.
    pub x: i32,
    /// Upper edge.
    pub y: i32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// An RGB picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}×{})", self.width, self.height)
    }
}

impl Picture {
    /// Takes the pixels of a 32-bit little-endian X image.
    pub fn from_bgrx(width: u32, height: u32, bgrx: &[u8]) -> Self {
        let rgb = bgrx.chunks_exact(4).flat_map(|p| [p[2], p[1], p[0]]).collect();
        Self { width, height, rgb }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixel at a place, when it is inside.
    pub fn pixel(&self, x: i32, y: i32) -> Option<[u8; 3]> {
        let (x, y) = (u32::try_from(x).ok()?, u32::try_from(y).ok()?);
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = (y as usize * self.width as usize + x as usize) * 3;
        self.rgb.get(at..at + 3).and_then(|p| p.try_into().ok())
    }

    /// Share (0 to 1) of the pixels of `area` that are the same in both pictures; what is outside of either counts
    /// as different.
    pub fn likeness(&self, other: &Picture, area: Area) -> f64 {
        let mut same = 0u64;
        for y in area.y..area.y + area.height as i32 {
            for x in area.x..area.x + area.width as i32 {
                same += u64::from(self.pixel(x, y).is_some_and(|p| other.pixel(x, y) == Some(p)));
            }
        }
        same as f64 / f64::from(area.width.max(1)) / f64::from(area.height.max(1))
    }

    /// Number of different colours in `area`.
    pub fn colours(&self, area: Area) -> usize {
        let mut seen = std::collections::HashSet::new();
        for y in area.y..area.y + area.height as i32 {
            for x in area.x..area.x + area.width as i32 {
                seen.extend(self.pixel(x, y));
            }
        }
        seen.len()
    }

    /// Writes a PNG file.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().context("cannot write the PNG header")?;
        writer.write_image_data(&self.rgb).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeness_counts_equal_pixels_and_nothing_outside() {
        let a = Picture::from_bgrx(2, 1, &[1, 2, 3, 0, 4, 5, 6, 0]);
        let b = Picture::from_bgrx(2, 1, &[1, 2, 3, 0, 9, 9, 9, 0]);
        assert_eq!(a.pixel(0, 0), Some([3, 2, 1]));
        assert_eq!(a.likeness(&a, Area { x: 0, y: 0, width: 2, height: 1 }), 1.0);
        assert_eq!(a.likeness(&b, Area { x: 0, y: 0, width: 2, height: 1 }), 0.5);
        assert_eq!(a.likeness(&a, Area { x: 0, y: 0, width: 2, height: 2 }), 0.5);
        assert_eq!(a.colours(Area { x: 0, y: 0, width: 2, height: 1 }), 2);
    }
}
