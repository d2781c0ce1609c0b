//! Text: fonts, layout and glyphs.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use cosmic_text::fontdb::{Database, Source};
use cosmic_text::{
    Align, Attrs, Buffer, Cursor, Ellipsize, EllipsizeHeightLimit, Family, FontSystem, Hinting, Metrics,
    Shaping, SwashCache, SwashContent, Weight, Wrap,
};

use super::paint::{Canvas, Colour};

/// Lays out and draws text, keeping what it made.
///
/// Latin, Greek, Cyrillic, Hebrew and Arabic letters come from fonts inside the program, so the window reads the same
/// on every machine and opens at once. The system's fonts (for emoji, Chinese and the rest) are looked for in the
/// background; see [`Self::poll_fonts`].
pub(crate) struct Text {
    fonts: FontSystem,
    glyphs: SwashCache,
    loading: Option<Receiver<FontSystem>>,
    /// Laid out texts by hash of text and style. When `fresh` is full it becomes `old`, and what was `old` goes: a
    /// bound on memory that keeps whatever is on the screen.
    fresh: HashMap<u64, Rc<Laid>>,
    old: HashMap<u64, Rc<Laid>>,
}

/// How a text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Style {
    /// Size in tenths of a pixel.
    pub(crate) size: u16,
    pub(crate) bold: bool,
    pub(crate) fold: Fold,
}

/// What happens to text that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fold {
    /// One line that ends in an ellipsis where it is wider than this.
    Cut(u16),
    /// Lines of this width, broken between words, and within words that are longer than a line.
    Wrap(u16),
}

/// A text with a place for each glyph.
pub(crate) struct Laid {
    text: String,
    style: Style,
    buffer: Buffer,
    /// Width of the widest line in pixels.
    pub(crate) width: i32,
    /// Height of all lines in pixels.
    pub(crate) height: i32,
}

