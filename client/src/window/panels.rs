//! The smaller things: banner, statistics, help.

use super::keys;
use super::layout::{GAP, INPUT_PADDING, Rect};
use super::paint::{Canvas, colours};
use super::text::{Style, Text};

/// A notice above the tiles.
pub(crate) fn banner(canvas: &mut Canvas<'_>, text: &mut Text, area: Rect, notice: &str) {
    let canvas = &mut canvas.clipped(area);
    canvas.fill(area, colours::AMBER);
    let laid = text.lay(notice, Style::cut(130, area.w - 2 * GAP).bold());
    let (x, y) = (area.x + (area.w - laid.width) / 2, area.y + (area.h - laid.height) / 2);
    text.draw(canvas, &laid, x, y, colours::ON_AMBER);
}

/// Height of the statistics' text.
pub(crate) fn statistics_height(statistics: &str) -> i32 {
    i32::try_from(statistics.lines().count().min(MAX_LINES)).unwrap_or(0) * LINE
}

/// Lines of statistics. A tab in a line sets its value to the right.
pub(crate) fn statistics(canvas: &mut Canvas<'_>, text: &mut Text, area: Rect, statistics: &str) {
    let canvas = &mut canvas.clipped(area);
    canvas.fill(area, colours::PANEL);
    let card = area.inset(GAP, GAP);
    let card = Rect { h: card.h.min(statistics_height(statistics) + 2 * INPUT_PADDING), ..card };
    canvas.rounded(card, 8, colours::CARD);
    let inner = card.inset(INPUT_PADDING + 2, INPUT_PADDING);
    let canvas = &mut canvas.clipped(inner);
    for (y, line) in (0..).map(|i| inner.y + i * LINE).zip(statistics.lines().take(MAX_LINES)) {
        let (label, value) = line.split_once('\t').unwrap_or((line, ""));
        let value = text.lay(value, Style::cut(115, inner.w));
        text.draw(canvas, &value, inner.right() - value.width, y, colours::TEXT);
        let colour = if value.width > 0 { colours::DIM } else { colours::TEXT };
        text.line(canvas, label, Style::cut(115, inner.w - value.width - 8), (inner.x, y), colour);
    }
}

/// Where the help stands: in the middle of the window.
pub(crate) fn help_place(window: Rect) -> Rect {
    let (w, h) = (HELP_WIDTH.min(window.w), HELP_HEIGHT.min(window.h));
    Rect { x: window.x + (window.w - w) / 2, y: window.y + (window.h - h) / 2, w, h }
}

/// The keys and what they do.
pub(crate) fn help(canvas: &mut Canvas<'_>, text: &mut Text, area: Rect) {
    let canvas = &mut canvas.clipped(area);
    canvas.fill(area, colours::BACKGROUND);
    canvas.rounded(area, 12, colours::CARD);
    canvas.ring(area, 12, 1, colours::HOVER);
    let inner = area.inset(24, 20);
    text.line(canvas, "Keys", Style::cut(170, inner.w).bold(), (inner.x, inner.y), colours::TEXT);
    let canvas = &mut canvas.clipped(inner);
    for (y, (key, what)) in (0..).map(|i| inner.y + HELP_TITLE + i * HELP_LINE).zip(keys::HELP) {
        let column = (inner.w * 2 / 5).max(60);
        let cap = text.lay(key, Style::cut(120, column - 20).bold());
        let place = Rect { x: inner.x, y: y - 2, w: cap.width + 14, h: cap.height + 4 };
        canvas.rounded(place, 5, colours::FIELD);
        text.draw(canvas, &cap, inner.x + 7, y, colours::TEXT);
        text.line(canvas, what, Style::cut(130, inner.w - column), (inner.x + column, y - 1), colours::TEXT);
    }
}

/// A line of 11.5 px text.
const LINE: i32 = 18;
/// More lines than this do not fit beside a chat on a small screen.
const MAX_LINES: usize = 24;
const HELP_WIDTH: i32 = 440;
const HELP_TITLE: i32 = 38;
const HELP_LINE: i32 = 27;
const HELP_HEIGHT: i32 = 40 + HELP_TITLE + HELP_LINE * keys::HELP.len() as i32 - 4;
