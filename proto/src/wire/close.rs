//! Application codes with which a connection is closed.

/// Why a side closed the connection. The number is the QUIC application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// Goodbye: the call was left, nothing is wrong.
    Goodbye = 0,
    /// A message or datagram that this specification does not allow.
    Protocol = 1,
    /// The hello names a room or a person with a name that is none.
    BadName = 2,
    /// The room has [`super::limits::MAX_PARTICIPANTS`] people.
    RoomFull = 3,
    /// No hello came within [`super::limits::HELLO_TIMEOUT`].
    HelloTimeout = 4,
    /// More messages than [`super::limits`] allows, or more connections than a device may have.
    TooFast = 5,
    /// The relay stops; come back in a moment.
    ShuttingDown = 6,
    /// The receiver reads its streams too slowly and its queue of messages is full.
    TooSlow = 7,
    /// The relay does not know the client's key: pair first.
    NotPaired = 8,
    /// The operator has revoked the client's key.
    Revoked = 9,
    /// The client's invite was for other rooms.
    OtherRoom = 10,
    /// The client's device is not an administrator's.
    NotAdmin = 11,
    /// The relay has as many people, or as many rooms with people in them, as its operator lets it have.
    RelayFull = 12,
    /// The relay is at the limit of memory or bandwidth that its operator has set.
    Overloaded = 13,
}

impl CloseCode {
    /// All codes, for tables and tests.
    pub const ALL: [Self; 14] = [
        Self::Goodbye,
        Self::Protocol,
        Self::BadName,
        Self::RoomFull,
        Self::HelloTimeout,
        Self::TooFast,
        Self::ShuttingDown,
        Self::TooSlow,
        Self::NotPaired,
        Self::Revoked,
        Self::OtherRoom,
        Self::NotAdmin,
        Self::RelayFull,
        Self::Overloaded,
    ];

    /// The code of a number seen on the wire; none for one that this version does not know.
    #[must_use]
    pub fn from_u64(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|c| *c as u64 == code)
    }

    /// Whether a client that was closed with this code may connect again by itself.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::TooSlow | Self::RelayFull | Self::Overloaded)
    }

    /// The reason in words, sent along with the code.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::Protocol => "protocol error",
            Self::BadName => "the name of the room or of the person is not allowed",
            Self::RoomFull => "the room is full",
            Self::HelloTimeout => "no hello in time",
            Self::TooFast => "too many messages or connections",
            Self::ShuttingDown => "the relay is shutting down",
            Self::TooSlow => "messages were not read in time",
            Self::NotPaired => "this device is not paired with the relay",
            Self::Revoked => "this device has been revoked",
            Self::OtherRoom => "this device was invited to other rooms",
            Self::NotAdmin => "this device is not an administrator's",
            Self::RelayFull => "the relay has as many people or rooms as it may have; try again later",
            Self::Overloaded => "the relay has no memory or bandwidth for one more; try again later",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_their_numbers_for_ever() {
        let numbers: Vec<u32> = CloseCode::ALL.iter().map(|c| *c as u32).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        assert!(CloseCode::ALL.iter().all(|c| CloseCode::from_u64(*c as u64) == Some(*c)));
        assert_eq!(CloseCode::from_u64(14), None);
    }
}
