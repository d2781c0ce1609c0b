//! Answers of the relay, for people.

use std::fmt::Write;

use chrono::{DateTime, Local};
use serde_json::Value;

use super::{Request, qr, status};
use crate::config::Output;

/// An answer as it is shown: what was asked for, for stdout; and what helps, for stderr.
pub struct Shown {
    /// For stdout.
    pub text: String,
    /// For stderr; may be empty.
    pub hint: String,
}

/// Puts an answer into words, or JSON. `terminal`: whether stdout is one.
#[must_use]
pub fn show(request: &Request, answer: &Value, output: Output, terminal: bool) -> Shown {
    if output == Output::Json {
        return Shown { text: answer.to_string(), hint: String::new() };
    }
    let plain = |text: String| Shown { text, hint: String::new() };
    match request {
        Request::Invite(_) => invite(answer, terminal || output == Output::Qr),
        Request::Invites => plain(format!("open: {}", invites(answer))),
        Request::CancelInvites => plain(format!("taken back: {}", invites(answer))),
        Request::Devices => plain(devices(answer)),
        Request::Rename { .. } => {
            plain(format!("{} is called {} now", text(&answer["pin"]), text(&answer["name"])))
        }
        Request::Revoke { .. } => Shown {
            text: format!("{} ({}) is let in no longer", text(&answer["name"]), text(&answer["pin"])),
            hint: format!(
                "{} of its connections were cut. If it may still have an open invite: vchatd invites cancel",
                answer["cut"]
            ),
        },
        Request::History { .. } => plain(history(answer)),
        Request::Restart => plain(format!("process {} has taken over", answer["pid"])),
        Request::Backup { .. } => backup(answer),
        Request::Qlog { .. } => log_of_device(answer),
        Request::Status => plain(status::page(answer)),
        Request::Key | Request::RotateKey { .. } => plain(key(answer)),
    }
}

fn invite(answer: &Value, qr: bool) -> Shown {
    let until = when(&answer["expires"]);
    if let Some(code) = answer["code"].as_str() {
        let relay = text(&answer["relay"]);
        let hint = format!(
            "Good until {until}, for one device and three tries. Say it to the invited person, who runs\n  vchat-client pair --relay {relay} --code {code}"
        );
        return Shown { text: code.into(), hint };
    }
    let link = text(&answer["link"]);
    let mut shown = link.to_owned();
    if let Some(drawn) = qr.then(|| qr::draw(link)).flatten() {
        let _ = write!(shown, "\n\n{}", drawn.trim_end_matches('\n'));
    }
    let uses = match answer["uses"].as_u64() {
        Some(1) | None => "for one device".into(),
        Some(n) => format!("for {n} devices"),
    };
    let hint = format!(
        "Good until {until}, {uses}. Whoever has it can come in; the invited person runs\n  vchat-client {link}"
    );
    Shown { text: shown, hint }
}

fn invites(answer: &Value) -> String {
    format!("{} links, {} codes", answer["links"], answer["codes"])
}

fn devices(answer: &Value) -> String {
    let list = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return "no devices yet: `vchatd invite` lets one in".into();
    }
    let mut table = vec![["NAME", "ROLE", "ROOMS", "SINCE", "LAST SEEN", "FINGERPRINT"].map(str::to_owned)];
    for device in list {
        let rooms: Vec<&str> = device["rooms"].as_array().into_iter().flatten().map(text).collect();
        let seen = match (&device["revoked"], device["connections"].as_u64()) {
            (Value::String(_), _) => format!("revoked {}", when(&device["revoked"])),
            (_, Some(1..)) => "here now".into(),
            _ if device["last_seen"].is_null() => "never".into(),
            _ => when(&device["last_seen"]),
        };
        table.push([
            text(&device["name"]).into(),
            text(&device["role"]).into(),
            if rooms.is_empty() { "any".into() } else { rooms.join(", ") },
            when(&device["created"]),
            seen,
            text(&device["pin"]).into(),
        ]);
    }
    columns(&table)
}

fn log_of_device(answer: &Value) -> Shown {
    let (name, pin, directory) = (text(&answer["name"]), text(&answer["pin"]), text(&answer["directory"]));
    let from = match answer["connections"].as_u64() {
        Some(0) | None => "any address, as it is not here now",
        Some(_) => "the addresses that it has now",
    };
    Shown {
        text: format!("{directory}/*.sqlog"),
        hint: format!(
            "Logs begin with the next connections of {name} ({pin}) within {} s, from {from}: let it join anew. They tell when somebody spoke: remove them when they are read.",
            answer["seconds"]
        ),
    }
}

