//! What the client prints to stdout: JSON events, or chat for people.

use std::io::Write;

use serde_json::{Value, json};
use vchat_proto::id::{ChatId, misleads};
use vchat_proto::session::ChatLine;

/// Writes lines to stdout; a reader that is gone is no reason to end a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Printer {
    /// One JSON object a line, as `--events json` promises.
    Json,
    /// Chat lines, for a client without a window.
    Chat,
    /// Nothing.
    Silent,
}

impl Printer {
    /// Prints an event.
    pub(crate) fn event(self, event: &Value) {
        if let Self::Json = self {
            line(&event.to_string());
        }
    }

    /// Prints a line of chat.
    pub(crate) fn chat(self, l: &ChatLine) {
        match self {
            Self::Json => {
                let mut event = fields(l);
                event["event"] = "chat".into();
                self.event(&event);
            }
            Self::Chat => line(&for_terminal(&l.name, &l.text)),
            Self::Silent => {}
        }
    }

    /// Prints older lines, which go before all that was printed.
    pub(crate) fn chat_page(self, lines: &[ChatLine], more: bool) {
        let lines: Vec<Value> = lines.iter().map(fields).collect();
        self.event(&json!({"event": "chat-page", "lines": lines, "more": more}));
    }

    /// Prints that something went wrong.
    pub(crate) fn error(self, code: &str, message: &str) {
        self.event(&json!({"event": "error", "code": code, "message": message}));
    }

    /// Prints that what was said is stored.
    pub(crate) fn chat_sent(self, id: ChatId, seq: u64) {
        self.event(&json!({"event": "chat-sent", "id": id.to_string(), "seq": seq}));
    }
}

fn fields(l: &ChatLine) -> Value {
    json!({
        "participant": l.participant.0, "name": l.name, "id": l.id.to_string(), "seq": l.seq, "text": l.text,
        "sent_ms": l.sent_ms,
    })
}

/// A chat line that cannot move a terminal's cursor, turn its text around, or pass for somebody else's line: its further
/// lines are indented.
pub(crate) fn for_terminal(name: &str, text: &str) -> String {
    let tame = |c: char| match c {
        '\n' => c,
        _ if misleads(c) => ' ',
        _ => c,
    };
    let text: String = text.chars().map(tame).collect();
    format!("{name}: {}", text.replace('\n', "\n    "))
}

fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_pass_for_another_or_touch_the_terminal() {
        assert_eq!(for_terminal("bob", "hi\nann: no\x1b[2J\u{202e}x"), "bob: hi\n    ann: no [2J x");
    }
}
