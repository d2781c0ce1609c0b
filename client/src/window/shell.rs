//! The window itself: the only part that talks to the window system.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use minifb::{InputCallback, Key, MouseButton, MouseMode, ScaleMode, WindowOptions};
use raw_window_handle::{HasWindowHandle, RawWindowHandle};

use super::keys::Input;
use super::scene::{Action, Scene};
use super::screen::Screen;
use super::view::View;

/// The call's window. It belongs to the thread that opened it.
///
/// Call [`Self::show`] whenever something new is there, and at least every 10 ms so that keys are answered.
/// There is no pasting: minifb reaches no clipboard.
pub struct Window {
    window: minifb::Window,
    screen: Screen,
    view: View,
    events: Rc<RefCell<VecDeque<Input>>>,
    mouse: Mouse,
    opened: Instant,
    presented: Instant,
    wayland: bool,
    active: bool,
    title: String,
}

/// What [`Window::show`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// What the user asked for since the last call, in order.
    pub actions: Vec<Action>,
    /// The window's pixels were handed to the window system just now.
    pub presented: bool,
    /// The tiles whose picture is on the screen for the first time, as their `id` and `version`. Empty unless
    /// `presented`; this is the moment to take their time of display.
    pub pictures: Vec<(u64, u64)>,
    /// The height of the picture in each tile, in pixels, by the tile's `id`.
    pub heights: Vec<(u64, u32)>,
}

/// Why there is no window.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// Neither a Wayland nor an X11 display answered.
    #[error(
        "no window can be opened: {reason} (DISPLAY={display:?}); run it in a desktop session, or without a window: --display none"
    )]
    Open {
        /// What the window system said.
        reason: String,
        /// The display that was asked for; empty when none was.
        display: String,
    },
    /// The window system took no more pictures.
    #[error("the window takes no pictures any more: {reason}")]
    Present {
        /// What the window system said.
        reason: String,
    },
}

/// A title without control characters: titles end at a NUL in X11, and minifb prints a complaint on stdout about one.
fn plain(title: &str) -> String {
    title.chars().filter(|c| !c.is_control()).collect()
}

#[derive(Default)]
struct Mouse {
    at: Option<(i32, i32)>,
    down: bool,
}

impl Window {
    /// Opens a window. It can be read at once; the system's fonts, for scripts that the program's own lacks, follow
    /// within a second.
    pub fn open(title: &str, width: usize, height: usize) -> Result<Self, WindowError> {
        // UpperLeft copies pixels as they are; anything else would scale while the window is resized.
        let options =
            WindowOptions { resize: true, scale_mode: ScaleMode::UpperLeft, ..WindowOptions::default() };
        let title = plain(title);
        let mut window = minifb::Window::new(&title, width.max(MIN_SIDE), height.max(MIN_SIDE), options)
            .map_err(|e| WindowError::Open { reason: e.to_string(), display: display() })?;
        // minifb would sleep up to 4 ms in each update; the caller decides when to wait.
        window.set_target_fps(0);
        window.set_background_color(0x14, 0x16, 0x1b);
        let events = Rc::new(RefCell::new(VecDeque::new()));
        window.set_input_callback(Box::new(Events(Rc::clone(&events))));
        let wayland = window.window_handle().is_ok_and(|h| matches!(h.as_raw(), RawWindowHandle::Wayland(_)));
        let now = Instant::now();
        let (screen, view) = (Screen::new(true), View::new(now));
        Ok(Self {
            window,
            screen,
            view,
            events,
            mouse: Mouse::default(),
            opened: now,
            presented: now,
            wayland,
            active: false,
            title,
        })
    }

    /// Gives the window another title.
    pub fn set_title(&mut self, title: &str) {
        let title = plain(title);
        if title != self.title {
            self.window.set_title(&title);
            self.title = title;
        }
    }

