//! The line being typed.

use unicode_segmentation::UnicodeSegmentation;

/// Text with a cursor. The cursor always stands between two characters as people see them (grapheme clusters), so
/// one press of Backspace takes a whole flag, family or accented letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Editor {
    text: String,
    /// Bytes before the cursor.
    cursor: usize,
}

/// A change that a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    Insert(char),
    Backspace,
    Delete,
    DeleteWord,
    Clear,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
}

impl Editor {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Bytes before the cursor.
    pub(crate) const fn cursor(&self) -> usize {
        self.cursor
    }

    /// Applies `edit`. A character that would make the text longer than `limit` bytes is not taken.
    pub(crate) fn apply(&mut self, edit: Edit, limit: usize) {
        match edit {
            Edit::Insert(c) => self.insert(c, limit),
            Edit::Backspace => self.remove_from(self.before()),
            Edit::DeleteWord => self.remove_from(self.word_before()),
            Edit::Delete => {
                self.text.replace_range(self.cursor..self.after(), "");
                self.settle();
            }
            Edit::Clear => *self = Self::default(),
            Edit::Left => self.cursor = self.before(),
            Edit::Right => self.cursor = self.after(),
            Edit::WordLeft => self.cursor = self.word_before(),
            Edit::WordRight => self.cursor = self.word_after(),
            Edit::Home => self.cursor = 0,
            Edit::End => self.cursor = self.text.len(),
        }
    }

    /// Puts the cursor at the character boundary at or before byte `index`.
    pub(crate) fn place(&mut self, index: usize) {
        let nearest = self.boundaries().take_while(|&b| b <= index).last();
        self.cursor = nearest.unwrap_or(0);
    }

    /// Takes the message if it is more than white space, and starts a new one.
    pub(crate) fn take(&mut self) -> Option<String> {
        let message = self.text.trim().to_owned();
        if message.is_empty() {
            return None;
        }
        *self = Self::default();
        Some(message)
    }

    fn insert(&mut self, c: char, limit: usize) {
        if c.is_control() || self.text.len() + c.len_utf8() > limit {
            return;
        }
        self.text.insert(self.cursor, c);
        self.cursor += c.len_utf8();
        self.settle();
    }

    fn remove_from(&mut self, start: usize) {
        self.text.replace_range(start..self.cursor, "");
        self.cursor = start;
        self.settle();
    }

    /// Joining may have merged the characters around the cursor: it moves behind the merged one.
    fn settle(&mut self) {
        let next = self.boundaries().find(|&b| b >= self.cursor);
        self.cursor = next.unwrap_or(self.text.len());
    }

    fn boundaries(&self) -> impl Iterator<Item = usize> {
        self.text.grapheme_indices(true).map(|(i, _)| i).chain([self.text.len()])
    }

    fn before(&self) -> usize {
        self.text[..self.cursor].grapheme_indices(true).next_back().map_or(0, |(i, _)| i)
    }

    fn after(&self) -> usize {
        self.text[self.cursor..].graphemes(true).next().map_or(self.cursor, |g| self.cursor + g.len())
    }

    fn word_before(&self) -> usize {
        let words = self.text[..self.cursor].split_word_bound_indices();
        words.rev().find(|(_, w)| !w.trim().is_empty()).map_or(0, |(i, _)| i)
    }

    fn word_after(&self) -> usize {
        let mut words = self.text[self.cursor..].split_word_bound_indices();
        words.find(|(_, w)| !w.trim().is_empty()).map_or(self.text.len(), |(i, w)| self.cursor + i + w.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Editor {
        let mut editor = Editor::default();
        text.chars().for_each(|c| editor.apply(Edit::Insert(c), 2000));
        editor
    }

    fn after(text: &str, edits: &[Edit]) -> (String, usize) {
        let mut editor = typed(text);
        edits.iter().for_each(|&e| editor.apply(e, 2000));
        (editor.text.clone(), editor.cursor)
    }

    #[test]
    fn backspace_takes_one_character_as_seen() {
        for c in ["a", "ß", "日", "e\u{301}", "🇩🇪", "👩‍👩‍👧‍👦", "👍🏽", "क्षि"]
        {
            assert_eq!(after(&format!("x{c}"), &[Edit::Backspace]), ("x".into(), 1), "{c}");
            assert_eq!(
                after(&format!("x{c}y"), &[Edit::Left, Edit::Left, Edit::Delete]),
                ("xy".into(), 1),
                "{c}"
            );
        }
        assert_eq!(after("", &[Edit::Backspace, Edit::Delete, Edit::DeleteWord]), (String::new(), 0));
    }

    #[test]
    fn the_cursor_inserts_where_it_stands() {
        let edits =
            [Edit::Left, Edit::Insert('é'), Edit::Home, Edit::Insert('>'), Edit::End, Edit::Insert('.')];
        assert_eq!(after("ab", &edits).0, ">aéb.");
        assert_eq!(
            after("ab", &[Edit::Left, Edit::Left, Edit::Left, Edit::Right, Edit::Right, Edit::Right]).1,
            2
        );
    }

    #[test]
    fn words_are_skipped_and_deleted_whole() {
        assert_eq!(after("one two  ", &[Edit::DeleteWord]).0, "one ");
        assert_eq!(after("one two", &[Edit::WordLeft, Edit::WordLeft, Edit::WordRight]).1, 3);
        assert_eq!(after("one two", &[Edit::Clear]), (String::new(), 0));
    }

    #[test]
    fn the_limit_counts_bytes_and_controls_are_not_taken() {
        let mut editor = Editor::default();
        "日本語".chars().for_each(|c| editor.apply(Edit::Insert(c), 8));
        assert_eq!(editor.text(), "日本");
        "\n\t\u{1b}a".chars().for_each(|c| editor.apply(Edit::Insert(c), 8));
        assert_eq!(editor.text(), "日本a");
    }

    #[test]
    fn only_text_is_sent() {
        assert_eq!(typed("   ").take(), None);
        let mut editor = typed(" hi ");
        assert_eq!(editor.take(), Some("hi".into()));
        assert_eq!(editor, Editor::default());
    }

    #[test]
    fn random_edits_keep_the_cursor_on_a_boundary() {
        let chars: Vec<char> = "a é\u{301}👩\u{200d}🇩🇪日ש\u{fe0f}क्ष ".chars().collect();
        let mut state = 7_u64;
        let mut editor = Editor::default();
        for _ in 0..20_000 {
            // xorshift: a fixed sequence is enough here.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let edits = [
                Edit::Backspace,
                Edit::Delete,
                Edit::Left,
                Edit::Right,
                Edit::Home,
                Edit::End,
                Edit::DeleteWord,
                Edit::WordLeft,
                Edit::WordRight,
            ];
            let pick = (state >> 8) as usize;
            match pick % 20 {
                n if n < edits.len() => editor.apply(edits[n], 60),
                9 => editor.place(pick % 70),
                _ => editor.apply(Edit::Insert(chars[pick / 32 % chars.len()]), 60),
            }
            assert!(editor.text.len() <= 60);
            assert!(editor.boundaries().any(|b| b == editor.cursor), "{:?}", editor);
        }
    }
}
