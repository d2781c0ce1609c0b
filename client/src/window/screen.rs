//! The pixels of the window, and what they show: each part is painted only when what it shows has changed.

use std::time::Instant;

use super::bar::{self, Bar};
use super::chat::{InputBox, Messages};
use super::keys::Input;
use super::layout::{Layout, Rect, Wanted};
use super::paint::{Canvas, colours};
use super::panels;
use super::scene::{Above, Scene};
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
    /// The user has scrolled to where older messages are needed.
    pub(crate) read_back: bool,
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
            let canvas = &mut Canvas::new(&mut self.pixels, self.size);
            canvas.fill(self.layout.window, colours::BACKGROUND);
            canvas.fill(self.layout.side.unwrap_or_default(), colours::PANEL);
        }
        self.paint_tiles(scene, &mut painted);
        self.paint_panels(scene, view, &mut painted);
        self.paint_bar(scene, view, &mut painted);
        painted.read_back = self.messages.take_wish() && scene.above == Above::Older;
        let help = panels::help_place(self.layout.window);
        if self.help && painted.areas.iter().any(|a| !a.intersect(help).is_empty()) {
            panels::help(&mut Canvas::new(&mut self.pixels, self.size), &mut self.text, help);
            painted.areas.push(help);
        }
        painted
    }

    /// How high the pictures of the scene painted last are, by tile.
    pub(crate) fn heights(&self, scene: &Scene) -> Vec<(u64, u32)> {
        let places = scene.tiles.iter().zip(&self.layout.tiles);
        places.map(|(tile, place)| (tile.id, place.picture.h.max(0).unsigned_abs())).collect()
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
        if let (Some(area), Some(notice)) = (self.layout.banner, &scene.banner)
            && self.banner.as_ref() != Some(notice)
        {
            self.banner = Some(notice.clone());
            panels::banner(canvas, text, area, notice);
            painted.areas.push(area);
        }
        if let (Some(area), Some(lines)) = (self.layout.statistics, &scene.statistics)
            && self.statistics.as_ref() != Some(lines)
        {
            self.statistics = Some(lines.clone());
            panels::statistics(canvas, text, area, lines);
            painted.areas.push(area);
        }
        if let Some(area) = self.layout.messages
            && self.messages.update(canvas, text, area, scene)
        {
            painted.areas.push(area);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minifb::Key;
    use vchat_proto::id::ChatId;

    use super::super::{Action, ChatLine, Me, Tile};
    use super::*;
    use crate::picture::Picture;

    /// A colour that nothing has.
    const POISON: u32 = 0xab_cdef;

    struct Desk {
        screen: Screen,
        view: View,
        scene: Scene,
        now: Instant,
    }

    impl Desk {
        fn new(tiles: usize) -> Self {
            let now = Instant::now();
            let mut screen = Screen::new(false);
            screen.resize((1280, 720));
            let tiles = (0..tiles).map(|i| tile(i as u64, i + 1 == tiles)).collect();
            let chat: Vec<ChatLine> = (0..40).map(line).collect();
            let scene = Scene { room: "lobby".into(), tiles, chat: chat.into(), ..Scene::default() };
            let mut desk = Self { screen, view: View::new(now), scene, now };
            desk.paint();
            desk
        }

        fn paint(&mut self) -> Painted {
            self.screen.paint(&self.scene, &mut self.view, self.now)
        }

        /// Paints over poison, and checks that new pixels lie in the areas told and nowhere else.
        fn repaint(&mut self) -> Painted {
            self.screen.pixels.fill(POISON);
            let painted = self.paint();
            let width = self.screen.size.0 as usize;
            for (i, &pixel) in self.screen.pixels.iter().enumerate() {
                let (x, y) = ((i % width) as i32, (i / width) as i32);
                if pixel != POISON {
                    assert!(
                        painted.areas.iter().any(|a| a.contains(x, y)),
                        "{x},{y} is in none of {:?}",
                        painted.areas
                    );
                }
            }
            painted
        }

        fn input(&mut self, input: Input) -> Option<Action> {
            self.screen.handle(&mut self.view, input, self.now)
        }

        fn pixel(&self, x: i32, y: i32) -> u32 {
            self.screen.pixels[(y * self.screen.size.0 + x) as usize]
        }
    }

    fn tile(id: u64, me: bool) -> Tile {
        Tile {
            id,
            name: format!("Person {id}"),
            picture: Some(Arc::new(white())),
            version: 1,
            muted: false,
            camera_off: false,
            speaking: false,
            me,
        }
    }

    /// White on the left, black on the right.
    fn white() -> Picture {
        let mut picture = Picture::black(640, 360);
        let [luma, _, _] = picture.planes_mut();
        luma.chunks_exact_mut(640).for_each(|row| row[..320].fill(235));
        picture
    }

    fn line(n: u8) -> ChatLine {
        let text = format!("message number {n} with a few words");
        ChatLine {
            id: ChatId([n; 16]),
            name: "Ann".into(),
            text,
            time_ms: u64::from(n) * 600_000,
            mine: false,
            pending: false,
        }
    }

    #[test]
    fn nothing_is_painted_when_nothing_changed() {
        let mut desk = Desk::new(4);
        assert_eq!(desk.repaint(), Painted::default());
        assert!(desk.screen.pixels.iter().all(|&p| p == POISON));
    }

    #[test]
    fn a_new_picture_paints_its_own_area_only() {
        let mut desk = Desk::new(4);
        desk.scene.tiles[1].version = 2;
        let painted = desk.repaint();
        assert_eq!(painted.areas, [desk.screen.layout.tiles[1].picture]);
        assert_eq!(painted.pictures, [(1, 2)]);
    }

    #[test]
    fn each_change_paints_the_part_that_shows_it() {
        let mut desk = Desk::new(4);
        desk.scene.tiles[2].speaking = true;
        let painted = desk.repaint();
        assert_eq!(painted.areas, [desk.screen.layout.tiles[2].card]);
        assert!(painted.pictures.is_empty(), "the picture is not new");

        let mut chat = desk.scene.chat.to_vec();
        chat.push(line(99));
        desk.scene.chat = chat.into();
        assert_eq!(desk.repaint().areas, [desk.screen.layout.messages.expect("the chat is open")]);

        desk.input(Input::Char('t'));
        desk.input(Input::Char('x'));
        assert_eq!(desk.repaint().areas, [desk.screen.layout.input.expect("the chat is open")]);

        desk.scene.me = Me { muted: true, camera_off: false };
        assert_eq!(desk.repaint().areas, [desk.screen.layout.bar]);
    }

    #[test]
    fn a_new_size_paints_everything_but_shows_no_new_picture() {
        let mut desk = Desk::new(3);
        desk.screen.resize((900, 700));
        let painted = desk.repaint();
        assert!(painted.areas.contains(&desk.screen.layout.window));
        assert!(painted.pictures.is_empty());
        assert!(desk.screen.pixels.iter().all(|&p| p != POISON));
    }

    #[test]
    fn remote_pictures_are_whole_whatever_else_is_shown() {
        let mut desk = Desk::new(3);
        desk.scene.banner = Some("Reconnecting…".into());
        desk.scene.statistics = Some("Loss\t1 %\nDelay\t30 ms".into());
        for tile in &mut desk.scene.tiles {
            (tile.speaking, tile.muted) = (true, true);
        }
        desk.paint();
        for place in &desk.screen.layout.tiles[..2] {
            let p = place.picture;
            for y in p.y..p.bottom() {
                // One pixel in the middle mixes both halves.
                for x in (p.x..p.right()).filter(|x| (x - p.x - p.w / 2).abs() > 2) {
                    let want = if x < p.x + p.w / 2 { 0xff_ffff } else { 0 };
                    assert_eq!(desk.pixel(x, y), want, "{x},{y}");
                }
            }
        }
        let me = desk.screen.layout.tiles[2].picture;
        assert_eq!(desk.pixel(me.x, me.y), 0, "one's own picture is mirrored");
        assert_eq!(desk.pixel(me.right() - 1, me.y), 0xff_ffff);
    }

    #[test]
    fn initials_take_the_place_of_a_picture_and_give_it_back() {
        let mut desk = Desk::new(2);
        let p = desk.screen.layout.tiles[0].picture;
        desk.scene.tiles[0].camera_off = true;
        assert!(desk.repaint().pictures.is_empty());
        assert_eq!(desk.pixel(p.x, p.y), colours::NO_PICTURE);
        desk.scene.tiles[0].camera_off = false;
        desk.repaint();
        assert_eq!(desk.pixel(p.x, p.y), 0xff_ffff);
    }

    #[test]
    fn clicks_do_what_is_painted_under_them() {
        let mut desk = Desk::new(2);
        let bar = desk.screen.layout.bar;
        let clicked: Vec<Action> = (bar.x..bar.right())
            .step_by(8)
            .filter_map(|x| desk.input(Input::Press(x, bar.y + bar.h / 2)))
            .collect();
        for action in [Action::ToggleMute, Action::ToggleCamera, Action::ToggleStatistics, Action::Quit] {
            assert!(clicked.contains(&action), "{action:?}");
        }
        let mut desk = Desk::new(2);
        let input = desk.screen.layout.input.expect("the chat is open");
        desk.input(Input::Press(input.x + input.w / 2, input.y + input.h / 2));
        for input in [Input::Char('h'), Input::Char('i'), Input::Down(Key::Enter), Input::Char('\r')] {
            if let Some(action) = desk.input(input) {
                assert_eq!(action, Action::Say("hi".into()));
                return;
            }
        }
        panic!("nothing was sent");
    }

    #[test]
    fn scrolling_stays_in_place_when_messages_come_and_stops_at_both_ends() {
        let mut desk = Desk::new(1);
        let messages = desk.screen.layout.messages.expect("the chat is open");
        let part = |desk: &Desk| -> Vec<u32> {
            // The button at the end that leads back to the newest message is left out.
            (messages.y..messages.bottom() - 40)
                .flat_map(|y| (messages.x..messages.right()).map(move |x| (x, y)))
                .map(|(x, y)| desk.pixel(x, y))
                .collect()
        };
        let newest = part(&desk);
        desk.input(Input::Wheel(2.0));
        desk.paint();
        let scrolled = part(&desk);
        assert_ne!(scrolled, newest);
        let mut chat = desk.scene.chat.to_vec();
        chat.extend([line(100), line(101)]);
        desk.scene.chat = chat.into();
        desk.paint();
        assert!(part(&desk) == scrolled, "what is being read moved");

        desk.input(Input::Wheel(1000.0));
        desk.paint();
        let oldest = part(&desk);
        desk.input(Input::Wheel(5.0));
        desk.paint();
        assert!(part(&desk) == oldest, "there is nothing above the oldest message");
        desk.input(Input::Wheel(-1.0));
        desk.paint();
        assert!(part(&desk) != oldest, "turning back must take effect at once");
    }

    #[test]
    fn scrolling_up_asks_for_older_messages_in_time_and_what_is_read_stays_in_place() {
        let mut desk = Desk::new(1);
        desk.scene.above = Above::Older;
        let messages = desk.screen.layout.messages.expect("the chat is open");
        // Below the first message, which may lose its head to an older one.
        let part = |desk: &Desk| -> Vec<u32> {
            let rows = messages.y + messages.h / 3..messages.bottom();
            rows.flat_map(|y| (messages.x..messages.right()).map(move |x| (x, y)))
                .map(|(x, y)| desk.pixel(x, y))
                .collect()
        };
        desk.input(Input::Wheel(0.2));
        assert!(!desk.paint().read_back, "there are some pages yet");
        desk.input(Input::Wheel(1000.0));
        assert!(desk.paint().read_back);
        assert!(!desk.paint().read_back, "once");
        let before = part(&desk);

        desk.scene.above = Above::Coming;
        desk.input(Input::Wheel(1.0));
        assert!(!desk.paint().read_back, "they are on their way");
        let mut chat: Vec<ChatLine> = (100..150).map(line).collect();
        chat.extend(desk.scene.chat.iter().cloned());
        (desk.scene.chat, desk.scene.above) = (chat.into(), Above::Beginning);
        desk.paint();
        assert!(part(&desk) == before, "what is being read moved");
        desk.input(Input::Wheel(1000.0));
        assert!(!desk.paint().read_back, "there are no more");
        assert!(part(&desk) != before);
    }

    #[test]
    fn a_chat_that_fits_the_window_can_be_read_back_too() {
        let mut desk = Desk::new(1);
        desk.scene.chat = vec![line(1)].into();
        desk.scene.above = Above::Older;
        assert!(!desk.paint().read_back);
        desk.input(Input::Down(Key::PageUp));
        assert!(desk.paint().read_back);
    }

    #[test]
    fn any_size_and_any_number_of_people_can_be_painted() {
        let mut desk = Desk::new(1);
        desk.scene.banner = Some("x".repeat(500));
        desk.scene.statistics = Some("a\tb\n".repeat(50));
        desk.view.help = true;
        for size in [(1, 1), (64, 64), (200, 90), (333, 777), (620, 480), (2000, 300)] {
            for tiles in [0, 1, 2, 9, 60] {
                desk.scene.tiles =
                    (0..tiles).map(|i| Tile { camera_off: i % 2 == 0, ..tile(i, i + 1 == tiles) }).collect();
                desk.screen.resize(size);
                desk.paint();
                desk.input(Input::Press(size.0 as i32 / 2, size.1 as i32 - 3));
                desk.input(Input::Move(size.0 as i32 - 2, size.1 as i32 / 2));
            }
        }
    }
}
