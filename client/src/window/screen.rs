//! The pixels of the window, and what they show: each part is painted only when what it shows has changed.

use std::time::Instant;

use super::bar::{self, Bar};
use super::chat::{InputBox, Messages};
use super::keys::Input;
use super::layout::{Layout, Rect, Wanted};
use super::paint::{Canvas, colours};
use super::panels;
use super::scene::Scene;
use super::text::Text;
use super::tiles;
use super::view::{Effect, Target, View};

/// Paints scenes.
pub(crate) struct Screen {
    size: (i32, i32),
    pixels: Vec<u32>,
    text: Text,
    layout: Layout,
    tiles: Vec<tiles::Painted>,
    messages: Messages,
    input: Option<InputBox>,
    bar: Bar,
    banner: Option<String>,
    statistics: Option<String>,
    help: bool,
    /// Newest picture that was painted, for each tile: id and version.
    shown: Vec<(u64, u64)>,
    /// Nothing that is in `pixels` counts.
    stale: bool,
}

/// What a painting changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Painted {
    /// The areas that have new pixels.
    pub(crate) areas: Vec<Rect>,
    /// Tiles whose picture was painted for the first time: id and version.
    pub(crate) pictures: Vec<(u64, u64)>,
}

impl Screen {
    /// `system_fonts`: look for them in the background.
    pub(crate) fn new(system_fonts: bool) -> Self {
        Self {
            size: (0, 0),
            pixels: Vec::new(),
            text: Text::new(system_fonts),
            layout: Layout::default(),
            tiles: Vec::new(),
            messages: Messages::default(),
            input: None,
            bar: Bar::default(),
            banner: None,
            statistics: None,
            help: false,
            shown: Vec::new(),
            stale: true,
        }
    }

    /// Width and height, and the pixels row by row, XRGB.
    pub(crate) fn pixels(&self) -> ((usize, usize), &[u32]) {
        ((self.size.0 as usize, self.size.1 as usize), &self.pixels)
    }

    /// Takes a new size of the window.
    pub(crate) fn resize(&mut self, size: (usize, usize)) {
        let side = |n: usize| i32::try_from(n).unwrap_or(MAX_SIDE).clamp(1, MAX_SIDE);
        let size = (side(size.0), side(size.1));
        if size != self.size {
            self.size = size;
            self.pixels = vec![colours::BACKGROUND; size.0 as usize * size.1 as usize];
            self.stale = true;
        }
    }

    /// Lets `view` answer `input` by what is on the screen now.
    pub(crate) fn handle(&mut self, view: &mut View, input: Input, now: Instant) -> Option<super::Action> {
        let (layout, text, messages) = (&self.layout, &mut self.text, &self.messages);
        // The closure may be called once at most; the text cache behind it needs a mutable borrow.
        let text = std::cell::RefCell::new(text);
        let target = |view: &View, x, y| target(layout, messages, &mut text.borrow_mut(), view, x, y);
        match view.handle(input, now, self.size.0, target)? {
            Effect::Act(action) => {
                if matches!(action, super::Action::Say(_)) {
                    self.messages.follow();
                }
                return Some(action);
            }
            Effect::Follow => self.messages.follow(),
            Effect::Scroll { pages, pixels } => {
                // A page keeps a little of what was read in view.
                let page = self.layout.messages.map_or(0, |m| m.h * 85 / 100);
                self.messages.scroll_by(pages * page + pixels);
            }
        }
        None
    }

    /// Brings the pixels up to date.
    pub(crate) fn paint(&mut self, scene: &Scene, view: &mut View, now: Instant) -> Painted {
        view.tick(now);
        self.stale |= self.text.poll_fonts();
        let layout = self.lay_out(scene, view);
        // The help covers other parts; when it goes they come back.
        if layout != self.layout || self.help != view.help || self.stale {
            self.layout = layout;
            self.forget();
        }
        self.help = view.help;
        let mut painted = Painted::default();
        if self.stale {
            self.stale = false;
            painted.areas.push(self.layout.window);
            Canvas::new(&mut self.pixels, self.size).fill(self.layout.window, colours::BACKGROUND);
        }
        self.paint_tiles(scene, &mut painted);
        self.paint_panels(scene, view, &mut painted);
        self.paint_bar(scene, view, &mut painted);
        let help = panels::help_place(self.layout.window);
        if self.help && painted.areas.iter().any(|a| !a.intersect(help).is_empty()) {
            panels::help(&mut Canvas::new(&mut self.pixels, self.size), &mut self.text, help);
            painted.areas.push(help);
        }
        painted
    }

