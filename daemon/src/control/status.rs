//! How busy the relay is, for people.

use std::fmt::Write;

use serde_json::Value;

use super::print::columns;

/// A page: the relay, then a table of who is in which room.
pub(super) fn page(status: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let (datagrams, bytes, load, chat) =
        (&status["datagrams"], &status["bytes"], &status["load"], &status["chat"]);
    let mut page = format!(
        "vchatd {}, up {}\n",
        status["version"].as_str().unwrap_or("?"),
        stretch(status["uptime_s"].as_u64().unwrap_or_default())
    );
    let mut line = |what: &str, said: String| {
        let _ = writeln!(page, "{what:<9} {said}");
    };
    line(
        "people",
        format!(
            "{}, rooms: {}, connections: {}, devices: {}",
            status["participants"], status["rooms"], status["connections"], status["devices"]
        ),
    );
    for (what, which) in [("received", "received"), ("sent", "sent")] {
        let per_second = format!("{which}_per_s");
        line(
            what,
            format!(
                "{:.0} datagrams/s, {:.0} kbit/s; {} datagrams, {} in all",
                number(&datagrams[&per_second]),
                number(&bytes[&per_second]) * 8.0 / 1e3,
                datagrams[which],
                size(number(&bytes[which]))
            ),
        );
    }
    line("dropped", format!("{} datagrams", datagrams["dropped"]));
    line(
        "load",
        format!(
            "{:.2} cores, somebody waited {} ms at worst (10 s); {:.2} cores, {} ms (1 min)",
            number(&load["cores"]),
            load["loop_delay_ms"],
            number(&load["cores_1m"]),
            load["loop_delay_1m_ms"]
        ),
    );
    line("memory", format!("{}, {} files open", size(number(&load["memory_bytes"])), load["fds"]));
    line("chat", chat_line(chat));
    let table = clients(status);
    if table.len() > 1 {
        let _ = write!(page, "\n{}", columns(&table));
    }
    page.trim_end().to_owned()
}

fn chat_line(chat: &Value) -> String {
    let mut said = format!("{} lines stored", chat["lines"]);
    if chat["stored_ms"]["p50"].is_number() {
        let (p50, p99) = (&chat["stored_ms"]["p50"], &chat["stored_ms"]["p99"]);
        let _ = write!(said, ", half within {p50} ms, 99 of 100 within {p99} ms");
    }
    if chat["failed"].as_u64() != Some(0) {
        let _ = write!(said, "; {} failed", chat["failed"]);
    }
    if chat["broken"] == true {
        said.push_str("; nothing can be stored now");
    }
    said
}

fn clients(status: &Value) -> Vec<[String; 9]> {
    let head = ["ROOM", "PARTICIPANT", "HERE", "RTT", "RECEIVED", "LOST", "SENT", "LOST", "VIDEO"];
    let mut table = vec![head.map(str::to_owned)];
    for room in status["by_room"].as_array().into_iter().flatten() {
        for client in room["clients"].as_array().into_iter().flatten() {
            let percent = |share: &Value| format!("{:.1} %", share.as_f64().unwrap_or_default() * 100.0);
            table.push([
                room["room"].to_string(),
                client["participant"].to_string(),
                stretch(client["connected_s"].as_u64().unwrap_or_default()),
                format!("{} ms", client["rtt_ms"]),
                format!("{} kbit/s", client["received_kbps"]),
                percent(&client["uplink_loss"]),
                format!("{} kbit/s", client["sent_kbps"]),
                percent(&client["loss"]),
                format!("{} kbit/s", client["video_kbps"]),
            ]);
        }
    }
    table
}

/// A stretch of time in its two largest units.
fn stretch(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_says_how_busy_the_relay_is_and_with_whom() {
        let client = json!({"participant": 7, "connected_s": 3725, "rtt_ms": 12.5, "received_kbps": 600,
            "sent_kbps": 1200, "loss": 0.021, "uplink_loss": 0.0, "video_kbps": 900, "dropped": 0});
        let status = json!({
            "version": "9.9", "uptime_s": 200_000, "rooms": 2, "participants": 1, "connections": 3, "devices": 8,
            "datagrams": {"received": 10, "sent": 20, "received_per_s": 1.0, "sent_per_s": 2.0, "dropped": 4},
            "bytes": {"received": 5_000_000, "sent": 900, "received_per_s": 125_000, "sent_per_s": 0},
            "load": {"cores": 0.25, "cores_1m": 0.125, "loop_delay_ms": 1.2, "loop_delay_1m_ms": 3.0,
                "memory_bytes": 34_000_000, "fds": 17},
            "chat": {"lines": 5, "failed": 1, "broken": true, "stored_ms": {"p50": 2.5, "p99": null}},
            "by_room": [{"room": 1, "participants": 0, "clients": []},
                {"room": 3, "participants": 1, "clients": [client]}],
        });
        let text = page(&status);
        for part in [
            "vchatd 9.9, up 2d 7h",
            "1, rooms: 2, connections: 3, devices: 8",
            "1000 kbit/s; 10 datagrams, 5.0 MB",
            "0.25 cores",
            "34.0 MB",
            "5 lines stored, half within 2.5 ms",
            "1 failed; nothing can be stored now",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("3     7            1h 2m") && last.contains("2.1 %"), "{text}");
        let empty = page(&json!({"by_room": []}));
        assert!(!empty.contains("PARTICIPANT"), "nobody is here: {empty}");
    }
}
