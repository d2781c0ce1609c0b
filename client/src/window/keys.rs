//! What keys mean: commands, unless a message is being typed.

use minifb::Key;

use super::editor::Edit;

/// Something that happened to the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Input {
    /// A key went down, or repeats while it is held.
    Down(Key),
    Up(Key),
    /// The character that a key, or several (`´` and `e`), produced. Follows the [`Input::Down`] of its key.
    Char(char),
    /// The left mouse button was pressed here.
    Press(i32, i32),
    /// The mouse is here.
    Move(i32, i32),
    /// The wheel turned by this many notches; positive is away from the user.
    Wheel(f32),
    /// The keyboard belongs to another window now; releases of keys held are not seen.
    Blur,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Mute,
    Camera,
    Chat,
    Statistics,
    Help,
    Quit,
    Type,
    StopTyping,
    Send,
    Edit(Edit),
    /// Scroll the chat by so many pages, positive towards older messages.
    Page(i32),
    /// Escape outside of typing: closes what is open.
    Close,
}

/// Which keys are held. Letters act by the character they produce, so they work wherever a keyboard layout puts them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    held: Vec<Key>,
    /// The last key event was the repetition of a held key.
    repeats: bool,
}

impl Keys {
    /// The command in a key event.
    pub(crate) fn command(&mut self, input: Input, typing: bool) -> Option<Command> {
        match input {
            Input::Down(key) => {
                self.repeats = self.held.contains(&key);
                if !self.repeats {
                    self.held.push(key);
                }
                if typing { self.edit(key) } else { self.press(key) }
            }
            Input::Up(key) => {
                self.held.retain(|&k| k != key);
                self.repeats = false;
                None
            }
            Input::Char(c) if typing => {
                (!self.modified() && !c.is_control()).then_some(Command::Edit(Edit::Insert(c)))
            }
            // Holding M must not mute and unmute ten times a second.
            Input::Char(c) => (!self.modified() && !self.repeats).then(|| letter(c)).flatten(),
            Input::Blur => {
                self.held.clear();
                None
            }
            Input::Press(..) | Input::Move(..) | Input::Wheel(_) => None,
        }
    }

    fn press(&self, key: Key) -> Option<Command> {
        let command = match key {
            Key::PageUp => return Some(Command::Page(1)),
            Key::PageDown => return Some(Command::Page(-1)),
            Key::Enter | Key::NumPadEnter => Command::Type,
            Key::Escape => Command::Close,
            Key::F1 => Command::Help,
            _ => return None,
        };
        (!self.repeats).then_some(command)
    }

    fn edit(&self, key: Key) -> Option<Command> {
        let ctrl = self.ctrl();
        Some(match key {
            Key::Enter | Key::NumPadEnter if self.repeats => return None,
            Key::Enter | Key::NumPadEnter => Command::Send,
            Key::Escape => Command::StopTyping,
            Key::PageUp => Command::Page(1),
            Key::PageDown => Command::Page(-1),
            Key::F1 if !self.repeats => Command::Help,
            Key::Backspace if ctrl => Command::Edit(Edit::DeleteWord),
            Key::W if ctrl => Command::Edit(Edit::DeleteWord),
            Key::U if ctrl => Command::Edit(Edit::Clear),
            Key::A if ctrl => Command::Edit(Edit::Home),
            Key::E if ctrl => Command::Edit(Edit::End),
            Key::Left if ctrl => Command::Edit(Edit::WordLeft),
            Key::Right if ctrl => Command::Edit(Edit::WordRight),
            Key::Backspace => Command::Edit(Edit::Backspace),
            Key::Delete => Command::Edit(Edit::Delete),
            Key::Left => Command::Edit(Edit::Left),
            Key::Right => Command::Edit(Edit::Right),
            Key::Home => Command::Edit(Edit::Home),
            Key::End => Command::Edit(Edit::End),
            _ => return None,
        })
    }

    fn ctrl(&self) -> bool {
        [Key::LeftCtrl, Key::RightCtrl].iter().any(|k| self.held.contains(k))
    }

    /// Ctrl, the left Alt or the system key is held: what they do belongs to others. The right Alt makes characters
    /// such as `@` on many layouts.
    fn modified(&self) -> bool {
        let others = [Key::LeftAlt, Key::LeftSuper, Key::RightSuper];
        let alt_gr = self.held.contains(&Key::RightAlt);
        !alt_gr && (self.ctrl() || others.iter().any(|k| self.held.contains(k)))
    }
}

