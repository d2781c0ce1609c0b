//! Where everything goes: a pure function from the window's size to rectangles.

/// An area of the window in pixels; `w` and `h` are never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) w: i32,
    pub(crate) h: i32,
}

/// What wants a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Width and height of the window.
    pub(crate) size: (i32, i32),
    /// Number of tiles.
    pub(crate) tiles: usize,
    /// Which of them is one's own.
    pub(crate) me: Option<usize>,
    pub(crate) banner: bool,
    pub(crate) chat: bool,
    /// Height of the statistics' text; 0 when they are hidden.
    pub(crate) statistics_height: i32,
    /// Height of the text being typed.
    pub(crate) input_height: i32,
}

/// The rectangles. None overlap (the parts of a tile lie within its card), all lie within the window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) window: Rect,
    pub(crate) banner: Option<Rect>,
    /// One per tile, in their order.
    pub(crate) tiles: Vec<TilePlace>,
    pub(crate) statistics: Option<Rect>,
    /// Messages.
    pub(crate) messages: Option<Rect>,
    /// Box of the text being typed.
    pub(crate) input: Option<Rect>,
    pub(crate) bar: Rect,
}

/// The parts of a tile. The caption lies below the picture, so that nothing ever covers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TilePlace {
    pub(crate) card: Rect,
    pub(crate) picture: Rect,
    pub(crate) caption: Rect,
}

impl Layout {
    pub(crate) fn new(wanted: &Wanted) -> Self {
        let window = Rect { x: 0, y: 0, w: wanted.size.0.max(0), h: wanted.size.1.max(0) };
        let (mut rest, bar) = window.split_bottom(BAR_HEIGHT.min(window.h / 3));
        let banner = wanted.banner.then(|| rest.take_top(BANNER_HEIGHT.min(rest.h / 4)));
        let mut layout = Self { window, banner, bar, ..Self::default() };

        let side_wanted = wanted.chat || wanted.statistics_height > 0;
        let beside = rest.w >= SIDE_BY_SIDE_WIDTH;
        let (stage, side) = match (side_wanted, beside) {
            (false, _) => (rest, None),
            (true, true) => {
                let width = (rest.w * 28 / 100).clamp(PANEL_MIN_WIDTH, PANEL_MAX_WIDTH);
                let (stage, side) = rest.split_right(width);
                (stage, Some(side))
            }
            (true, false) => {
                let (stage, side) = rest.split_bottom(rest.h * 55 / 100);
                (stage, Some(side))
            }
        };
        let corner = side.and_then(|mut side| {
            let inside = side.w - 2 * GAP;
            let own_height = card_height(inside, CAPTION_HEIGHT);
            let kept = statistics_panel(wanted) + if wanted.chat { CHAT_MIN_HEIGHT } else { 0 };
            let own = beside && wanted.tiles > 1 && side.h - own_height - GAP >= kept;
            let place = wanted.me.filter(|_| own).map(|me| {
                let card = side.take_top(own_height + GAP).inset(GAP, 0);
                (me, tile_place(Rect { y: card.y + GAP, h: card.h - GAP, ..card }, CAPTION_HEIGHT))
            });
            layout.fill_side(side, wanted);
            place
        });
        let in_grid = wanted.tiles - usize::from(corner.is_some());
        layout.tiles = grid(stage, in_grid);
        if let Some((me, place)) = corner {
            layout.tiles.insert(me.min(in_grid), place);
        }
        layout
    }

    fn fill_side(&mut self, mut side: Rect, wanted: &Wanted) {
        if wanted.statistics_height > 0 {
            let height = if wanted.chat { statistics_panel(wanted).min(side.h / 2) } else { side.h };
            self.statistics = Some(side.take_top(height));
        }
        if wanted.chat {
            let input = (wanted.input_height + 2 * INPUT_PADDING + 2 * GAP).min(side.h / 2);
            let (messages, input) = side.split_bottom(input);
            (self.messages, self.input) = (Some(messages), Some(input));
        }
    }
}

impl Rect {
    pub(crate) const fn right(self) -> i32 {
        self.x + self.w
    }

    pub(crate) const fn bottom(self) -> i32 {
        self.y + self.h
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.w <= 0 || self.h <= 0
    }

    pub(crate) const fn contains(self, x: i32, y: i32) -> bool {
        x >= self.x && y >= self.y && x < self.right() && y < self.bottom()
    }

    /// The part that both share; empty when there is none.
    pub(crate) fn intersect(self, other: Self) -> Self {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let (right, bottom) = (self.right().min(other.right()), self.bottom().min(other.bottom()));
        Self { x, y, w: (right - x).max(0), h: (bottom - y).max(0) }
    }

    /// Smaller by `dx` on the left and right and by `dy` above and below.
    pub(crate) fn inset(self, dx: i32, dy: i32) -> Self {
        let (dx, dy) = (dx.min(self.w / 2), dy.min(self.h / 2));
        Self { x: self.x + dx, y: self.y + dy, w: self.w - 2 * dx, h: self.h - 2 * dy }
    }

