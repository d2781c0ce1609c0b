//! Pages of old chat, each small enough for one message.

use prost::Message;

use super::chat::Kept;
use crate::wire::limits::{MAX_MESSAGE, MAX_PAGE};
use crate::wire::pb;

/// A request for lines before a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Older {
    /// Those with smaller numbers.
    pub before: u64,
    /// At most so many, 1 to [`MAX_PAGE`].
    most: u32,
}

impl Older {
    /// How many of the newest lines are to be looked for: one beyond the page tells whether there are more.
    #[must_use]
    pub const fn lines(self) -> u32 {
        self.most + 1
    }

    /// The page of what was found: the newest of these lines (oldest first, all before the number, at most [`Self::lines`]).
    #[must_use]
    pub fn page(self, found: Kept) -> pb::Page {
        let Kept { history, mut lines, .. } = found;
        let mut room = MAX_MESSAGE - FRAME;
        let fits = |line: &&pb::Line| {
            let size = line.encoded_len() + LINE_FRAME;
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        };
        let taken = lines.iter().rev().take(self.most as usize).take_while(fits).count();
        let more = lines.len() > taken;
        lines.drain(..lines.len() - taken);
        pb::Page { history, before: self.before, lines, more }
    }

    /// The answer when the lines cannot be read.
    #[must_use]
    pub const fn unread(self, history: u64) -> pb::Page {
        pb::Page { history, before: self.before, lines: Vec::new(), more: true }
    }
}

impl From<pb::Older> for Older {
    fn from(pb::Older { before, limit }: pb::Older) -> Self {
        Self { before, most: if limit == 0 { MAX_PAGE } else { limit.min(MAX_PAGE) } }
    }
}

/// What a message of one page takes besides its lines: two tags and lengths, three numbers, a flag.
const FRAME: usize = 64;
/// What a line takes besides its encoding: a tag and a length.
const LINE_FRAME: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::limits::MAX_CHAT_TEXT;

    fn found(count: u64, text: &str) -> Kept {
        let line = |seq| pb::Line { seq, text: text.into(), ..pb::Line::default() };
        Kept { history: 9, last_seq: 1000, lines: (1..=count).map(line).collect(), ..Kept::default() }
    }

    fn numbers(page: &pb::Page) -> Vec<u64> {
        page.lines.iter().map(|l| l.seq).collect()
    }

    #[test]
    fn a_page_has_the_newest_lines_and_says_whether_there_are_more() {
        let older = Older::from(pb::Older { before: 4, limit: 2 });
        let page = older.page(found(3, "x"));
        assert_eq!((numbers(&page), page.more, page.history, page.before), (vec![2, 3], true, 9, 4));
        let page = older.page(found(2, "x"));
        assert_eq!((numbers(&page), page.more), (vec![1, 2], false));
        let page = older.page(found(0, "x"));
        assert_eq!((numbers(&page), page.more), (vec![], false));
    }

    #[test]
    fn a_client_gets_no_more_than_a_page() {
        for limit in [0, MAX_PAGE, MAX_PAGE + 1, u32::MAX] {
            assert_eq!(Older::from(pb::Older { before: 1, limit }).lines(), MAX_PAGE + 1, "{limit}");
        }
    }

    #[test]
    fn long_lines_make_a_shorter_page_and_never_too_long_a_message() {
        let older = Older::from(pb::Older { before: u64::MAX, limit: 0 });
        let page = older.page(found(MAX_PAGE.into(), &"x".repeat(MAX_CHAT_TEXT)));
        assert!(page.more && page.lines.len() > 25, "{}", page.lines.len());
        assert_eq!(page.lines.last().map(|l| l.seq), Some(MAX_PAGE.into()), "the newest are there");
        let message = pb::ChatDown { body: Some(pb::chat_down::Body::Page(page)) };
        assert!(
            (MAX_MESSAGE - 3000..=MAX_MESSAGE).contains(&message.encoded_len()),
            "{}",
            message.encoded_len()
        );
    }
}
