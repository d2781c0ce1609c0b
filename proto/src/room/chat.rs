//! The chat of a room: one order for everybody, kept for those who come later.

use std::collections::VecDeque;

use prost::Message;

use crate::id::{ChatId, ParticipantId};
use crate::wire::limits::{CHAT_HISTORY, LINE_COST, MAX_CHAT_TEXT, MAX_HISTORY};
use crate::wire::pb;

/// The lines of a room in the order in which the relay took them.
///
/// Keeps the newest [`CHAT_HISTORY`] lines, of [`MAX_HISTORY`] bytes at most; older ones are forgotten.
#[derive(Debug)]
pub(crate) struct History {
    /// Random, so that a client notices when the relay has lost the lines it knew.
    id: u64,
    lines: VecDeque<pb::Line>,
    /// Of `lines`, as [`cost`] counts them.
    bytes: usize,
    last_seq: u64,
}

/// What became of a post.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// A new line, now stored.
    New(pb::Line),
    /// Stored before under this number: its acknowledgement was lost.
    Known(u64),
    /// Not stored.
    Refused(pb::RefusalReason),
}

impl History {
    pub(crate) const fn new(id: u64) -> Self {
        Self { id, lines: VecDeque::new(), bytes: 0, last_seq: 0 }
    }

    pub(crate) fn post(
        &mut self,
        author: (ParticipantId, &str),
        id: ChatId,
        text: &str,
        sent_ms: u64,
    ) -> Posted {
        if let Some(line) = self.lines.iter().rev().find(|l| l.id == id.0) {
            return Posted::Known(line.seq);
        }
        let text = text.trim_end();
        if text.is_empty() {
            return Posted::Refused(pb::RefusalReason::Empty);
        }
        if text.len() > MAX_CHAT_TEXT {
            return Posted::Refused(pb::RefusalReason::TooLong);
        }
        self.last_seq += 1;
        let (ParticipantId(participant), name) = author;
        let line = pb::Line {
            seq: self.last_seq,
            id: id.0.to_vec(),
            participant,
            name: name.into(),
            text: text.into(),
            sent_ms,
        };
        self.bytes += cost(&line);
        self.lines.push_back(line.clone());
        while self.lines.len() > CHAT_HISTORY || self.bytes > MAX_HISTORY {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= cost(&oldest);
        }
        Posted::New(line)
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
}

fn cost(line: &pb::Line) -> usize {
    line.encoded_len() + LINE_COST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(h: &mut History, n: u32) -> Posted {
        let id = ChatId([[0; 12].as_slice(), &n.to_be_bytes()].concat().try_into().expect("16 bytes"));
        h.post((ParticipantId(1), "ann"), id, &format!("line {n}"), 5)
    }

    fn missed(h: &History, history: u64, after_seq: u64) -> (u64, Vec<u64>) {
        let (answer, lines) = h.since(pb::Resume { history, after_seq });
        (answer.after_seq, lines.map(|l| l.seq).collect())
    }

    #[test]
    fn lines_are_numbered_and_replayed_from_where_the_client_was() {
        let mut h = History::new(9);
        for n in 1..=3 {
            assert!(matches!(post(&mut h, n), Posted::New(l) if l.seq == u64::from(n)));
        }
        assert_eq!(missed(&h, 0, 0), (0, vec![1, 2, 3]));
        assert_eq!(missed(&h, 9, 2), (2, vec![3]));
        assert_eq!(missed(&h, 9, 99), (3, vec![]));
        assert_eq!(missed(&h, 8, 2), (0, vec![1, 2, 3]), "another history: everything");
    }

    #[test]
    fn a_post_that_is_repeated_is_stored_once() {
        let mut h = History::new(9);
        post(&mut h, 1);
        post(&mut h, 2);
        assert_eq!(post(&mut h, 1), Posted::Known(1));
        assert_eq!(missed(&h, 0, 0).1, [1, 2]);
    }

    #[test]
    fn the_oldest_lines_are_forgotten_and_the_client_is_told() {
        let mut h = History::new(9);
        (1..=CHAT_HISTORY as u32 + 5).for_each(|n| drop(post(&mut h, n)));
        let (after, lines) = missed(&h, 9, 2);
        assert_eq!((after, lines.len(), lines[0]), (5, CHAT_HISTORY, 6));
    }

    #[test]
    fn long_lines_are_forgotten_sooner() {
        let mut h = History::new(9);
        let long = "x".repeat(MAX_CHAT_TEXT);
        for n in 0..CHAT_HISTORY as u32 {
            let id = ChatId([[0; 12].as_slice(), &n.to_be_bytes()].concat().try_into().expect("16 bytes"));
            h.post((ParticipantId(1), "ann"), id, &long, 5);
        }
        let kept: usize = h.lines.iter().map(|l| l.text.len()).sum();
        assert!((MAX_HISTORY / 2..=MAX_HISTORY).contains(&kept), "{kept} bytes");
        let (after, lines) = missed(&h, 9, 0);
        assert_eq!(after + lines.len() as u64, CHAT_HISTORY as u64, "the newest are there");
    }

    #[test]
    fn empty_and_endless_texts_are_refused() {
        let mut h = History::new(9);
        let mut say = |text: &str| h.post((ParticipantId(1), "ann"), ChatId([text.len() as u8; 16]), text, 5);
        assert_eq!(say(" \n"), Posted::Refused(pb::RefusalReason::Empty));
        assert_eq!(say(&"x".repeat(MAX_CHAT_TEXT + 1)), Posted::Refused(pb::RefusalReason::TooLong));
        assert!(matches!(say(&"x".repeat(MAX_CHAT_TEXT)), Posted::New(_)));
    }
}
