//! What the window itself knows: which panels are open, what is being typed, where the mouse is. A state machine: time
//! and input come in, actions go out.

use std::time::{Duration, Instant};

use vchat_proto::id::ChatId;

use super::chat::InputBox;
use super::editor::{Edit, Editor};
use super::keys::{Command, Input, Keys};
use super::scene::{Action, ChatLine, MAX_MESSAGE_BYTES};

/// The state. Input is answered with [`Self::handle`]; painting reads the rest.
pub(crate) struct View {
    keys: Keys,
    pub(crate) input: InputBox,
    /// Whether the user opened or closed the chat; otherwise it depends on the window's width.
    chat: Option<bool>,
    pub(crate) help: bool,
    /// The button under the mouse.
    pub(crate) hover: Option<Command>,
    /// When the cursor's blinking began: it stands still while someone types.
    blink: Instant,
    /// The newest message that was on the screen.
    seen: Option<ChatId>,
}

/// What lies under a point of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Button(Command),
    /// The text being typed, at this byte.
    Input(usize),
    /// The way back to the newest message.
    Newest,
    Nothing,
}

/// What an input leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// For the call.
    Act(Action),
    /// For the chat panel: scroll by pages and by pixels, positive towards older messages.
    Scroll { pages: i32, pixels: i32 },
    /// For the chat panel: back to the newest message.
    Follow,
}

impl View {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            keys: Keys::default(),
            input: InputBox { editor: Editor::default(), typing: false, lit: true },
            chat: None,
            help: false,
            hover: None,
            blink: now,
            seen: None,
        }
    }

    /// Whether the chat panel shows in a window of this width.
    pub(crate) fn chat_shown(&self, width: i32) -> bool {
        self.chat.unwrap_or(width >= AUTO_CHAT_WIDTH)
    }

    /// Takes one input. `target` tells what lies under a point, `width` is that of the window.
    pub(crate) fn handle(
        &mut self,
        input: Input,
        now: Instant,
        width: i32,
        target: impl Fn(&Self, i32, i32) -> Target,
    ) -> Option<Effect> {
        match input {
            Input::Press(x, y) => {
                let target = target(self, x, y);
                self.press(target, now, width)
            }
            Input::Move(x, y) => {
                self.hover = match target(self, x, y) {
                    Target::Button(command) => Some(command),
                    _ => None,
                };
                None
            }
            Input::Wheel(notches) => {
                Some(Effect::Scroll { pages: 0, pixels: (notches * WHEEL_PIXELS) as i32 })
            }
            _ => {
                let command = self.keys.command(input, self.input.typing)?;
                self.run(command, now, width)
            }
        }
    }

    /// Moves time on: the cursor blinks.
    pub(crate) fn tick(&mut self, now: Instant) {
        let half = now.saturating_duration_since(self.blink).as_millis() / BLINK.as_millis();
        self.input.lit = half.is_multiple_of(2);
    }

    /// Counts the messages that others wrote since the chat was last open.
    pub(crate) fn unread(&mut self, chat: &[ChatLine], shown: bool) -> usize {
        if shown || self.seen.is_none() {
            self.seen = chat.last().map(|l| l.id);
        }
        chat.iter().rev().take_while(|l| Some(l.id) != self.seen).filter(|l| !l.mine).count()
    }

    fn press(&mut self, target: Target, now: Instant, width: i32) -> Option<Effect> {
        match target {
            Target::Button(command) => return self.run(command, now, width),
            Target::Newest => return Some(Effect::Follow),
            Target::Input(index) => {
                self.input.typing = true;
                self.input.editor.place(index);
                self.blink = now;
            }
            Target::Nothing => {
                self.input.typing = false;
                self.help = false;
            }
        }
        None
    }

    fn run(&mut self, command: Command, now: Instant, width: i32) -> Option<Effect> {
        let action = match command {
            Command::Mute => Action::ToggleMute,
            Command::Camera => Action::ToggleCamera,
            Command::Statistics => Action::ToggleStatistics,
            Command::Quit => Action::Quit,
            Command::Page(pages) => return Some(Effect::Scroll { pages, pixels: 0 }),
            Command::Send => {
                self.blink = now;
                let Some(text) = self.input.editor.take() else {
                    // Enter on nothing: done with writing.
                    self.input.typing = false;
                    return None;
                };
                Action::Say(text)
            }
            _ => {
                self.change(command, now, width);
                return None;
            }
        };
        Some(Effect::Act(action))
    }

    /// The commands that stay within the window.
    fn change(&mut self, command: Command, now: Instant, width: i32) {
        match command {
            Command::Edit(edit) => {
                let edit = match edit {
                    // A space is no message; it would only hide the hint.
                    Edit::Insert(' ') if self.input.editor.text().is_empty() => return,
                    edit => edit,
                };
                self.input.editor.apply(edit, MAX_MESSAGE_BYTES);
                self.blink = now;
            }
            Command::Type => {
                self.chat = Some(true);
                self.input.typing = true;
                self.help = false;
                self.blink = now;
            }
            Command::StopTyping | Command::Close => {
                self.input.typing = false;
                self.help = false;
            }
            Command::Chat => {
                self.chat = Some(!self.chat_shown(width));
                self.input.typing = false;
            }
            Command::Help => self.help = !self.help,
            // These lead to an effect.
            Command::Mute
            | Command::Camera
            | Command::Statistics
            | Command::Quit
            | Command::Send
            | Command::Page(_) => {}
        }
    }
}

