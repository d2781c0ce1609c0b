//! The chat of a room: one order for everybody, kept for those who come later.

use std::collections::VecDeque;

use prost::Message;

use super::page::Older;
use crate::id::{ChatId, ParticipantId};
use crate::wire::limits::{CHAT_HISTORY, LINE_COST, MAX_CHAT_TEXT, MAX_HISTORY, MAX_PENDING};
use crate::wire::pb;

/// What is kept of a room, for [`Room::new`](super::Room::new).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Random, so that a client notices when the relay has lost the lines it knew.
    pub history: u64,
    /// The number of the last line; zero before the first.
    pub last_seq: u64,
    /// The newest lines, oldest first, without a gap up to `last_seq`.
    pub lines: Vec<pb::Line>,
    /// Participants may have had the numbers up to this one. Those who come are given later ones.
    pub participants: u32,
}

/// A line that is to be stored. It is shown to nobody before [`Room::handle_stored`](super::Room::handle_stored) says that it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Post {
    /// Whose it is. Of one author, an identity counts once.
    pub author: Author,
    /// The identity that its author gave it.
    pub id: ChatId,
    /// The line, without its number.
    pub line: pb::Line,
}

/// The pin of a writer's key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Author(pub [u8; 32]);

/// Not for logs.
impl std::fmt::Debug for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Author(..)")
    }
}

/// What became of a post that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is a new line of this history, with this number.
    New {
        /// The history; another than before when the lines of before are lost.
        history: u64,
        /// The number, one more than that of the line stored before.
        seq: u64,
    },
    /// It was stored before under this number: its acknowledgement was lost.
    Known(u64),
    /// It is not stored.
    Failed,
}

/// The lines of a room in the order in which they were stored, and those that wait for that.
///
/// Keeps the newest [`CHAT_HISTORY`] lines, of [`MAX_HISTORY`] bytes at most, at hand.
#[derive(Debug)]
pub(crate) struct History {
    id: u64,
    lines: VecDeque<pb::Line>,
    /// Of `lines`, as [`cost`] counts them.
    bytes: usize,
    last_seq: u64,
    /// In the order in which they came, at most [`MAX_PENDING`].
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    post: Post,
    /// Who waits for the answer: the author, and again if they came back meanwhile.
    asked: Vec<ParticipantId>,
}

/// What is to be done with a post.
#[derive(Debug, PartialEq)]
pub(crate) enum Posted {
    /// To be stored.
    Store(Post),
    /// It waits for that already.
    Waits,
    /// Not stored.
    Refused(pb::RefusalReason),
}

/// What is to be said of a post.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    /// To those who asked.
    pub(crate) asked: Vec<ParticipantId>,
    pub(crate) id: ChatId,
    /// The number it is stored under; `None`: it is not.
    pub(crate) seq: Option<u64>,
    /// The new line, for everybody.
    pub(crate) line: Option<pb::Line>,
    /// What everybody has to be told before: the lines that they know are lost.
    pub(crate) begun_anew: Option<pb::History>,
}

impl History {
    pub(crate) fn new(kept: Kept) -> Self {
        let Kept { history: id, last_seq, lines, .. } = kept;
        let bytes = lines.iter().map(cost).sum();
        let mut history = Self { id, lines: lines.into(), bytes, last_seq, pending: VecDeque::new() };
        history.trim();
        history
    }

    pub(crate) fn post(
        &mut self,
        author: (Author, ParticipantId, &str),
        id: ChatId,
        text: &str,
        sent_ms: u64,
    ) -> Posted {
        let (author, participant, name) = author;
        if let Some(waits) = self.pending.iter_mut().find(|p| (p.post.author, p.post.id) == (author, id)) {
            if !waits.asked.contains(&participant) {
                waits.asked.push(participant);
            }
            return Posted::Waits;
        }
        let text = text.trim_end();
        if text.is_empty() {
            return Posted::Refused(pb::RefusalReason::Empty);
        }
        if text.len() > MAX_CHAT_TEXT {
            return Posted::Refused(pb::RefusalReason::TooLong);
        }
        if self.pending.len() >= MAX_PENDING {
            return Posted::Refused(pb::RefusalReason::NotStored);
        }
        let line = pb::Line {
            seq: 0,
            id: id.0.to_vec(),
            participant: participant.0,
            name: name.into(),
            text: text.into(),
            sent_ms,
        };
        let post = Post { author, id, line };
        self.pending.push_back(Pending { post: post.clone(), asked: vec![participant] });
        Posted::Store(post)
    }

    /// `None` for a post that nobody waits for.
    pub(crate) fn stored(&mut self, author: Author, id: ChatId, stored: Stored) -> Option<Outcome> {
        let at = self.pending.iter().position(|p| (p.post.author, p.post.id) == (author, id))?;
        let Pending { post, asked } = self.pending.remove(at)?;
        let mut outcome = Outcome { asked, id, seq: None, line: None, begun_anew: None };
        match stored {
            Stored::Known(seq) => outcome.seq = Some(seq),
            Stored::Failed => {}
            Stored::New { history, seq } => {
                if history != self.id {
                    self.id = history;
                    self.lines.clear();
                    self.bytes = 0;
                    outcome.begun_anew = Some(pb::History { id: history, after_seq: seq.saturating_sub(1) });
                }
                let line = pb::Line { seq, ..post.line };
                self.last_seq = seq;
                self.bytes += cost(&line);
                self.lines.push_back(line.clone());
                self.trim();
                outcome.seq = Some(seq);
                outcome.line = Some(line);
            }
        }
        Some(outcome)
    }

