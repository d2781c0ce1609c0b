//! What the client prints to stdout: JSON events, or chat for people.

use std::io::Write;

use serde_json::{Value, json};
use vchat_proto::id::ChatId;
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
            Self::Json => self.event(&json!({
                "event": "chat", "participant": l.participant.0, "name": l.name, "id": l.id.to_string(), "seq": l.seq,
                "text": l.text, "sent_ms": l.sent_ms,
            })),
            // Controls could move the cursor of a terminal.
            Self::Chat => line(&format!("{}: {}", l.name, l.text.replace(|c: char| c.is_control() && c != '\n', " "))),
            Self::Silent => {}
        }
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

fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}