    fn lay_out(&mut self, scene: &Scene, view: &View) -> Layout {
        let mut wanted = Wanted {
            size: self.size,
            tiles: scene.tiles.len(),
            me: scene.tiles.iter().position(|t| t.me),
            banner: scene.banner.is_some(),
            chat: view.chat_shown(self.size.0),
            statistics_height: scene.statistics.as_deref().map_or(0, panels::statistics_height),
            input_height: 0,
        };
        // The panel's width does not depend on the height of the text in it.
        let panel = Layout::new(&Wanted { tiles: 0, ..wanted }).input;
        wanted.input_height = panel.map_or(0, |p| view.input.height(&mut self.text, p.w));
        Layout::new(&wanted)
    }

    /// Everything must be painted again.
    fn forget(&mut self) {
        self.stale = true;
        self.tiles.resize_with(self.layout.tiles.len(), tiles::Painted::default);
        self.tiles.iter_mut().for_each(tiles::Painted::forget);
        self.messages.forget();
        (self.input, self.banner, self.statistics, self.bar) = (None, None, None, Bar::default());
    }

    fn paint_tiles(&mut self, scene: &Scene, painted: &mut Painted) {
        let canvas = &mut Canvas::new(&mut self.pixels, self.size);
        for ((slot, place), tile) in self.tiles.iter_mut().zip(&self.layout.tiles).zip(&scene.tiles) {
            let change = slot.update(canvas, &mut self.text, place, tile);
            painted.areas.extend(change.area);
            let now = (tile.id, tile.version);
            if change.picture && !self.shown.contains(&now) {
                self.shown.retain(|(id, _)| *id != tile.id);
                self.shown.push(now);
                painted.pictures.push(now);
            }
        }
        if self.shown.len() > scene.tiles.len() {
            self.shown.retain(|(id, _)| scene.tiles.iter().any(|t| t.id == *id));
        }
    }

    fn paint_panels(&mut self, scene: &Scene, view: &View, painted: &mut Painted) {
        let (canvas, text) = (&mut Canvas::new(&mut self.pixels, self.size), &mut self.text);
        if let (Some(area), Some(notice)) = (self.layout.banner, &scene.banner) {
            if self.banner.as_ref() != Some(notice) {
                self.banner = Some(notice.clone());
                panels::banner(canvas, text, area, notice);
                painted.areas.push(area);
            }
        }
        if let (Some(area), Some(lines)) = (self.layout.statistics, &scene.statistics) {
            if self.statistics.as_ref() != Some(lines) {
                self.statistics = Some(lines.clone());
                panels::statistics(canvas, text, area, lines);
                painted.areas.push(area);
            }
        }
        if let Some(area) = self.layout.messages {
            if self.messages.update(canvas, text, area, &scene.chat) {
                painted.areas.push(area);
            }
        }
        if let Some(area) = self.layout.input {
            let same = |old: &InputBox| {
                *old == view.input || !old.typing && !view.input.typing && old.editor == view.input.editor
            };
            if !self.input.as_ref().is_some_and(same) {
                self.input = Some(view.input.clone());
                view.input.paint(canvas, text, area);
                painted.areas.push(area);
            }
        }
    }

    fn paint_bar(&mut self, scene: &Scene, view: &mut View, painted: &mut Painted) {
        let chat = view.chat_shown(self.size.0);
        let bar = Bar {
            room: scene.room.clone(),
            people: scene.tiles.len(),
            me: scene.me,
            chat,
            statistics: scene.statistics.is_some(),
            help: view.help,
            unread: view.unread(&scene.chat, chat),
            hover: view.hover,
        };
        let fresh = painted.areas.first() == Some(&self.layout.window);
        if bar != self.bar || fresh {
            bar.paint(&mut Canvas::new(&mut self.pixels, self.size), &mut self.text, self.layout.bar);
            painted.areas.push(self.layout.bar);
            self.bar = bar;
        }
    }
}

/// What lies under a point.
fn target(layout: &Layout, messages: &Messages, text: &mut Text, view: &View, x: i32, y: i32) -> Target {
    if view.help && panels::help_place(layout.window).contains(x, y) {
        return Target::Nothing;
    }
    if layout.bar.contains(x, y) {
        return bar::command_at(layout.bar, x, y).map_or(Target::Nothing, Target::Button);
    }
    if layout.messages.is_some_and(|area| messages.on_pill(area, x, y)) {
        return Target::Newest;
    }
    match layout.input {
        Some(area) if area.contains(x, y) => Target::Input(view.input.index_at(text, area, x, y)),
        _ => Target::Nothing,
    }
}

/// Larger windows than this are painted only in part: 16 Ki pixels on a side would be a gigabyte.
const MAX_SIDE: i32 = 8192;