    /// The answer to a client whose copy ends as `resume` says: where the lines that follow begin, and the lines.
    pub(crate) fn since(
        &self,
        resume: pb::Resume,
    ) -> (pb::History, impl Iterator<Item = &pb::Line> + use<'_>) {
        let known = if resume.history == self.id { resume.after_seq.min(self.last_seq) } else { 0 };
        let oldest = self.lines.front().map_or(self.last_seq, |l| l.seq - 1);
        let after_seq = known.max(oldest);
        let missed = self.lines.iter().filter(move |l| l.seq > after_seq);
        (pb::History { id: self.id, after_seq }, missed)
    }

    /// The page, if the lines at hand are enough for it.
    pub(crate) fn older(&self, older: Older) -> Option<pb::Page> {
        let end = self.lines.partition_point(|l| l.seq < older.before);
        let begin = end.saturating_sub(older.lines() as usize);
        // Nothing is before the first line of all.
        let whole = self.lines.front().map_or(self.last_seq == 0, |l| l.seq <= 1);
        if end - begin < older.lines() as usize && !whole {
            return None;
        }
        let lines = self.lines.range(begin..end).cloned().collect();
        Some(older.page(Kept { history: self.id, last_seq: self.last_seq, lines, ..Kept::default() }))
    }

    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    fn trim(&mut self) {
        while self.lines.len() > CHAT_HISTORY || self.bytes > MAX_HISTORY {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= cost(&oldest);
        }
    }
}

