//! The chat panel: messages that can be scrolled, and the box of the message being typed.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use chrono::{DateTime, Local};
use vchat_proto::id::ChatId;

use super::editor::Editor;
use super::layout::{GAP, INPUT_PADDING, Rect};
use super::paint::{Canvas, colours};
use super::scene::{Above, ChatLine, MAX_MESSAGE_BYTES, Scene};
use super::text::{Laid, Style, Text};

/// How far the messages are scrolled, and what is on the screen.
///
/// Only messages in view are laid out, from the newest backwards, so a long history costs nothing until it is read. Places are
/// counted from the newest message, so older ones that come move nothing.
#[derive(Default)]
pub(crate) struct Messages {
    /// Pixels between the newest message's end and the panel's end; 0 follows what comes in.
    scroll: i32,
    /// Newest message at the last painting, to stay in place when others come.
    newest: Option<ChatId>,
    painted: Option<(Arc<[ChatLine]>, i32, Above)>,
    /// The user is on the way to older messages.
    seeking: bool,
    /// The user has nearly read all that there is.
    wants_older: bool,
    /// Of messages, with a head or without, at the width painted last: laying out thousands to scroll past them takes too long.
    /// About as many as there are messages.
    heights: HashMap<(ChatId, bool), i32>,
}

impl Messages {
    /// Scrolls towards older messages (positive) or newer ones.
    pub(crate) fn scroll_by(&mut self, pixels: i32) {
        self.scroll = self.scroll.saturating_add(pixels).max(0);
        self.seeking = pixels > 0;
    }

    /// Whether older messages are wanted than those there are; says so once.
    pub(crate) fn take_wish(&mut self) -> bool {
        std::mem::take(&mut self.wants_older)
    }

    /// Back to the newest message.
    pub(crate) fn follow(&mut self) {
        self.scroll = 0;
    }

    /// The pixels are lost: the next update paints everything.
    pub(crate) fn forget(&mut self) {
        self.painted = None;
        self.heights.clear();
    }

    /// Brings the panel up to date. True if anything was painted.
    pub(crate) fn update(
        &mut self,
        canvas: &mut Canvas<'_>,
        text: &mut Text,
        area: Rect,
        scene: &Scene,
    ) -> bool {
        let Scene { chat, above, .. } = scene;
        let same = |(lines, scroll, painted): &(Arc<[ChatLine]>, i32, Above)| {
            (*scroll, painted) == (self.scroll, above) && (Arc::ptr_eq(lines, chat) || lines == chat)
        };
        if self.painted.as_ref().is_some_and(same) {
            return false;
        }
        let inner = area.inset(GAP, 6);
        self.keep_place(text, inner, chat, *above);
        self.painted = Some((Arc::clone(chat), self.scroll, *above));

        let canvas = &mut canvas.clipped(area);
        canvas.fill(area, colours::PANEL);
        if chat.is_empty() {
            let hint = text.lay("No messages yet", Style::cut(130, inner.w));
            let (x, y) = (inner.x + (inner.w - hint.width) / 2, inner.y + (inner.h - hint.height) / 2);
            text.draw(canvas, &hint, x, y, colours::DIM);
        }
        let mut bottom = inner.bottom() + self.scroll;
        for at in (0..chat.len()).rev() {
            let top = bottom - self.height(text, chat, at, inner.w);
            if top < area.bottom() {
                Entry::new(text, chat, at, inner.w).paint(canvas, text, inner.x, top, &chat[at]);
            }
            bottom = top;
            if top < area.y {
                break;
            }
        }
        if let Some(words) = in_words(*above).filter(|_| !chat.is_empty() && bottom > area.y) {
            let label = text.lay(words, Style::cut(ABOVE, inner.w));
            text.draw(
                canvas,
                &label,
                inner.x + (inner.w - label.width) / 2,
                bottom - label.height,
                colours::DIM,
            );
        }
        if self.scroll > 0 {
            self.paint_pill(canvas, text, area);
        }
        true
    }

    /// Whether this point is on the button that leads back to the newest message.
    pub(crate) fn on_pill(&self, area: Rect, x: i32, y: i32) -> bool {
        self.scroll > 0 && pill(area).contains(x, y)
    }