fn letter(c: char) -> Option<Command> {
    Some(match c.to_ascii_lowercase() {
        'm' => Command::Mute,
        'v' => Command::Camera,
        'c' => Command::Chat,
        's' => Command::Statistics,
        'q' => Command::Quit,
        't' => Command::Type,
        '?' => Command::Help,
        _ => return None,
    })
}

/// The keys and what they do, for the help. Keep in step with [`Keys::command`].
pub(crate) const HELP: [(&str, &str); 11] = [
    ("M", "microphone off or on"),
    ("V", "camera off or on"),
    ("C", "show or hide the chat"),
    ("S", "show or hide statistics"),
    ("T, Enter", "write a message"),
    ("Enter", "send it"),
    ("Esc", "stop writing"),
    ("Ctrl+Backspace", "delete a word"),
    ("Page Up, Page Down", "read older, newer messages"),
    ("?, F1", "this help"),
    ("Q", "leave the call"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Presses and releases a key that produces `c`.
    fn tap(keys: &mut Keys, key: Key, c: Option<char>, typing: bool) -> Vec<Command> {
        let events = [Some(Input::Down(key)), c.map(Input::Char), Some(Input::Up(key))];
        events.into_iter().flatten().filter_map(|e| keys.command(e, typing)).collect()
    }

    #[test]
    fn letters_are_commands_until_a_message_is_typed() {
        let mut keys = Keys::default();
        let table = [
            (Key::M, 'm', Command::Mute),
            (Key::V, 'V', Command::Camera),
            (Key::C, 'c', Command::Chat),
            (Key::S, 's', Command::Statistics),
            (Key::Q, 'q', Command::Quit),
            (Key::T, 't', Command::Type),
            (Key::Slash, '?', Command::Help),
        ];
        for (key, c, command) in table {
            assert_eq!(tap(&mut keys, key, Some(c), false), [command]);
            assert_eq!(tap(&mut keys, key, Some(c), true), [Command::Edit(Edit::Insert(c))]);
        }
    }

    #[test]
    fn enter_starts_and_sends_and_escape_ends_typing() {
        let mut keys = Keys::default();
        assert_eq!(tap(&mut keys, Key::Enter, Some('\r'), false), [Command::Type]);
        assert_eq!(tap(&mut keys, Key::Enter, Some('\r'), true), [Command::Send]);
        assert_eq!(tap(&mut keys, Key::NumPadEnter, Some('\r'), true), [Command::Send]);
        assert_eq!(tap(&mut keys, Key::Escape, Some('\u{1b}'), true), [Command::StopTyping]);
        assert_eq!(tap(&mut keys, Key::Escape, None, false), [Command::Close]);
    }

    #[test]
    fn a_held_key_mutes_once_but_keeps_typing() {
        let mut keys = Keys::default();
        let held = [Input::Down(Key::M), Input::Char('m'), Input::Down(Key::M), Input::Char('m')];
        let commands: Vec<_> = held.iter().filter_map(|&e| keys.command(e, false)).collect();
        assert_eq!(commands, [Command::Mute]);
        let mut keys = Keys::default();
        assert_eq!(held.iter().filter_map(|&e| keys.command(e, true)).count(), 2);
        let mut keys = Keys::default();
        let back = [Input::Down(Key::Backspace); 3];
        assert_eq!(back.iter().filter_map(|&e| keys.command(e, true)).count(), 3);
    }

    #[test]
    fn shortcuts_of_others_are_left_alone() {
        for modifier in [Key::LeftCtrl, Key::LeftAlt, Key::RightSuper] {
            let mut keys = Keys::default();
            keys.command(Input::Down(modifier), false);
            assert_eq!(tap(&mut keys, Key::Q, Some('q'), false), []);
            assert_eq!(tap(&mut keys, Key::Q, Some('q'), true), []);
            keys.command(Input::Blur, false);
            assert_eq!(tap(&mut keys, Key::Q, Some('q'), false), [Command::Quit], "released out of sight");
        }
        let mut keys = Keys::default();
        keys.command(Input::Down(Key::RightAlt), true);
        assert_eq!(tap(&mut keys, Key::Q, Some('@'), true), [Command::Edit(Edit::Insert('@'))]);
    }

    #[test]
    fn control_moves_by_words() {
        let mut keys = Keys::default();
        keys.command(Input::Down(Key::LeftCtrl), true);
        assert_eq!(tap(&mut keys, Key::Backspace, Some('\u{8}'), true), [Command::Edit(Edit::DeleteWord)]);
        assert_eq!(tap(&mut keys, Key::Left, None, true), [Command::Edit(Edit::WordLeft)]);
        keys.command(Input::Up(Key::LeftCtrl), true);
        assert_eq!(tap(&mut keys, Key::Left, None, true), [Command::Edit(Edit::Left)]);
    }
}