    /// Cuts `height` off the top and returns it.
    pub(crate) fn take_top(&mut self, height: i32) -> Self {
        let height = height.clamp(0, self.h);
        let top = Self { h: height, ..*self };
        *self = Self { y: self.y + height, h: self.h - height, ..*self };
        top
    }

    /// What is left, and `height` at the bottom.
    pub(crate) fn split_bottom(mut self, height: i32) -> (Self, Self) {
        let top = self.take_top(self.h - height.clamp(0, self.h));
        (top, self)
    }

    /// What is left, and `width` at the right.
    pub(crate) fn split_right(self, width: i32) -> (Self, Self) {
        let width = width.clamp(0, self.w);
        (Self { w: self.w - width, ..self }, Self { x: self.right() - width, w: width, ..self })
    }

    /// The largest rectangle of the given shape within this one, centred.
    pub(crate) fn fit(self, width: i32, height: i32) -> Self {
        if self.is_empty() || width <= 0 || height <= 0 {
            return Self { w: 0, h: 0, ..self };
        }
        let (w, h) = (i64::from(width), i64::from(height));
        let scaled = (i64::from(self.h) * w / h).min(i64::from(self.w)).max(1) as i32;
        let tall = (i64::from(self.w) * h / w).min(i64::from(self.h)).max(1) as i32;
        Self { x: self.x + (self.w - scaled) / 2, y: self.y + (self.h - tall) / 2, w: scaled, h: tall }
    }
}

/// Lays out `count` equal cards in the number of columns that gives the largest 16:9 pictures. The last row is centred.
fn grid(area: Rect, count: usize) -> Vec<TilePlace> {
    let Ok(count @ 1..) = i32::try_from(count) else { return Vec::new() };
    let mut caption = CAPTION_HEIGHT;
    let mut best = best_columns(area, count, caption);
    for smaller in [CAPTION_SMALL, 0] {
        if best.1 < caption * MIN_PICTURE_WIDTHS {
            caption = smaller;
            best = best_columns(area, count, caption);
        }
    }
    let (columns, picture) = best;
    let (w, h) = (picture + 2 * FRAME, card_height(picture + 2 * FRAME, caption));
    let rows = (count + columns - 1) / columns;
    let gap = gap_of(picture);
    let top = area.y + (area.h - rows * h - (rows - 1) * gap) / 2;
    (0..count)
        .map(|i| {
            let row = i / columns;
            let in_row = columns.min(count - row * columns);
            let left = area.x + (area.w - in_row * w - (in_row - 1) * gap) / 2;
            let card = Rect { x: left + (i % columns) * (w + gap), y: top + row * (h + gap), w, h };
            let card = card.intersect(area);
            if picture < 1 { TilePlace { card, ..TilePlace::default() } } else { tile_place(card, caption) }
        })
        .collect()
}

/// The number of columns and the picture width that it gives.
fn best_columns(area: Rect, count: i32, caption: i32) -> (i32, i32) {
    let width = |columns: i32| {
        let rows = (count + columns - 1) / columns;
        let by_width = (area.w - (columns + 1) * GAP) / columns - 2 * FRAME;
        let by_height = ((area.h - (rows + 1) * GAP) / rows - 2 * FRAME - caption) * 16 / 9;
        by_width.min(by_height).max(0)
    };
    // Of two equal widths the one with fewer columns has fewer holes in its last row.
    (1..=count).map(|c| (c, width(c))).fold((1, -1), |best, now| if now.1 > best.1 { now } else { best })
}

/// Pictures too small to see need no gaps, which may not fit either.
const fn gap_of(picture: i32) -> i32 {
    if picture < 1 { 0 } else { GAP }
}

/// The height of a card that is `width` wide.
const fn card_height(width: i32, caption: i32) -> i32 {
    (width - 2 * FRAME) * 9 / 16 + 2 * FRAME + caption
}

fn tile_place(card: Rect, caption: i32) -> TilePlace {
    let (picture, strip) = card.inset(FRAME, FRAME).split_bottom(caption);
    TilePlace { card, picture, caption: strip.inset(4.min(strip.w / 8), 0) }
}

const fn statistics_panel(wanted: &Wanted) -> i32 {
    if wanted.statistics_height > 0 { wanted.statistics_height + 2 * GAP + 2 * INPUT_PADDING } else { 0 }
}