    /// Answers input, paints what changed in `scene` since the last call and, if anything did, presents it.
    pub fn show(&mut self, scene: &Scene) -> Result<Shown, WindowError> {
        let mut shown = Shown::default();
        self.window.update();
        self.take_input(&mut shown.actions);
        let now = Instant::now();
        self.screen.resize(self.window.get_size());
        let painted = self.screen.paint(scene, &mut self.view, now);
        shown.heights = self.screen.heights(scene);
        shown.actions.extend(painted.read_back.then_some(Action::ReadBack));
        if !painted.areas.is_empty() || self.must_refresh(now) {
            let ((width, height), pixels) = self.screen.pixels();
            let presented = self.window.update_with_buffer(pixels, width, height);
            presented.map_err(|e| WindowError::Present { reason: e.to_string() })?;
            (shown.presented, shown.pictures, self.presented) = (true, painted.pictures, now);
            // Presenting also reads input, and the wheel's turns would be gone at the next update.
            self.take_input(&mut shown.actions);
        }
        if !self.window.is_open() && !shown.actions.contains(&Action::Quit) {
            shown.actions.push(Action::Quit);
        }
        Ok(shown)
    }

    /// minifb does not tell when another window uncovers this one, and X11 does not keep what was covered.
    fn must_refresh(&self, now: Instant) -> bool {
        let young = now.duration_since(self.opened) < OPENING;
        now.duration_since(self.presented) >= if young { REFRESH_OPENING } else { REFRESH }
    }

    fn take_input(&mut self, actions: &mut Vec<Action>) {
        let mut inputs: Vec<Input> = self.events.borrow_mut().drain(..).collect();
        self.poll_mouse(&mut inputs);
        let active = self.window.is_active();
        if self.active && !active {
            inputs.push(Input::Blur);
        }
        self.active = active;
        let now = Instant::now();
        for input in inputs {
            actions.extend(self.screen.handle(&mut self.view, input, now));
        }
    }

    /// minifb has no events for the mouse, only its state.
    fn poll_mouse(&mut self, inputs: &mut Vec<Input>) {
        let at = self.window.get_mouse_pos(MouseMode::Pass).map(|(x, y)| (x as i32, y as i32));
        let down = self.window.get_mouse_down(MouseButton::Left);
        if let Some((x, y)) = at {
            if at != self.mouse.at {
                inputs.push(Input::Move(x, y));
            }
            if down && !self.mouse.down {
                inputs.push(Input::Press(x, y));
            }
        }
        if let Some((_, y)) = self.window.get_scroll_wheel() {
            // X11: notches, away from the user positive. Wayland: distance, towards the user positive.
            inputs.push(Input::Wheel(if self.wayland { -y / WAYLAND_NOTCH } else { y }));
        }
        (self.mouse.at, self.mouse.down) = (at, down);
    }
}

/// Collects key events; polling the state would lose keys that are pressed and released between two updates.
struct Events(Rc<RefCell<VecDeque<Input>>>);

impl Events {
    /// At most [`MAX_EVENTS`] wait; later ones are lost, as a person cannot type that much between two updates.
    fn push(&self, input: Input) {
        let mut events = self.0.borrow_mut();
        if events.len() < MAX_EVENTS {
            events.push_back(input);
        }
    }
}

impl InputCallback for Events {
    fn add_char(&mut self, code: u32) {
        if let Some(c) = char::from_u32(code) {
            self.push(Input::Char(c));
        }
    }

    fn set_key_state(&mut self, key: Key, down: bool) {
        self.push(if down { Input::Down(key) } else { Input::Up(key) });
    }
}

fn display() -> String {
    let set = ["WAYLAND_DISPLAY", "DISPLAY"]
        .into_iter()
        .find_map(|v| std::env::var(v).ok().filter(|d| !d.is_empty()));
    set.unwrap_or_default()
}

/// The smallest window that is asked for.
const MIN_SIDE: usize = 64;
/// The window is repainted as often as this while nothing changes: soon enough after being uncovered, and 1 % of
/// what a call with video costs.
const REFRESH: Duration = Duration::from_millis(250);
/// A window manager may map the window later than our first picture, which is then lost.
const REFRESH_OPENING: Duration = Duration::from_millis(50);
const OPENING: Duration = Duration::from_secs(1);
/// What compositors report for one notch of a wheel.
const WAYLAND_NOTCH: f32 = 10.0;
/// More than a second of the fastest key repetition.
const MAX_EVENTS: usize = 1024;