fn cost(line: &pb::Line) -> usize {
    line.encoded_len() + LINE_COST
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Author = Author([1; 32]);

    fn history() -> History {
        History::new(Kept { history: 9, ..Kept::default() })
    }

    fn id(n: u32) -> ChatId {
        ChatId([[0; 12].as_slice(), &n.to_be_bytes()].concat().try_into().expect("16 bytes"))
    }

    fn post(h: &mut History, n: u32, text: &str) -> Posted {
        h.post((ANN, ParticipantId(1), "ann"), id(n), text, 5)
    }

    /// Posts and stores.
    fn add(h: &mut History, n: u32, text: &str) -> Outcome {
        assert!(matches!(post(h, n, text), Posted::Store(_)), "line {n}");
        let seq = h.last_seq + 1;
        h.stored(ANN, id(n), Stored::New { history: 9, seq }).expect("it waits")
    }

    fn missed(h: &History, history: u64, after_seq: u64) -> (u64, Vec<u64>) {
        let (answer, lines) = h.since(pb::Resume { history, after_seq });
        (answer.after_seq, lines.map(|l| l.seq).collect())
    }

    #[test]
    fn lines_are_replayed_from_where_the_client_was() {
        let mut h = history();
        for n in 1..=3 {
            let outcome = add(&mut h, n, "x");
            assert_eq!((outcome.seq, outcome.line.map(|l| l.seq)), (Some(n.into()), Some(n.into())));
        }
        assert_eq!(missed(&h, 0, 0), (0, vec![1, 2, 3]));
        assert_eq!(missed(&h, 9, 2), (2, vec![3]));
        assert_eq!(missed(&h, 9, 99), (3, vec![]));
        assert_eq!(missed(&h, 8, 2), (0, vec![1, 2, 3]), "another history: everything");
    }

    #[test]
    fn nobody_sees_a_line_before_it_is_stored() {
        let mut h = history();
        assert!(matches!(post(&mut h, 1, "x"), Posted::Store(p) if p.line.text == "x" && p.line.seq == 0));
        assert_eq!(missed(&h, 0, 0), (0, vec![]));
        let failed = h.stored(ANN, id(1), Stored::Failed).expect("it waited");
        assert_eq!((failed.seq, failed.line, failed.asked), (None, None, vec![ParticipantId(1)]));
        assert_eq!(missed(&h, 0, 0), (0, vec![]));
        assert!(matches!(post(&mut h, 1, "x"), Posted::Store(_)), "it can be tried again");
    }

    #[test]
    fn a_post_that_is_repeated_is_stored_once_and_whoever_asked_is_answered() {
        let mut h = history();
        assert!(matches!(post(&mut h, 1, "x"), Posted::Store(_)));
        // The author came back and is somebody else in this room; and another person has the same idea of an identity.
        assert_eq!(h.post((ANN, ParticipantId(2), "ann"), id(1), "x", 6), Posted::Waits);
        let bob = Author([2; 32]);
        assert!(matches!(h.post((bob, ParticipantId(3), "bob"), id(1), "y", 6), Posted::Store(_)));
        let outcome = h.stored(ANN, id(1), Stored::New { history: 9, seq: 1 }).expect("it waited");
        assert_eq!(outcome.asked, [ParticipantId(1), ParticipantId(2)]);
        // Whether it was stored before, only the store knows.
        assert!(matches!(post(&mut h, 1, "x"), Posted::Store(_)));
        let known = h.stored(ANN, id(1), Stored::Known(1)).expect("it waited");
        assert_eq!((known.seq, known.line), (Some(1), None));
        assert_eq!(h.stored(ANN, id(1), Stored::Known(1)), None, "nobody waits");
    }

    #[test]
    fn when_the_store_has_lost_all_everybody_is_told() {
        let mut h = history();
        add(&mut h, 1, "x");
        add(&mut h, 2, "x");
        assert!(matches!(post(&mut h, 3, "x"), Posted::Store(_)));
        let outcome = h.stored(ANN, id(3), Stored::New { history: 10, seq: 1 }).expect("it waited");
        assert_eq!(outcome.begun_anew, Some(pb::History { id: 10, after_seq: 0 }));
        assert_eq!(missed(&h, 9, 2), (0, vec![1]));
    }

    #[test]
    fn a_room_goes_on_where_it_was() {
        let line = |seq| pb::Line { seq, text: "x".into(), ..pb::Line::default() };
        let h =
            History::new(Kept { history: 9, last_seq: 8, lines: vec![line(7), line(8)], participants: 0 });
        assert_eq!(missed(&h, 9, 7), (7, vec![8]));
        assert_eq!(missed(&h, 0, 0), (6, vec![7, 8]));
        let empty = History::new(Kept { history: 9, last_seq: 8, lines: vec![], participants: 0 });
        assert_eq!(missed(&empty, 0, 0), (8, vec![]), "all were too old to keep");
    }

    #[test]
    fn the_oldest_lines_are_forgotten_and_the_client_is_told() {
        let mut h = history();
        (1..=CHAT_HISTORY as u32 + 5).for_each(|n| drop(add(&mut h, n, "x")));
        let (after, lines) = missed(&h, 9, 2);
        assert_eq!((after, lines.len(), lines[0]), (5, CHAT_HISTORY, 6));
    }

    #[test]
    fn a_page_comes_from_the_lines_at_hand_if_they_are_enough() {
        let page = |h: &History, before, limit| {
            let page = h.older(Older::from(pb::Older { before, limit }))?;
            Some((page.lines.iter().map(|l| l.seq).collect::<Vec<_>>(), page.more))
        };
        let mut h = history();
        assert_eq!(page(&h, 9, 2), Some((vec![], false)), "nothing was written");
        (1..=5).for_each(|n| drop(add(&mut h, n, "x")));
        assert_eq!(page(&h, 4, 2), Some((vec![2, 3], true)));
        assert_eq!(page(&h, 3, 2), Some((vec![1, 2], false)));
        assert_eq!(page(&h, 1, 2), Some((vec![], false)));
        assert_eq!(page(&h, u64::MAX, 2), Some((vec![4, 5], true)));

        let line = |seq| pb::Line { seq, ..pb::Line::default() };
        let h = History::new(Kept {
            history: 9,
            last_seq: 9,
            lines: (6..=9).map(line).collect(),
            ..Kept::default()
        });
        assert_eq!(page(&h, 9, 2), Some((vec![7, 8], true)));
        assert_eq!(page(&h, 8, 2), None, "whether there are more, only the store knows");
        assert_eq!(page(&h, 6, 2), None);
        let h = History::new(Kept { history: 9, last_seq: 9, ..Kept::default() });
        assert_eq!(page(&h, 9, 2), None, "all were too old to keep at hand");
    }

    #[test]
    fn long_lines_are_forgotten_sooner() {
        let mut h = history();
        let long = "x".repeat(MAX_CHAT_TEXT);
        (0..CHAT_HISTORY as u32).for_each(|n| drop(add(&mut h, n, &long)));
        let kept: usize = h.lines.iter().map(|l| l.text.len()).sum();
        assert!((MAX_HISTORY / 2..=MAX_HISTORY).contains(&kept), "{kept} bytes");
        let (after, lines) = missed(&h, 9, 0);
        assert_eq!(after + lines.len() as u64, CHAT_HISTORY as u64, "the newest are there");
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let mut h = history();
        let refused = |posted| match posted {
            Posted::Refused(why) => Some(why),
            _ => None,
        };
        assert_eq!(refused(post(&mut h, 1, " \n")), Some(pb::RefusalReason::Empty));
        let long = "x".repeat(MAX_CHAT_TEXT + 1);
        assert_eq!(refused(post(&mut h, 1, &long)), Some(pb::RefusalReason::TooLong));
        (1..=MAX_PENDING as u32).for_each(|n| assert_eq!(refused(post(&mut h, n, &long[1..])), None));
        assert_eq!(
            refused(post(&mut h, 0, "x")),
            Some(pb::RefusalReason::NotStored),
            "a disk that does not answer"
        );
    }
}