    /// Moves with messages that came, and not beyond the oldest one.
    fn keep_place(&mut self, text: &mut Text, inner: Rect, chat: &Arc<[ChatLine]>, above: Above) {
        if self.heights.len() > 2 * chat.len() {
            self.heights.clear();
        }
        if self.scroll > 0 && chat.last().map(|l| l.id) != self.newest {
            let known = self.newest.and_then(|id| chat.iter().rposition(|l| l.id == id));
            // Without the old newest message the history is another one: follow it.
            self.scroll = known.map_or(0, |known| {
                let scroll = self.scroll;
                let news = (known + 1..chat.len()).map(|at| self.height(text, chat, at, inner.w));
                news.fold(scroll, i32::saturating_add)
            });
        }
        self.newest = chat.last().map(|l| l.id);
        let shown = self.scroll.saturating_add(inner.h);
        // Older messages are fetched a page before they are needed.
        let wanted = if self.seeking { shown.saturating_add(inner.h) } else { shown };
        let mut height = in_words(above).map_or(0, |_| Style::cut(ABOVE, 0).line_height());
        for at in (0..chat.len()).rev() {
            height = height.saturating_add(self.height(text, chat, at, inner.w));
            if height >= wanted {
                break;
            }
        }
        if height < shown {
            self.scroll = (height - inner.h).max(0);
        }
        self.wants_older |= std::mem::take(&mut self.seeking) && height < wanted;
    }

    fn height(&mut self, text: &mut Text, chat: &[ChatLine], at: usize, width: i32) -> i32 {
        let key = (chat[at].id, goes_on(chat, at));
        *self.heights.entry(key).or_insert_with(|| Entry::new(text, chat, at, width).height)
    }

    fn paint_pill(&self, canvas: &mut Canvas<'_>, text: &mut Text, area: Rect) {
        let place = pill(area);
        canvas.rounded(place, place.h / 2, colours::ACCENT);
        let label = text.lay("Newest ↓", Style::cut(120, place.w));
        let (x, y) = (place.x + (place.w - label.width) / 2, place.y + (place.h - label.height) / 2);
        text.draw(canvas, &label, x, y, colours::TEXT);
    }
}

/// A message laid out: who and when (unless it goes on from the one above), and its text.
struct Entry {
    head: Option<String>,
    body: Rc<Laid>,
    height: i32,
}

impl Entry {
    fn new(text: &mut Text, chat: &[ChatLine], at: usize, width: i32) -> Self {
        let line = &chat[at];
        let above = at.checked_sub(1).map(|i| &chat[i]);
        let goes_on = goes_on(chat, at);
        let head = (!goes_on).then(|| when(line, above));
        let body = text.lay(&line.text, Style::wrap(BODY, width));
        let head_height = if goes_on { 3 } else { HEAD_SPACE + Style::cut(NAME, 0).line_height() };
        Self { height: head_height + body.height, head, body }
    }

    fn paint(&self, canvas: &mut Canvas<'_>, text: &mut Text, x: i32, top: i32, line: &ChatLine) {
        let width = canvas.clip().right() - GAP - x;
        if let Some(when) = &self.head {
            let time = text.lay(when, Style::cut(TIME, width));
            let name = text.lay(&line.name, Style::cut(NAME, width - time.width - 8).bold());
            let y = top + HEAD_SPACE;
            text.draw(canvas, &name, x, y, colours::of_name(&line.name));
            text.draw(canvas, &time, x + name.width + 8, y + name.height - time.height - 1, colours::DIM);
        }
        let colour = if line.pending { colours::PENDING } else { colours::TEXT };
        text.draw(canvas, &self.body, x, top + self.height - self.body.height, colour);
    }
}

/// Whether a message stands below the one above without a head of its own.
fn goes_on(chat: &[ChatLine], at: usize) -> bool {
    let line = &chat[at];
    at.checked_sub(1).map(|i| &chat[i]).is_some_and(|a| {
        a.name == line.name && a.mine == line.mine && line.time_ms.saturating_sub(a.time_ms) < PAUSE_MS
    })
}

/// What is said above the oldest message.
const fn in_words(above: Above) -> Option<&'static str> {
    match above {
        Above::Unknown => None,
        Above::Older => Some("Scroll up for older messages"),
        Above::Coming => Some("Loading older messages…"),
        Above::Beginning => Some("This is the beginning"),
        Above::Beyond => Some("Older messages: vchat-client history"),
    }
}

/// Local time of a message, with the date where a new day begins.
fn when(line: &ChatLine, above: Option<&ChatLine>) -> String {
    let local = |l: &ChatLine| {
        let time = DateTime::from_timestamp_millis(i64::try_from(l.time_ms).unwrap_or(i64::MAX));
        time.map(|t| t.with_timezone(&Local))
    };
    let Some(time) = local(line) else { return String::new() };
    let new_day = above.and_then(local).is_some_and(|a| a.date_naive() != time.date_naive());
    time.format(if new_day { "%-d %b, %H:%M" } else { "%H:%M" }).to_string()
}

