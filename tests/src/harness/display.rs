//! A display without a screen.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    AtomEnum, BUTTON_PRESS_EVENT, BUTTON_RELEASE_EVENT, ChangeWindowAttributesAux, ConfigureWindowAux,
    ConnectionExt as _, EventMask, ImageFormat, InputFocus, KEY_PRESS_EVENT, KEY_RELEASE_EVENT,
    MOTION_NOTIFY_EVENT, MapState,
};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;

use super::image::Image;
use super::process::{DEADLINE, Process};

/// An X server of its own for windows under test, without a window manager; ends when dropped.
pub struct Xvfb {
    // Dropped in this order: the connection before the server.
    connection: RustConnection,
    root: u32,
    display: String,
    _server: Process,
}

/// A visible window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub(crate) id: u32,
    /// Its title.
    pub title: String,
    /// The process that it says it belongs to, if it says so.
    pub process: Option<u32>,
}

impl Xvfb {
    /// Starts a display of 24 bits a pixel with a free number.
    pub fn start(width: u16, height: u16) -> anyhow::Result<Self> {
        let screen = format!("{width}x{height}x24");
        let mut command = Command::new("Xvfb");
        command.args(["-displayfd", "1", "-screen", "0", &screen, "-nolisten", "tcp", "-noreset", "-ac"]);
        let mut server = Process::spawn(&mut command).context("install xvfb")?;
        // The server writes the number when it is ready for connections.
        let number: u32 = server.wait_for("its display number", |line| line.trim().parse().ok())?;
        let display = format!(":{number}");
        let (connection, screen) =
            RustConnection::connect(Some(&display)).context("cannot connect to the display")?;
        let root = connection.setup().roots.get(screen).context("the display has a screen")?.root;
        // Tells of windows that appear.
        let events = ChangeWindowAttributesAux::new().event_mask(EventMask::SUBSTRUCTURE_NOTIFY);
        connection.change_window_attributes(root, &events)?.check()?;
        Ok(Self { connection, root, display, _server: server })
    }

    /// The value of `DISPLAY` for programs that should use it.
    #[must_use]
    pub fn display(&self) -> &str {
        &self.display
    }

    /// All visible windows with a title.
    pub fn windows(&self) -> anyhow::Result<Vec<Window>> {
        let mut windows = Vec::new();
        for id in self.connection.query_tree(self.root)?.reply()?.children {
            // A window may go while it is asked.
            let Ok(attributes) = self.connection.get_window_attributes(id)?.reply() else { continue };
            if attributes.map_state != MapState::VIEWABLE {
                continue;
            }
            let Some(title) = self.title(id)? else { continue };
            windows.push(Window { id, title, process: self.number(id, b"_NET_WM_PID")? });
        }
        Ok(windows)
    }

    /// Waits until there is a window whose title contains `title`.
    pub fn wait_for_window(&self, title: &str) -> anyhow::Result<Window> {
        self.wait_for_window_where(&format!("a title like {title:?}"), |window| window.title.contains(title))
    }