/// Narrower windows start without the chat.
const AUTO_CHAT_WIDTH: i32 = 500;
/// Three lines of text for a notch of the wheel.
const WHEEL_PIXELS: f32 = 54.0;
/// How long the cursor is lit, then dark: the default of the large desktops, nearly.
const BLINK: Duration = Duration::from_millis(530);

#[cfg(test)]
mod tests {
    use minifb::Key;
    use vchat_proto::id::ChatId;

    use super::*;

    fn feed(view: &mut View, inputs: &[Input]) -> Vec<Effect> {
        let now = Instant::now();
        inputs.iter().filter_map(|&i| view.handle(i, now, 800, |_, _, _| Target::Nothing)).collect()
    }

    fn typed(text: &str) -> Vec<Input> {
        text.chars().map(Input::Char).collect()
    }

    #[test]
    fn a_message_with_command_letters_is_typed_and_sent() {
        let mut view = View::new(Instant::now());
        feed(&mut view, &[Input::Down(Key::T), Input::Char('t'), Input::Up(Key::T)]);
        assert!(feed(&mut view, &typed("mvq Süß")).is_empty());
        let sent = feed(&mut view, &[Input::Down(Key::Enter), Input::Char('\r'), Input::Up(Key::Enter)]);
        assert_eq!(sent, [Effect::Act(Action::Say("mvq Süß".into()))]);
        assert!(view.input.typing && view.input.editor.text().is_empty(), "the next message can follow");
        feed(&mut view, &[Input::Down(Key::Escape), Input::Up(Key::Escape)]);
        assert_eq!(feed(&mut view, &typed("m")), [Effect::Act(Action::ToggleMute)]);
    }

    #[test]
    fn escape_keeps_what_was_typed() {
        let mut view = View::new(Instant::now());
        feed(&mut view, &typed("thello"));
        feed(&mut view, &[Input::Down(Key::Escape), Input::Up(Key::Escape)]);
        assert!(!view.input.typing);
        assert_eq!(view.input.editor.text(), "hello");
    }

    #[test]
    fn clicks_reach_buttons_and_the_text() {
        let mut view = View::new(Instant::now());
        let now = Instant::now();
        let at = |t| move |_: &View, _, _| t;
        let effect = view.handle(Input::Press(1, 1), now, 800, at(Target::Button(Command::Camera)));
        assert_eq!(effect, Some(Effect::Act(Action::ToggleCamera)));
        view.handle(Input::Press(1, 1), now, 800, at(Target::Input(0)));
        assert!(view.input.typing);
        view.handle(Input::Press(1, 1), now, 800, at(Target::Nothing));
        assert!(!view.input.typing);
    }

    #[test]
    fn the_chat_hides_in_narrow_windows_unless_asked_for() {
        let mut view = View::new(Instant::now());
        assert!(!view.chat_shown(499) && view.chat_shown(500));
        let now = Instant::now();
        view.handle(Input::Char('c'), now, 400, |_, _, _| Target::Nothing);
        assert!(view.chat_shown(400));
        view.handle(Input::Char('c'), now, 400, |_, _, _| Target::Nothing);
        assert!(!view.chat_shown(400) && !view.chat_shown(900));
        view.handle(Input::Char('t'), now, 400, |_, _, _| Target::Nothing);
        assert!(view.chat_shown(400), "writing opens it");
    }

    #[test]
    fn messages_of_others_count_as_unread_while_the_chat_is_hidden() {
        let line = |n: u8, mine| ChatLine {
            id: ChatId([n; 16]),
            name: "Ann".into(),
            text: "hi".into(),
            time_ms: 0,
            mine,
            pending: false,
        };
        let mut view = View::new(Instant::now());
        let mut chat = vec![line(1, false)];
        assert_eq!(view.unread(&chat, true), 0);
        chat.extend([line(2, false), line(3, true), line(4, false)]);
        assert_eq!(view.unread(&chat, false), 2);
        assert_eq!(view.unread(&chat, true), 0);
    }

    #[test]
    fn the_cursor_blinks_and_stands_still_while_typing() {
        let start = Instant::now();
        let mut view = View::new(start);
        view.tick(start + Duration::from_millis(600));
        assert!(!view.input.lit);
        view.handle(Input::Char('t'), start + Duration::from_millis(600), 800, |_, _, _| Target::Nothing);
        view.tick(start + Duration::from_millis(610));
        assert!(view.input.lit);
    }
}