fn pill(area: Rect) -> Rect {
    let (w, h) = (92.min(area.w), 26.min(area.h));
    Rect { x: area.x + (area.w - w) / 2, y: area.bottom() - h - 6.min(area.h - h), w, h }
}

/// The box in which a message is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputBox {
    pub(crate) editor: Editor,
    pub(crate) typing: bool,
    /// The cursor is in the lit half of its blinking.
    pub(crate) lit: bool,
}

impl InputBox {
    /// Height of the text, at most [`INPUT_LINES`] lines, for a panel of this width.
    pub(crate) fn height(&self, text: &mut Text, panel_width: i32) -> i32 {
        let style = input_style(panel_width);
        let lines = if self.editor.text().is_empty() {
            style.line_height()
        } else {
            text.lay(self.editor.text(), style).height
        };
        lines.clamp(style.line_height(), style.line_height() * INPUT_LINES)
    }

    pub(crate) fn paint(&self, canvas: &mut Canvas<'_>, text: &mut Text, area: Rect) {
        let canvas = &mut canvas.clipped(area);
        canvas.fill(area, colours::PANEL);
        let field = area.inset(GAP, GAP);
        canvas.rounded(field, 8, colours::FIELD);
        if self.typing {
            canvas.ring(field, 8, 2, colours::ACCENT);
        }
        let inner = field.inset(INPUT_PADDING, INPUT_PADDING);
        let typed = self.editor.text();
        if typed.is_empty() && !self.typing {
            text.line(
                canvas,
                "Message (press T)",
                Style::cut(BODY, inner.w),
                (inner.x, inner.y),
                colours::DIM,
            );
            return;
        }
        let laid = text.lay(typed, input_style(area.w));
        let (cx, cy) = laid.cursor(self.editor.cursor());
        let line = input_style(area.w).line_height();
        let y = inner.y - first_row(&laid, cy, line, inner.h);
        let canvas = &mut canvas.clipped(inner.inset(-2, 0));
        text.draw(canvas, &laid, inner.x, y, colours::TEXT);
        if self.typing && self.lit {
            // Spaces at the end of a line may reach beyond it.
            let x = (inner.x + cx).min(inner.right());
            canvas.fill(Rect { x, y: y + cy + 1, w: 2, h: line - 2 }, colours::CARET);
        }
        let left = MAX_MESSAGE_BYTES - typed.len().min(MAX_MESSAGE_BYTES);
        if left < COUNT_BELOW {
            let count = text.lay(&format!("{left} left"), Style::cut(100, inner.w).bold());
            let place = Rect {
                x: inner.right() - count.width - 6,
                y: inner.bottom() - 15,
                w: count.width + 6,
                h: 15,
            };
            canvas.fill(place, colours::FIELD);
            text.draw(canvas, &count, place.x + 4, place.y + 1, colours::AMBER);
        }
    }

    /// The byte of the text that was clicked.
    pub(crate) fn index_at(&self, text: &mut Text, area: Rect, x: i32, y: i32) -> usize {
        let inner = area.inset(GAP + INPUT_PADDING, GAP + INPUT_PADDING);
        let laid = text.lay(self.editor.text(), input_style(area.w));
        let first =
            first_row(&laid, laid.cursor(self.editor.cursor()).1, input_style(area.w).line_height(), inner.h);
        laid.hit(x - inner.x, y - inner.y + first)
    }
}

/// How many pixels of the text are scrolled out so that the cursor's line shows.
fn first_row(laid: &Laid, cursor_top: i32, line: i32, height: i32) -> i32 {
    (cursor_top + line - height).clamp(0, (laid.height - height).max(0))
}

fn input_style(panel_width: i32) -> Style {
    Style::wrap(BODY, panel_width - 2 * GAP - 2 * INPUT_PADDING)
}

/// Text sizes in tenths of a pixel.
const BODY: u16 = 135;
const NAME: u16 = 125;
const TIME: u16 = 105;
const ABOVE: u16 = 115;
/// Space above a message that does not go on from the one above.
const HEAD_SPACE: i32 = 12;
/// After five minutes a message has its own name and time again.
const PAUSE_MS: u64 = 5 * 60 * 1000;
/// The box grows to this many lines; longer text scrolls within it.
const INPUT_LINES: i32 = 5;
/// From here on the bytes left are told.
const COUNT_BELOW: usize = 200;
