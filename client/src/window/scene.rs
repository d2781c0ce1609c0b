//! What the window shows: plain data that the call hands over, no pixels and no devices.

use std::sync::Arc;

use vchat_proto::id::ChatId;

use crate::picture::Picture;

/// Everything that is on the screen at one moment, except what only the window knows (what is being typed, how far
/// the chat is scrolled, which panels are open).
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// The room's name.
    pub room: String,
    /// The people, in the order they are laid out. One's own tile comes last.
    pub tiles: Vec<Tile>,
    /// The chat, oldest first. Hand over the same `Arc` while nothing changed: it is compared by address first.
    pub chat: Arc<[ChatLine]>,
    /// What is above the oldest message.
    pub above: Above,
    /// A notice above the tiles, such as `Reconnecting…`.
    pub banner: Option<String>,
    /// Lines of statistics, shown while there are some. The call sets them after [`Action::ToggleStatistics`].
    pub statistics: Option<String>,
    /// What one's own devices do.
    pub me: Me,
}

/// The state of one's own microphone and camera, for the buttons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Me {
    /// Nobody hears me.
    pub muted: bool,
    /// Nobody sees me.
    pub camera_off: bool,
}

/// One person, or one screen that is shared.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Tells tiles apart; the same tile keeps it.
    pub id: u64,
    /// Name below the picture, also the source of initials and colour while there is no picture.
    pub name: String,
    /// The newest picture, if one came yet.
    pub picture: Option<Arc<Picture>>,
    /// Changes with each new picture. The picture is painted again when this number changes, never otherwise.
    pub version: u64,
    /// A crossed microphone beside the name.
    pub muted: bool,
    /// Initials are shown in place of the picture.
    pub camera_off: bool,
    /// A green frame around the tile.
    pub speaking: bool,
    /// One's own tile: mirrored, as people know themselves, and set small beside the chat when there is room.
    pub me: bool,
}

/// One chat message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatLine {
    /// Identity of the message.
    pub id: ChatId,
    /// Who wrote it.
    pub name: String,
    /// What was written.
    pub text: String,
    /// When it was sent, in milliseconds since 1970 UTC. Shown in local time.
    pub time_ms: u64,
    /// I wrote it.
    pub mine: bool,
    /// The relay has not confirmed it yet: drawn dim.
    pub pending: bool,
}

/// What is above the oldest message of the chat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Above {
    /// Nobody knows yet.
    #[default]
    Unknown,
    /// Older messages, perhaps; the call brings them after [`Action::ReadBack`].
    Older,
    /// They are on their way.
    Coming,
    /// Nothing: it is the first.
    Beginning,
    /// Older messages that are too many for the window.
    Beyond,
}

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Turn the microphone off or on.
    ToggleMute,
    /// Turn the camera off or on.
    ToggleCamera,
    /// Show or hide the statistics.
    ToggleStatistics,
    /// Send this chat message: not empty, at most [`MAX_MESSAGE_BYTES`] bytes, no control characters.
    Say(String),
    /// Bring older messages than those there are ([`Above::Older`]).
    ReadBack,
    /// Leave the call.
    Quit,
}

/// Longest chat message that can be typed, in bytes of UTF-8: a screenful, and one control message holds it.
pub const MAX_MESSAGE_BYTES: usize = 2000;
