//! Names and numbers that identify people, rooms, tracks and frames.

use std::fmt;

/// A participant of one room, given out by the relay. Never reused within a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParticipantId(pub u32);

/// A stream of media frames of one participant, given out by the relay and unique within the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId(pub u16);

/// Number of a frame within its track. Counts up by one and wraps.
///
/// The order is that of serial number arithmetic (RFC 1982): of two ids less than 2^31 apart, the one reached by
/// counting up is the later. It is not a total order, hence no `Ord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameId(pub u32);

impl FrameId {
    /// The frame `n` steps later.
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// The frame `n` steps earlier.
    #[must_use]
    pub const fn minus(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// How many steps `self` is after `earlier`; negative when it is before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// Whether `self` comes after `other`.
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        self.since(other) > 0
    }
}

/// Identity of a chat message, made by the client that wrote it, so that a message sent twice is stored once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChatId(pub [u8; 16]);

impl fmt::Display for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Name of a room: 1 to 64 bytes of printable text without white space at its ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(Box<str>);

/// Name that a person shows to the others: 1 to 64 bytes of printable text without white space at its ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DisplayName(Box<str>);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but white space.
    #[error("it is empty")]
    Empty,
    /// More than [`MAX_NAME_BYTES`] bytes.
    #[error("it is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// A control character, or one that changes the direction of text around it.
    #[error("it has a control character")]
    Control,
}

impl RoomName {
    /// Takes a name after trimming white space.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        checked(text).map(Self)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Room names are private: logs above `debug` must not show them, so the name hides itself.
impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomName(..)")
    }
}

impl DisplayName {
    /// Takes a name after trimming white space.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        checked(text).map(Self)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn checked(text: &str) -> Result<Box<str>, NameError> {
    let text = text.trim();
    match text {
        "" => Err(NameError::Empty),
        _ if text.len() > MAX_NAME_BYTES => Err(NameError::TooLong),
        _ if text.chars().any(misleads) => Err(NameError::Control),
        _ => Ok(text.into()),
    }
}

/// Characters that would let one name pass for another or break a line: controls, and the bidirectional and
/// invisible format characters that Unicode Technical Report 36 warns of.
#[must_use]
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Longest name in bytes of UTF-8: fits a tile's caption and keeps a roster of hundreds under one control message.
pub const MAX_NAME_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_ids_keep_their_order_across_the_wrap() {
        let last = FrameId(u32::MAX);
        assert!(last.plus(1).is_after(last));
        assert_eq!(last.plus(3), FrameId(2));
        assert_eq!(FrameId(2).since(last), 3);
        assert_eq!(last.since(FrameId(2)), -3);
        assert!(!last.is_after(last));
    }

    #[test]
    fn names_are_trimmed_and_checked() {
        assert_eq!(DisplayName::parse("  Ann Lee ").expect("a name").as_str(), "Ann Lee");
        assert_eq!(DisplayName::parse("日本 🙂").expect("a name").as_str(), "日本 🙂");
        assert_eq!(DisplayName::parse(" \t"), Err(NameError::Empty));
        assert_eq!(DisplayName::parse(&"x".repeat(65)), Err(NameError::TooLong));
        assert_eq!(DisplayName::parse("a\nb"), Err(NameError::Control));
        assert_eq!(DisplayName::parse("a\u{202e}b"), Err(NameError::Control));
        assert_eq!(RoomName::parse("a\0"), Err(NameError::Control));
    }

    #[test]
    fn a_room_name_does_not_show_in_debug_output() {
        let room = RoomName::parse("secret plans").expect("a name");
        assert!(!format!("{room:?}").contains("secret"));
    }
}