    /// Waits until there is a window that `is_it` accepts, one with `what`.
    pub fn wait_for_window_where(
        &self,
        what: &str,
        is_it: impl Fn(&Window) -> bool,
    ) -> anyhow::Result<Window> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let windows = self.windows()?;
            if let Some(window) = windows.iter().find(|window| is_it(window)) {
                return Ok(window.clone());
            }
            if Instant::now() > deadline {
                bail!("no window with {what} among {windows:?}");
            }
            self.wait_for_change()?;
        }
    }

    /// What the whole display shows.
    pub fn screenshot(&self) -> anyhow::Result<Image> {
        let geometry = self.connection.get_geometry(self.root)?.reply()?;
        let (width, height) = (geometry.width, geometry.height);
        let reply =
            self.connection.get_image(ImageFormat::Z_PIXMAP, self.root, 0, 0, width, height, u32::MAX)?;
        let data = reply.reply().context("cannot read the display")?.data;
        let (width, height) = (usize::from(width), usize::from(height));
        // Xvfb at depth 24: four bytes a pixel, in the order blue, green, red, unused on little-endian machines.
        ensure!(data.len() == 4 * width * height, "the display has an unknown pixel format");
        let rgb = data.chunks_exact(4).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect();
        Ok(Image { width, height, rgb })
    }

    /// What the display shows where a window is; the part on the display if it reaches beyond.
    pub fn screenshot_of(&self, window: &Window) -> anyhow::Result<Image> {
        let geometry = self.connection.get_geometry(window.id)?.reply()?;
        let place = self.connection.translate_coordinates(window.id, self.root, 0, 0)?.reply()?;
        // Left of or above the display: the part there is missing in width and height.
        let (left, top) = (i32::from(place.dst_x), i32::from(place.dst_y));
        let width = (i32::from(geometry.width) + left.min(0)).max(0);
        let height = (i32::from(geometry.height) + top.min(0)).max(0);
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        Ok(self.screenshot()?.crop(size(left), size(top), size(width), size(height)))
    }

    /// Moves the upper left corner of a window to a pixel of the display.
    pub fn place(&self, window: &Window, x: i32, y: i32) -> anyhow::Result<()> {
        let to = ConfigureWindowAux::new().x(x).y(y);
        self.connection.configure_window(window.id, &to)?.check()?;
        Ok(())
    }

    /// Gives the keyboard to a window.
    pub fn focus(&self, window: &Window) -> anyhow::Result<()> {
        self.connection.set_input_focus(InputFocus::PARENT, window.id, x11rb::CURRENT_TIME)?.check()?;
        Ok(())
    }

    /// Gives a window another size, as a person who drags its corner.
    pub fn resize(&self, window: &Window, width: u32, height: u32) -> anyhow::Result<()> {
        let size = ConfigureWindowAux::new().width(width).height(height);
        self.connection.configure_window(window.id, &size)?.check()?;
        Ok(())
    }

    /// Types a text of characters that the keyboard has, as a person would.
    pub fn type_text(&self, text: &str) -> anyhow::Result<()> {
        text.chars().try_for_each(|c| {
            // Key symbols of Latin-1 are the characters, all others follow 0x1000000 (X11 protocol, appendix A).
            let symbol = if u32::from(c) < 0x100 { u32::from(c) } else { 0x0100_0000 + u32::from(c) };
            self.press(&[symbol]).with_context(|| format!("cannot type {c:?}"))
        })
    }

    /// Presses keys given by their symbols ([`keys`]) in this order and releases them in the opposite one.
    pub fn press(&self, symbols: &[u32]) -> anyhow::Result<()> {
        let mut codes = Vec::new();
        for symbol in symbols {
            let (code, shifted) = self.key(*symbol)?;
            if shifted {
                codes.push(self.key(keys::SHIFT)?.0);
            }
            codes.push(code);
        }
        for code in &codes {
            self.connection.xtest_fake_input(KEY_PRESS_EVENT, *code, 0, self.root, 0, 0, 0)?;
        }
        for code in codes.iter().rev() {
            self.connection.xtest_fake_input(KEY_RELEASE_EVENT, *code, 0, self.root, 0, 0, 0)?;
        }
        self.settle()
    }

    /// Moves the pointer to a pixel of the display and presses its first button there.
    pub fn click(&self, x: i16, y: i16) -> anyhow::Result<()> {
        self.connection.xtest_fake_input(MOTION_NOTIFY_EVENT, 0, 0, self.root, x, y, 0)?;
        self.connection.xtest_fake_input(BUTTON_PRESS_EVENT, 1, 0, self.root, 0, 0, 0)?;
        self.connection.xtest_fake_input(BUTTON_RELEASE_EVENT, 1, 0, self.root, 0, 0, 0)?;
        self.settle()
    }

    /// Waits until the server has done everything asked so far.
    fn settle(&self) -> anyhow::Result<()> {
        self.connection.get_input_focus()?.reply()?;
        Ok(())
    }

    /// The code of the key with a symbol, and whether it takes Shift.
    fn key(&self, symbol: u32) -> anyhow::Result<(u8, bool)> {
        let setup = self.connection.setup();
        let (first, last) = (setup.min_keycode, setup.max_keycode);
        let mapping = self.connection.get_keyboard_mapping(first, last - first + 1)?.reply()?;
        let columns = usize::from(mapping.keysyms_per_keycode).max(1);
        for shifted in [false, true] {
            let mut rows = mapping.keysyms.chunks(columns);
            if let Some(row) = rows.position(|row| row.get(usize::from(shifted)) == Some(&symbol)) {
                return Ok((first + u8::try_from(row)?, shifted));
            }
        }
        bail!("the keyboard has no key with the symbol {symbol:#x}")
    }

    fn title(&self, window: u32) -> anyhow::Result<Option<String>> {
        for name in [&b"_NET_WM_NAME"[..], b"WM_NAME"] {
            let atom = self.connection.intern_atom(false, name)?.reply()?.atom;
            let property =
                self.connection.get_property(false, window, atom, AtomEnum::ANY, 0, MAX_TITLE_WORDS)?;
            match property.reply() {
                Ok(property) if !property.value.is_empty() => {
                    return Ok(Some(String::from_utf8_lossy(&property.value).into_owned()));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn number(&self, window: u32, name: &[u8]) -> anyhow::Result<Option<u32>> {
        let atom = self.connection.intern_atom(false, name)?.reply()?.atom;
        let property = self.connection.get_property(false, window, atom, AtomEnum::CARDINAL, 0, 1)?;
        let Ok(property) = property.reply() else { return Ok(None) };
        Ok(property.value32().and_then(|mut values| values.next()))
    }

    /// Waits until a window changes, or a little while: titles change without notice to the root window.
    fn wait_for_change(&self) -> anyhow::Result<()> {
        if self.connection.poll_for_event()?.is_none() {
            let mut fds = [PollFd::new(self.connection.stream(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::try_from(TITLE_CHECK)?))?;
        }
        while self.connection.poll_for_event()?.is_some() {}
        Ok(())
    }
}

/// Symbols of keys (X11, `keysymdef.h`) that no character names.
pub mod keys {
    /// Backspace.
    pub const BACKSPACE: u32 = 0xff08;
    /// Tabulator.
    pub const TAB: u32 = 0xff09;
    /// Return, the main enter key.
    pub const RETURN: u32 = 0xff0d;
    /// Escape.
    pub const ESCAPE: u32 = 0xff1b;
    /// The left arrow.
    pub const LEFT: u32 = 0xff51;
    /// The up arrow.
    pub const UP: u32 = 0xff52;
    /// The right arrow.
    pub const RIGHT: u32 = 0xff53;
    /// The down arrow.
    pub const DOWN: u32 = 0xff54;
    /// Page up.
    pub const PAGE_UP: u32 = 0xff55;
    /// The left shift key.
    pub const SHIFT: u32 = 0xffe1;
    /// The left control key.
    pub const CONTROL: u32 = 0xffe3;
    /// The function key F1; the others follow it.
    pub const F1: u32 = 0xffbe;
}

/// In units of four bytes: longer than any title.
const MAX_TITLE_WORDS: u32 = 256;

/// How often titles are looked at while waiting for one.
const TITLE_CHECK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use x11rb::protocol::Event;
    use x11rb::protocol::xproto::{CreateWindowAux, WindowClass};
    use x11rb::wrapper::ConnectionExt as _;

    use super::*;

    /// A program with a window of one colour.
    fn open(display: &Xvfb, title: &str, colour: u32) -> (RustConnection, u32) {
        let (connection, screen) = RustConnection::connect(Some(display.display())).expect("connected");
        let id = connection.generate_id().expect("an id");
        let screen = &connection.setup().roots[screen];
        let look = CreateWindowAux::new()
            .background_pixel(colour)
            .event_mask(EventMask::KEY_PRESS | EventMask::BUTTON_PRESS);
        let (depth, class) = (screen.root_depth, WindowClass::INPUT_OUTPUT);
        connection
            .create_window(depth, id, screen.root, 40, 30, 60, 50, 0, class, screen.root_visual, &look)
            .expect("sent");
        connection
            .change_property8(
                x11rb::protocol::xproto::PropMode::REPLACE,
                id,
                AtomEnum::WM_NAME,
                AtomEnum::STRING,
                title.as_bytes(),
            )
            .expect("sent");
        connection.map_window(id).expect("sent");
        connection.flush().expect("sent");
        (connection, id)
    }

    #[test]
    fn a_window_is_found_seen_and_typed_into() {
        let display = Xvfb::start(320, 240).expect("a display");
        assert!(display.windows().expect("listed").is_empty());
        let black = display.screenshot().expect("a picture");
        assert_eq!((black.width, black.height, black.rgb.len()), (320, 240, 320 * 240 * 3));

        let (program, id) = open(&display, "vchat: lobby", 0x00ff_8040);
        let window = display.wait_for_window("lobby").expect("visible");
        assert_eq!((window.id, window.title.as_str(), window.process), (id, "vchat: lobby", None));
        let whole = display.screenshot().expect("a picture");
        assert_eq!(whole.pixel(41, 31), [0xff, 0x80, 0x40]);
        assert_ne!(whole.pixel(39, 31), [0xff, 0x80, 0x40]);
        let part = display.screenshot_of(&window).expect("a picture");
        assert_eq!((part.width, part.height), (60, 50));
        assert!(part.rgb.chunks(3).all(|pixel| pixel == [0xff, 0x80, 0x40]));
        display.place(&window, 200, 150).expect("moved");
        let whole = display.screenshot().expect("a picture");
        assert_eq!(whole.pixel(259, 199), [0xff, 0x80, 0x40]);
        assert_ne!(whole.pixel(199, 149), [0xff, 0x80, 0x40]);
        display.place(&window, 40, 30).expect("moved back");

        display.focus(&window).expect("focused");
        display.type_text("aB").expect("typed");
        display.press(&[keys::RETURN]).expect("pressed");
        display.click(50, 40).expect("clicked");
        let mut pressed = Vec::new();
        let clicked = loop {
            match program.wait_for_event().expect("an event") {
                Event::KeyPress(key) => pressed.push((key.detail, u16::from(key.state))),
                Event::ButtonPress(button) => break (button.event_x, button.event_y),
                _ => {}
            }
        };
        let code = |symbol: u32| display.key(symbol).expect("a key").0;
        let expected = [(code(0x61), 0), (code(keys::SHIFT), 0), (code(0x62), 1), (code(keys::RETURN), 0)];
        assert_eq!(pressed, expected);
        assert_eq!(clicked, (10, 10));
        assert!(display.type_text("日").is_err(), "not on this keyboard");
    }

    #[test]
    fn displays_do_not_disturb_each_other() {
        let (first, second) =
            (Xvfb::start(64, 64).expect("a display"), Xvfb::start(64, 64).expect("another"));
        assert_ne!(first.display(), second.display());
        let _program = open(&first, "only here", 0);
        first.wait_for_window("only here").expect("visible");
        assert!(second.windows().expect("listed").is_empty());
    }
}