impl Text {
    /// With the fonts of the program. `system` starts the search for those of the system.
    pub(crate) fn new(system: bool) -> Self {
        let locale = locale();
        let loading = system.then(|| load_system_fonts(locale.clone())).flatten();
        Self {
            fonts: FontSystem::new_with_locale_and_db(locale, own_fonts()),
            glyphs: SwashCache::new(),
            loading,
            fresh: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Takes over the system's fonts when they have been found. True means that text may look different now.
    pub(crate) fn poll_fonts(&mut self) -> bool {
        let Some(Ok(fonts)) = self.loading.as_ref().map(Receiver::try_recv) else { return false };
        self.loading = None;
        self.fonts = fonts;
        self.glyphs = SwashCache::new();
        self.fresh.clear();
        self.old.clear();
        true
    }

    /// Lays out `text`.
    pub(crate) fn lay(&mut self, text: &str, style: Style) -> Rc<Laid> {
        let mut hasher = DefaultHasher::new();
        (text, style).hash(&mut hasher);
        let key = hasher.finish();
        let same = |laid: &&Rc<Laid>| laid.text == text && laid.style == style;
        if let Some(laid) = self.fresh.get(&key).filter(same) {
            return Rc::clone(laid);
        }
        let laid = match self.old.get(&key).filter(same) {
            Some(laid) => Rc::clone(laid),
            None => Rc::new(Laid::new(&mut self.fonts, text, style)),
        };
        if self.fresh.len() >= KEPT_TEXTS {
            self.old = std::mem::take(&mut self.fresh);
        }
        self.fresh.insert(key, Rc::clone(&laid));
        laid
    }

    /// Draws with the top left corner of the first line at (`x`, `y`).
    pub(crate) fn draw(&mut self, canvas: &mut Canvas<'_>, laid: &Laid, x: i32, y: i32, colour: Colour) {
        if self.glyphs.image_cache.len() > KEPT_GLYPHS {
            self.glyphs.image_cache.clear();
        }
        let clip = canvas.clip();
        for run in laid.buffer.layout_runs() {
            let top = y + run.line_top as i32;
            // Accents and tall scripts may leave their line by as much again.
            if top > clip.bottom() + run.line_height as i32 || top + 2 * (run.line_height as i32) < clip.y {
                continue;
            }
            for glyph in run.glyphs {
                let place = glyph.physical((x as f32, y as f32 + run.line_y), 1.0);
                let Some(image) = self.glyphs.get_image(&mut self.fonts, place.cache_key) else { continue };
                let (left, top) = (place.x + image.placement.left, place.y - image.placement.top);
                stamp(canvas, (left, top), image, colour);
            }
        }
    }

    /// Lays out and draws one line, and returns its width.
    pub(crate) fn line(
        &mut self,
        canvas: &mut Canvas<'_>,
        text: &str,
        style: Style,
        at: (i32, i32),
        colour: Colour,
    ) -> i32 {
        let laid = self.lay(text, style);
        self.draw(canvas, &laid, at.0, at.1, colour);
        laid.width
    }
}

impl Style {
    /// One line, cut off at `width`.
    pub(crate) fn cut(size: u16, width: i32) -> Self {
        Self { size, bold: false, fold: Fold::Cut(width.clamp(0, i32::from(u16::MAX)) as u16) }
    }

    /// A paragraph, `width` wide.
    pub(crate) fn wrap(size: u16, width: i32) -> Self {
        Self { size, bold: false, fold: Fold::Wrap(width.clamp(0, i32::from(u16::MAX)) as u16) }
    }

    pub(crate) const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    /// Height of a line in whole pixels.
    pub(crate) const fn line_height(self) -> i32 {
        (self.size as i32 * 135 + 500) / 1000
    }
}

impl Laid {
    fn new(fonts: &mut FontSystem, text: &str, style: Style) -> Self {
        let metrics = Metrics::new(f32::from(style.size) / 10.0, style.line_height() as f32);
        let mut buffer = Buffer::new_empty(metrics);
        let weight = if style.bold { Weight::BOLD } else { Weight::NORMAL };
        let attrs = Attrs::new().family(Family::Name(OWN_FAMILY)).weight(weight);
        let (width, align) = match style.fold {
            Fold::Cut(width) => {
                buffer.set_wrap(Wrap::None);
                buffer.set_ellipsize(Ellipsize::End(EllipsizeHeightLimit::Lines(1)));
                (width, Some(Align::Left))
            }
            Fold::Wrap(width) => {
                buffer.set_wrap(Wrap::WordOrGlyph);
                (width, None)
            }
        };
        buffer.set_hinting(Hinting::Enabled);
        buffer.set_size(Some(f32::from(width)), None);
        // Controls have no glyph; a tab or line break within a line would move what follows.
        let one_line = matches!(style.fold, Fold::Cut(_));
        let shown: String =
            text.chars().map(|c| if c.is_control() && (one_line || c != '\n') { ' ' } else { c }).collect();
        buffer.set_text(&shown, &attrs, Shaping::Advanced, align);
        buffer.shape_until_scroll(fonts, false);
        let (width, height) = buffer
            .layout_runs()
            .fold((0_f32, 0_f32), |(w, h), run| (w.max(run.line_w), h.max(run.line_top + run.line_height)));
        Self {
            text: text.to_owned(),
            style,
            buffer,
            width: width.ceil() as i32,
            height: height.ceil() as i32,
        }
    }

    /// Where the cursor stands before byte `index`: left edge and top of its line.
    pub(crate) fn cursor(&self, index: usize) -> (i32, i32) {
        let (x, y) = self.buffer.cursor_position(&Cursor::new(0, index)).unwrap_or((0.0, 0.0));
        (x as i32, y as i32)
    }

    /// The byte before which the cursor goes when the point (`x`, `y`) is clicked.
    pub(crate) fn hit(&self, x: i32, y: i32) -> usize {
        self.buffer.hit(x as f32, y as f32).map_or(0, |c| c.index)
    }
}

/// Draws one glyph.
fn stamp(canvas: &mut Canvas<'_>, (left, top): (i32, i32), image: &cosmic_text::SwashImage, colour: Colour) {
    let width = image.placement.width as usize;
    if width == 0 {
        return;
    }
    match image.content {
        SwashContent::Mask => {
            for (y, row) in (top..).zip(image.data.chunks_exact(width)) {
                for (x, &alpha) in (left..).zip(row) {
                    canvas.blend(x, y, colour, alpha);
                }
            }
        }
        SwashContent::Color | SwashContent::SubpixelMask => {
            for (y, row) in (top..).zip(image.data.chunks_exact(width * 4)) {
                for (x, rgba) in (left..).zip(row.chunks_exact(4)) {
                    let own = u32::from_be_bytes([0, rgba[0], rgba[1], rgba[2]]);
                    canvas.blend(x, y, own, rgba[3]);
                }
            }
        }
    }
}

/// Searches for the system's fonts without holding up the window. `None` when no thread can be had.
fn load_system_fonts(locale: String) -> Option<Receiver<FontSystem>> {
    // One message is ever sent.
    let (found, loading) = sync_channel(1);
    let load = move || {
        let start = Instant::now();
        let mut fonts = own_fonts();
        fonts.load_system_fonts();
        tracing::debug!(
            faces = fonts.len(),
            ms = start.elapsed().as_millis() as u64,
            "fonts of the system found"
        );
        // The window may be gone; then nobody needs them.
        found.send(FontSystem::new_with_locale_and_db(locale, fonts)).ok();
    };
    std::thread::Builder::new().name("fonts".into()).spawn(load).ok().map(|_| loading)
}

fn own_fonts() -> Database {
    let mut fonts = Database::new();
    for font in [REGULAR, BOLD] {
        fonts.load_font_source(Source::Binary(Arc::new(font)));
    }
    for set in [Database::set_sans_serif_family, Database::set_serif_family, Database::set_monospace_family] {
        set(&mut fonts, OWN_FAMILY);
    }
    fonts
}

/// The language decides which of several Chinese, Japanese and Korean fonts is taken.
fn locale() -> String {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|v| std::env::var(v).ok().filter(|l| !l.is_empty()));
    let set =
        set.as_deref().and_then(|l| l.split(['.', '@']).next()).filter(|l| !matches!(*l, "C" | "POSIX"));
    set.unwrap_or("en_US").replace('_', "-")
}

/// DejaVu Sans covers Latin, Greek, Cyrillic, Hebrew, Arabic and many signs; its licence is beside it.
const REGULAR: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");
const BOLD: &[u8] = include_bytes!("../../assets/DejaVuSans-Bold.ttf");
const OWN_FAMILY: &str = "DejaVu Sans";
/// Texts kept in each of two generations: several screens of chat.
const KEPT_TEXTS: usize = 512;
/// Glyph pictures kept, some 300 bytes each.
const KEPT_GLYPHS: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_to_its_width() {
        let mut text = Text::new(false);
        let long = text.lay(&"Maximiliane ".repeat(9), Style::cut(130, 120));
        assert!(long.width <= 120 && long.width > 60, "{}", long.width);
        assert_eq!(long.height, Style::cut(130, 120).line_height());
    }

