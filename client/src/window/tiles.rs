//! One tile: card, picture or initials, caption.

use unicode_segmentation::UnicodeSegmentation;

use super::blit::{Blit, Shape};
use super::icons::{self, Icon};
use super::layout::{CAPTION_HEIGHT, Rect, TilePlace};
use super::paint::{Canvas, colours};
use super::scene::Tile;
use super::text::{Style, Text};

/// What is on the screen in one tile's place, so that only what changed is painted.
#[derive(Default)]
pub(crate) struct Painted {
    look: Option<Look>,
    /// Version of the picture in the pixels.
    version: Option<u64>,
    blit: Option<Blit>,
}

/// Everything of a tile but its picture.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    id: u64,
    name: String,
    muted: bool,
    speaking: bool,
    me: bool,
    picture: bool,
}

/// What a tile's painting changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The area painted.
    pub(crate) area: Option<Rect>,
    /// The picture is among it.
    pub(crate) picture: bool,
}

impl Painted {
    /// The pixels are lost: the next update paints everything.
    pub(crate) fn forget(&mut self) {
        self.look = None;
    }

    /// Brings the tile's place up to date.
    pub(crate) fn update(
        &mut self,
        canvas: &mut Canvas<'_>,
        text: &mut Text,
        place: &TilePlace,
        tile: &Tile,
    ) -> Change {
        let picture = tile.picture.as_deref().filter(|_| !tile.camera_off);
        let mut change = Change::default();
        if !self.look.as_ref().is_some_and(|l| l.shows(tile)) {
            self.look = Some(Look::of(tile));
            self.version = None;
            paint_card(canvas, text, place, tile);
            change.area = Some(place.card);
        }
        let Some(picture) = picture else { return change };
        if self.version == Some(tile.version) {
            return change;
        }
        self.version = Some(tile.version);
        let at = place.picture.fit(picture.width() as i32, picture.height() as i32);
        let to = (at.w as usize, at.h as usize);
        let shape = Shape { from: (picture.width(), picture.height()), to, mirrored: tile.me };
        let blit = match &mut self.blit {
            Some(blit) if blit.shape() == shape => blit,
            stale => {
                canvas.fill(place.picture, colours::LETTERBOX);
                stale.insert(Blit::new(shape))
            }
        };
        blit.paint(canvas, at, picture);
        Change { area: change.area.or(Some(place.picture)), picture: true }
    }
}

impl Look {
    fn of(tile: &Tile) -> Self {
        let Tile { id, muted, speaking, me, .. } = *tile;
        Self {
            id,
            name: tile.name.clone(),
            muted,
            speaking,
            me,
            picture: tile.picture.is_some() && !tile.camera_off,
        }
    }

    /// Like comparing with [`Self::of`], without the copy of the name.
    fn shows(&self, tile: &Tile) -> bool {
        let picture = tile.picture.is_some() && !tile.camera_off;
        let now = (tile.id, tile.muted, tile.speaking, tile.me, picture);
        (self.id, self.muted, self.speaking, self.me, self.picture) == now && self.name == tile.name
    }
}

/// The card with its caption, and initials unless a picture will cover them.
fn paint_card(canvas: &mut Canvas<'_>, text: &mut Text, place: &TilePlace, tile: &Tile) {
    let canvas = &mut canvas.clipped(place.card);
    canvas.fill(place.card, colours::BACKGROUND);
    canvas.rounded(place.card, RADIUS, colours::CARD);
    if tile.speaking {
        canvas.ring(place.card, RADIUS, 3, colours::GREEN);
    }
    if tile.picture.is_none() || tile.camera_off {
        paint_initials(canvas, text, place.picture, &tile.name);
    } else {
        canvas.fill(place.picture, colours::LETTERBOX);
    }
    paint_caption(canvas, text, place.caption, tile);
}

fn paint_caption(canvas: &mut Canvas<'_>, text: &mut Text, area: Rect, tile: &Tile) {
    if area.is_empty() {
        return;
    }
    let large = area.h >= CAPTION_HEIGHT;
    let mut left = area.x;
    if tile.muted {
        let side = if large { 16 } else { 12 };
        let square = Rect { x: left, y: area.y + (area.h - side) / 2, w: side, h: side };
        icons::draw(canvas, square, Icon::Microphone, true, colours::MUTED);
        left += side + 5;
    }
    let name = if tile.me { format!("{} (you)", tile.name) } else { tile.name.clone() };
    let style = Style::cut(if large { 130 } else { 100 }, area.right() - left);
    let laid = text.lay(&name, if tile.speaking { style.bold() } else { style });
    text.draw(canvas, &laid, left, area.y + (area.h - laid.height) / 2, colours::TEXT);
}

fn paint_initials(canvas: &mut Canvas<'_>, text: &mut Text, area: Rect, name: &str) {
    canvas.fill(area, colours::NO_PICTURE);
    let radius = area.w.min(area.h) * 3 / 10;
    if radius < 4 {
        return;
    }
    let (x, y) = (area.x + area.w / 2, area.y + area.h / 2);
    canvas.disc(x as f32, y as f32, radius as f32, colours::of_name(name));
    let laid = text.lay(&initials(name), Style::cut((radius * 8) as u16, area.w).bold());
    text.draw(canvas, &laid, x - laid.width / 2, y - laid.height / 2, colours::BACKGROUND);
}

/// First characters of the first and the last word.
fn initials(name: &str) -> String {
    let firsts: Vec<&str> = name.split_whitespace().filter_map(|w| w.graphemes(true).next()).collect();
    let chosen = match firsts.as_slice() {
        [] => vec!["?"],
        [one] => vec![*one],
        [first, .., last] => vec![*first, *last],
    };
    chosen.concat().to_uppercase()
}

const RADIUS: i32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initials_come_from_first_and_last_word() {
        for (name, want) in [
            ("ann", "A"),
            ("Ann Lee", "AL"),
            ("a b c", "AC"),
            ("", "?"),
            ("日本 太郎", "日太"),
            ("🇩🇪x", "🇩🇪"),
        ] {
            assert_eq!(initials(name), want);
        }
    }
}
