//! What either side must refuse, and what neither side may exceed.

use std::time::Duration;

/// Largest media datagram. Fits QUIC at the minimum MTU of 1200 bytes (1162 usable) and WebTransport on top of it.
pub const MAX_DATAGRAM: usize = 1100;

/// Most fragments of one frame: 270 kB, four times the largest 1080p key frame that the encoder's limits allow.
pub const MAX_FRAGMENTS: u16 = 256;

/// Largest message that a relay may send on a control or chat stream. The largest legitimate one is the welcome to a full room:
/// [`MAX_PARTICIPANTS`] entries of at most about 150 bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Largest message that a client may send on either stream once it is in a room: a post of [`MAX_CHAT_TEXT`] bytes, with room
/// for later kinds. A relay holds one of each stream of every client.
pub const MAX_CLIENT_MESSAGE: usize = 8 * 1024;

/// Largest hello.
pub const MAX_HELLO: usize = 4 * 1024;

/// Largest message of a pairing, the only ones that a stranger can make the relay read. A name and 33 bytes take 200.
pub const MAX_PAIRING: usize = 1024;

/// Time for a pairing, or an administrator's request, from the handshake to the last message: a few round trips, nothing in it waits for a person.
pub const PAIRING_TIMEOUT: Duration = Duration::from_secs(5);

/// Most participants of one room.
pub const MAX_PARTICIPANTS: usize = 256;

/// Most tracks that one participant may publish.
pub const MAX_TRACKS: usize = 4;

/// Longest chat text in bytes of UTF-8: a few paragraphs.
pub const MAX_CHAT_TEXT: usize = 2000;

/// Chat lines that a relay keeps for late joiners, a day of a talkative team.
pub const CHAT_HISTORY: usize = 1000;

/// Bytes of chat lines that a relay keeps of a room, each with what it costs besides ([`LINE_COST`]). What people write has 50
/// to 100 bytes a line; without a bound a thousand rooms of pasted pages would fill the memory.
pub const MAX_HISTORY: usize = 288 * 1024;

/// What a kept chat line takes besides its encoding: its parts are allocated one by one.
pub const LINE_COST: usize = 128;

/// Chat lines of a room that may wait to be stored: half a second of a hundred people who all came back with what they wrote
/// meanwhile.
pub const MAX_PENDING: usize = 1024;

/// Most lines of a page of older chat: several screens.
pub const MAX_PAGE: u32 = 100;

/// What a request for older lines counts as, in messages: the relay may have to read its disk for it. Five a second are more than
/// anybody reads.
pub const PAGE_COST: u32 = 10;

/// Pages a second that a connection for nothing but old chat is given, and at once; who asks sooner waits. A page costs the thread that
/// stores chat some 0.1 ms.
pub const PAGE_RATE: (u32, u32) = (20, 20);

/// Chat posts a second that a participant may keep up, and how many may come at once (a reconnecting client sends
/// what it could not send before).
pub const CHAT_RATE: (u32, u32) = (5, 50);

/// Messages of both streams a second, and at once. A client sends a few a second (clock pings, key-frame requests), and
/// up to a hundred posts when it comes back.
pub const MESSAGE_RATE: (u32, u32) = (50, 200);

/// Media datagrams a second that a relay takes from one participant, and at once. Full ones are 20 Mb/s, beyond what any
/// encoder setting of ours sends; the burst holds two of the largest frames. Bytes would be no measure: a small
/// datagram costs the relay as much as a large one.
pub const MEDIA_RATE: (u32, u32) = (2_300, 600);

/// Frames of sound a second that a relay forwards of one track, and at once: half as much again as there can be, and what an
/// outage of a second held up. Sound goes before everything else, so nobody may have more of it.
pub const SOUND_RATE: (u32, u32) = (150, 100);

/// Time for a client to send its hello after the handshake.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection on which nothing was heard for so long is gone.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(8);

/// How often a client shows that it is there when it has nothing to send. A third of the idle timeout: one or two
/// lost packets do no harm.
pub const KEEP_ALIVE: Duration = Duration::from_millis(2500);