    #[test]
    fn words_wrap_and_words_longer_than_a_line_break() {
        let mut text = Text::new(false);
        let style = Style::wrap(140, 200);
        let one = text.lay("short", style).height;
        for long in ["many short words that need more than a line of it", &"x".repeat(400)] {
            let laid = text.lay(long, style);
            assert!(laid.height >= 2 * one && laid.width <= 200, "{} {}", laid.width, laid.height);
        }
    }

    #[test]
    fn any_text_can_be_laid_out_and_drawn() {
        let mut text = Text::new(false);
        let mut pixels = vec![0; 300 * 200];
        let strange = [
            "",
            " ",
            "\n\n",
            "\t\u{7}\0",
            "日本語のテキスト",
            "שלום עולם",
            "مرحبا بالعالم abc",
            "👩‍👩‍👧‍👦🇩🇪e\u{301}",
            "\u{202e}abc\u{202c}",
            "\u{feff}\u{200b}\u{ffff}\u{10ffff}",
            "a\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}",
        ];
        for s in strange {
            for width in [0, 1, 7, 200] {
                for style in [Style::wrap(140, width), Style::cut(110, width).bold()] {
                    let laid = text.lay(s, style);
                    text.draw(&mut Canvas::new(&mut pixels, (300, 200)), &laid, 10, 10, 0xff_ffff);
                    for (index, _) in s.char_indices() {
                        laid.cursor(index);
                    }
                    laid.hit(50, 5);
                }
            }
        }
    }

    #[test]
    fn the_cursor_moves_right_with_the_text_and_clicks_find_it_again() {
        let mut text = Text::new(false);
        let laid = text.lay("hello world", Style::wrap(140, 400));
        let places: Vec<i32> = (0..=11).map(|i| laid.cursor(i).0).collect();
        assert!(places.windows(2).all(|w| w[0] < w[1]), "{places:?}");
        for (i, x) in places.iter().enumerate() {
            assert_eq!(laid.hit(x + 1, 4), i);
        }
    }
}