fn history(answer: &Value) -> String {
    let lines = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if lines.is_empty() {
        return "nothing has been written there".into();
    }
    let line = |line: &Value| {
        // What people write is not to steer the operator's terminal.
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let said: String = text(&line["text"]).chars().map(visible).collect();
        format!("{:>6}  {}  {}: {said}", line["seq"].to_string(), when(&line["sent"]), text(&line["name"]))
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn backup(answer: &Value) -> Shown {
    let removed: Vec<&str> = answer["removed"].as_array().into_iter().flatten().map(text).collect();
    let hint = if removed.is_empty() { String::new() } else { format!("made way: {}", removed.join(", ")) };
    Shown { text: text(&answer["path"]).into(), hint }
}

fn key(answer: &Value) -> String {
    let mut shown = format!("fingerprint  {}", text(&answer["pin"]));
    let next = &answer["next"];
    if next.is_object() {
        let _ = write!(
            shown,
            "\nnext         {}\nknown by     {} of {} devices\ntakes over   when all know it and no link is open, at the latest {}",
            text(&next["pin"]),
            next["known_by"],
            next["devices"],
            when(&next["switch_at"])
        );
    }
    shown
}

pub(super) fn columns<const N: usize>(table: &[[String; N]]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A time as the operator's clock shows it.
fn when(time: &Value) -> String {
    let parsed = DateTime::parse_from_rfc3339(text(time));
    parsed.map_or_else(|_| "?".into(), |t| t.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_are_a_table_that_says_who_is_here() {
        let device = |name: &str, here: u32, revoked: Value| {
            json!({"pin": "mfrg-gzdf", "name": name, "role": "member", "rooms": ["a", "b"],
                "created": "2026-01-02T03:04:05Z", "last_seen": null, "revoked": revoked, "connections": here})
        };
        let all = json!([
            device("Ann", 1, Value::Null),
            device("Bob, laptop", 0, Value::Null),
            device("Eve", 0, json!("2026-01-03T03:04:05Z"))
        ]);
        let text = show(&Request::Devices, &all, Output::Text, false).text;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[1].contains("a, b") && lines[1].contains("here now") && lines[1].ends_with("mfrg-gzdf")
        );
        assert!(lines[2].contains("never") && lines[3].contains("revoked 2026-01-03"), "{text}");
        assert_eq!(lines[0].find("ROLE"), lines[2].find("member"), "{text}");
        assert!(show(&Request::Devices, &json!([]), Output::Text, false).text.contains("no devices"));
        assert_eq!(show(&Request::Devices, &all, Output::Json, true).text, all.to_string());
    }

    #[test]
    fn only_terminals_and_who_asks_get_a_qr_code() {
        let request = Request::Invite(super::super::Invite::default());
        let answer =
            json!({"link": "vchat://h:1/#abc", "code": null, "expires": "2026-01-02T03:04:05Z", "uses": 2});
        let plain = show(&request, &answer, Output::Text, false);
        assert_eq!(plain.text, "vchat://h:1/#abc");
        assert!(plain.hint.contains("2 devices") && plain.hint.contains("2026-01-02"), "{}", plain.hint);
        for shown in [show(&request, &answer, Output::Text, true), show(&request, &answer, Output::Qr, false)]
        {
            assert!(shown.text.starts_with("vchat://h:1/#abc\n") && shown.text.contains('█'));
        }
    }

    #[test]
    fn chat_is_shown_with_its_numbers_and_without_control_characters() {
        let request = Request::History { room: "team".into(), before: None, limit: 9 };
        let answer =
            json!([{"seq": 7, "sent": "2026-01-02T03:04:05Z", "name": "Ann", "text": "a\u{1b}[2Jb\nc"}]);
        let text = show(&request, &answer, Output::Text, true).text;
        assert!(text.starts_with("     7  2026-01-02") && text.ends_with("Ann: a [2Jb c"), "{text}");
        assert!(show(&request, &json!([]), Output::Text, true).text.contains("nothing"));
    }

    #[test]
    fn a_change_of_key_tells_how_far_it_is() {
        let next = json!({"pin": "bbbb", "known_by": 2, "devices": 3, "switch_at": "2026-02-03T00:00:00Z"});
        let text = show(&Request::Key, &json!({"pin": "aaaa", "next": next}), Output::Text, true).text;
        assert!(text.contains("aaaa") && text.contains("bbbb") && text.contains("2 of 3"), "{text}");
        let text = show(&Request::Key, &json!({"pin": "aaaa", "next": null}), Output::Text, true).text;
        assert_eq!(text, "fingerprint  aaaa");
    }
}