/// Space between things.
pub(crate) const GAP: i32 = 10;
/// Space between a card's edge and its picture: room for the green frame of who speaks.
pub(crate) const FRAME: i32 = 4;
/// A line of 13 px text with some air.
pub(crate) const CAPTION_HEIGHT: i32 = 26;
/// A line of 10 px text, for small tiles.
pub(crate) const CAPTION_SMALL: i32 = 16;
/// Below this many caption heights of picture width a caption would be more than a quarter of the card.
const MIN_PICTURE_WIDTHS: i32 = 5;
/// Buttons of 36 px with a margin.
const BAR_HEIGHT: i32 = 56;
const BANNER_HEIGHT: i32 = 32;
/// Space between the edge of the input box and its text.
pub(crate) const INPUT_PADDING: i32 = 9;
/// From this width on the panel stands beside the tiles, below it under them.
const SIDE_BY_SIDE_WIDTH: i32 = 620;
/// The narrowest panel that fits some 30 characters a line, and the widest that reads well.
const PANEL_MIN_WIDTH: i32 = 240;
const PANEL_MAX_WIDTH: i32 = 380;
/// Less chat than this is not worth moving one's own tile out of the grid.
const CHAT_MIN_HEIGHT: i32 = 220;

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes from nothing to a large screen, with awkward ones between.
    const SIZES: [(i32, i32); 14] = [
        (0, 0),
        (1, 1),
        (7, 300),
        (300, 7),
        (97, 61),
        (240, 180),
        (320, 800),
        (499, 501),
        (641, 359),
        (960, 540),
        (1280, 720),
        (1601, 999),
        (3840, 2160),
        (4000, 300),
    ];

    fn all() -> impl Iterator<Item = Wanted> {
        SIZES.into_iter().flat_map(|size| {
            (0..=60usize).flat_map(move |tiles| {
                (0..16).map(move |bits| Wanted {
                    size,
                    tiles,
                    me: (bits & 1 > 0).then(|| tiles.saturating_sub(1)),
                    banner: bits & 2 > 0,
                    chat: bits & 4 > 0,
                    statistics_height: if bits & 8 > 0 { 130 } else { 0 },
                    input_height: 20,
                })
            })
        })
    }

    fn inside(outer: Rect, r: Rect) -> bool {
        r.w >= 0 && r.h >= 0 && (r.is_empty() || outer.intersect(r) == r)
    }

    #[test]
    fn nothing_overlaps_and_nothing_leaves_the_window() {
        for wanted in all() {
            let l = Layout::new(&wanted);
            assert_eq!(l.tiles.len(), wanted.tiles, "{wanted:?}");
            let mut areas: Vec<Rect> = l.tiles.iter().map(|t| t.card).collect();
            areas.extend([l.banner, l.statistics, l.messages, l.input, Some(l.bar)].into_iter().flatten());
            for (i, a) in areas.iter().enumerate() {
                assert!(inside(l.window, *a), "{a:?} leaves the window: {wanted:?}");
                assert!(areas[..i].iter().all(|b| a.intersect(*b).is_empty()), "{a:?} overlaps: {wanted:?}");
            }
            for t in &l.tiles {
                assert!(inside(t.card, t.picture) && inside(t.card, t.caption), "{t:?}: {wanted:?}");
                assert!(
                    t.picture.intersect(t.caption).is_empty(),
                    "a caption covers its picture: {wanted:?}"
                );
            }
        }
    }

    #[test]
    fn pictures_keep_sixteen_to_nine_and_one_size() {
        for tiles in 1..=60 {
            let l = Layout::new(&Wanted { size: (1280, 720), tiles, ..Wanted::default() });
            let first = l.tiles[0].picture;
            for t in &l.tiles {
                assert_eq!((t.picture.w, t.picture.h), (first.w, first.h));
                assert!((t.picture.w * 9 - t.picture.h * 16).abs() <= 16, "{:?}", t.picture);
            }
        }
    }

    #[test]
    fn the_grid_uses_the_number_of_columns_that_shows_most() {
        let columns = |size, tiles| {
            let l = Layout::new(&Wanted { size, tiles, ..Wanted::default() });
            l.tiles.iter().filter(|t| t.card.y == l.tiles[0].card.y).count()
        };
        assert_eq!(columns((1280, 720), 1), 1);
        assert_eq!(columns((1280, 720), 2), 2);
        assert_eq!(columns((1280, 720), 4), 2);
        assert_eq!(columns((1280, 720), 9), 3);
        assert_eq!(columns((1280, 720), 16), 4);
        assert_eq!(columns((400, 1200), 3), 1);
        assert_eq!(columns((2400, 400), 4), 4);
    }

    #[test]
    fn my_tile_moves_beside_the_chat_only_when_others_are_there() {
        let wanted = Wanted {
            size: (1280, 720),
            tiles: 2,
            me: Some(1),
            chat: true,
            input_height: 20,
            ..Wanted::default()
        };
        let two = Layout::new(&wanted);
        assert!(two.tiles[1].picture.w < two.tiles[0].picture.w / 2);
        assert!(two.tiles[1].card.x >= two.tiles[0].card.right());
        let alone = Layout::new(&Wanted { tiles: 1, me: Some(0), ..wanted });
        assert!(alone.tiles[0].picture.w > 700);
    }

    #[test]
    fn a_picture_is_fitted_without_distortion() {
        let area = Rect { x: 10, y: 20, w: 160, h: 90 };
        assert_eq!(area.fit(640, 360), area);
        assert_eq!(area.fit(640, 480), Rect { x: 30, y: 20, w: 120, h: 90 });
        assert_eq!(area.fit(90, 160), Rect { x: 65, y: 20, w: 50, h: 90 });
        assert!(area.fit(0, 9).is_empty());
    }
}
