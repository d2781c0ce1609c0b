//! Statistics as the window shows them.

use std::fmt::Write;

use serde_json::Value;

/// The lines of the panel, from a `stats` event. A tab sets the value apart from its name.
pub(crate) fn text(stats: &Value) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut row = |name: &str, value: String| writeln!(text, "{name}\t{value}").unwrap_or_default();
    let up = &stats["up"];
    row("round trip", format!("{} ms", number(&stats["rtt_ms"])));
    row(
        "sending",
        format!("{} kb/s of {}, {} fps", number(&up["kbps"]), number(&up["target_kbps"]), number(&up["fps"])),
    );
    row("encoding", format!("{} / {} ms", number(&up["encode_ms"]["p50"]), number(&up["encode_ms"]["p95"])));
    row("loss", format!("{:.1} %", up["loss"].as_f64().unwrap_or(0.0) * 100.0));
    for peer in stats["peers"].as_array().into_iter().flatten() {
        let (video, audio) = (&peer["video"], &peer["audio"]);
        row(peer["name"].as_str().unwrap_or_default(), String::new());
        let size = format!("{}x{}", number(&video["width"]), number(&video["height"]));
        row("  picture", format!("{size}, {} fps, {} kb/s", number(&video["fps"]), number(&video["kbps"])));
        row("  picture delay", delay(&video["latency_ms"]));
        row("  freezes", format!("{} ({} ms)", number(&video["freezes"]), number(&video["freeze_ms"])));
        row("  sound delay", delay(&audio["latency_ms"]));
        row(
            "  sound buffer",
            format!("{} ms, {} ms invented", number(&audio["buffer_ms"]), number(&audio["concealed_ms"])),
        );
        row("  lip sync", format!("{} ms", number(&peer["skew_ms"]["p50"])));
    }
    text.truncate(text.trim_end().len());
    text
}

fn delay(quantiles: &Value) -> String {
    format!("{} ms, 95 % below {}", number(&quantiles["p50"]), number(&quantiles["p95"]))
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".into(), |v| format!("{v}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_row_has_a_name_and_missing_values_show_as_such() {
        let stats =
            json!({"rtt_ms": 0.4, "up": {"kbps": 650.0}, "peers": [{"name": "bob", "video": {"fps": 29.9}}]});
        let text = text(&stats);
        assert!(text.starts_with("round trip\t0.4 ms\nsending\t650 kb/s of –, – fps\n"), "{text}");
        assert!(text.contains("bob\t\n") && text.contains("29.9 fps"), "{text}");
    }
}
