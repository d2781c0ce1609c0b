//! The strip at the bottom: buttons, the room's name and where to find help.

use super::icons::{self, Icon};
use super::keys::Command;
use super::layout::Rect;
use super::paint::{Canvas, Colour, colours};
use super::scene::Me;
use super::text::{Style, Text};

/// Everything the bar shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) room: String,
    pub(crate) people: usize,
    pub(crate) me: Me,
    pub(crate) chat: bool,
    pub(crate) statistics: bool,
    pub(crate) help: bool,
    /// Messages that came while the chat was hidden.
    pub(crate) unread: usize,
    /// The button under the mouse.
    pub(crate) hover: Option<Command>,
}

struct Button {
    command: Command,
    icon: Icon,
    label: &'static str,
    crossed: bool,
    back: Colour,
}

impl Bar {
    pub(crate) fn paint(&self, canvas: &mut Canvas<'_>, text: &mut Text, area: Rect) {
        canvas.fill(area, colours::PANEL);
        canvas.fill(Rect { h: 1.min(area.h), ..area }, colours::LINE);
        let places = places(area);
        for (button, &place) in self.buttons().iter().zip(&places) {
            self.paint_button(canvas, text, button, place);
        }
        self.paint_sides(canvas, text, area, &places);
    }

    fn buttons(&self) -> [Button; BUTTONS.len()] {
        let plain = |command, icon, label, on| Button {
            command,
            icon,
            label,
            crossed: false,
            back: if on { colours::ACCENT } else { colours::FIELD },
        };
        let device = |command, icon, label, off| Button {
            crossed: off,
            back: if off { colours::RED } else { colours::FIELD },
            ..plain(command, icon, label, false)
        };
        let Me { muted, camera_off } = self.me;
        [
            device(Command::Mute, Icon::Microphone, if muted { "Unmute" } else { "Mute" }, muted),
            device(Command::Camera, Icon::Camera, "Camera", camera_off),
            plain(Command::Chat, Icon::Chat, "Chat", self.chat),
            plain(Command::Statistics, Icon::Statistics, "Stats", self.statistics),
            plain(Command::Help, Icon::Help, "Keys", self.help),
            Button { back: colours::RED, ..plain(Command::Quit, Icon::Leave, "Leave", false) },
        ]
    }

    fn paint_button(&self, canvas: &mut Canvas<'_>, text: &mut Text, button: &Button, place: Rect) {
        let canvas = &mut canvas.clipped(place);
        let hover = self.hover == Some(button.command);
        let back = match (hover, button.back) {
            (true, colours::FIELD) => colours::HOVER,
            (true, back) => super::paint::mix(back, 0xff_ffff, 36),
            (false, back) => back,
        };
        canvas.rounded(place, 10, back);
        let (w, icon) = (place.w, ICON.min(place.w - 4).min(place.h - 4).max(0));
        let style = Style::cut(130, w - ICON - 14);
        let label = (w >= LABELLED).then(|| text.lay(button.label, style));
        let content = icon + label.as_ref().map_or(0, |l| 7 + l.width);
        let x = place.x + (w - content) / 2;
        let middle = place.y + place.h / 2;
        let square = Rect { x, y: middle - icon / 2, w: icon, h: icon };
        icons::draw(canvas, square, button.icon, button.crossed, colours::TEXT);
        if let Some(label) = label {
            text.draw(canvas, &label, x + icon + 7, middle - label.height / 2, colours::TEXT);
        }
        if button.command == Command::Chat && self.unread > 0 {
            let (cx, cy) = ((square.right() + 1) as f32, (square.y + 1) as f32);
            canvas.disc(cx, cy, 6.5, back);
            canvas.disc(cx, cy, 5.0, colours::AMBER);
        }
    }

    /// The room's name on the left and the way to help on the right, where there is room.
    fn paint_sides(&self, canvas: &mut Canvas<'_>, text: &mut Text, area: Rect, places: &[Rect]) {
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return };
        let left = first.x - area.x - 2 * MARGIN;
        let middle = area.y + area.h / 2;
        if left >= 90 {
            let (name, count) = (Style::cut(140, left).bold(), Style::cut(115, left));
            let top = middle - (name.line_height() + count.line_height()) / 2;
            let x = area.x + MARGIN;
            text.line(canvas, &self.room, name, (x, top), colours::TEXT);
            let people =
                if self.people == 1 { "only you".to_owned() } else { format!("{} people", self.people) };
            text.line(canvas, &people, count, (x, top + name.line_height()), colours::DIM);
        }
        let right = area.right() - last.right() - 2 * MARGIN;
        if right >= 90 {
            let hint = text.lay("Press ? for keys", Style::cut(115, right));
            let x = area.right() - MARGIN - hint.width;
            text.draw(canvas, &hint, x, middle - hint.height / 2, colours::DIM);
        }
    }
}

/// The command of the button at this point.
pub(crate) fn command_at(area: Rect, x: i32, y: i32) -> Option<Command> {
    places(area).iter().zip(BUTTONS).find(|(place, _)| place.contains(x, y)).map(|(_, command)| command)
}

/// Where the buttons are: centred, with labels where these fit.
fn places(area: Rect) -> [Rect; BUTTONS.len()] {
    let count = BUTTONS.len() as i32;
    let fits = |w: i32, gap: i32| count * w + (count - 1) * gap + 2 * MARGIN <= area.w;
    let (w, gap) = match () {
        () if fits(LABELLED, 8) => (LABELLED, 8),
        () if fits(46, 8) => (46, 8),
        () => (((area.w - (count - 1) * 2) / count).clamp(0, 46), 2),
    };
    let h = 36.min(area.h - 4).max(0);
    let left = area.x + (area.w - count * w - (count - 1) * gap).max(0) / 2;
    let y = area.y + (area.h - h + 1) / 2;
    std::array::from_fn(|i| Rect { x: left + i as i32 * (w + gap), y, w, h }.intersect(area))
}

/// In the order in which they stand.
const BUTTONS: [Command; 6] =
    [Command::Mute, Command::Camera, Command::Chat, Command::Statistics, Command::Help, Command::Quit];
/// Width of a button with its label.
const LABELLED: i32 = 98;
const ICON: i32 = 20;
const MARGIN: i32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buttons_keep_apart_and_each_is_found_at_its_middle() {
        for width in [0, 1, 40, 120, 240, 330, 640, 1280] {
            let area = Rect { x: 0, y: 100, w: width, h: 56 };
            let places = places(area);
            for (i, place) in places.iter().enumerate() {
                assert!(places[..i].iter().all(|p| p.intersect(*place).is_empty()), "{width}");
                assert!(place.is_empty() || area.intersect(*place) == *place);
                if !place.is_empty() {
                    let found = command_at(area, place.x + place.w / 2, place.y + place.h / 2);
                    assert_eq!(found, Some(BUTTONS[i]), "{width}");
                }
            }
        }
    }

    #[test]
    fn painting_order_and_clicking_order_agree() {
        let commands = Bar::default().buttons().map(|b| b.command);
        assert_eq!(commands, BUTTONS);
    }
}
