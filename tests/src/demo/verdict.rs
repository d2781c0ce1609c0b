//! Whether that was a call, and how good a one.

use std::fmt;

use serde_json::Value;

/// What was seen besides the statistics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checks {
    /// Whether each got the other's message; none where it was left to the people at the windows.
    pub(super) chat: Option<bool>,
}

/// What each has seen and heard of the other.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    lines: Vec<String>,
    faults: Vec<String>,
}

impl Verdict {
    /// From the last statistics of Ann and of Bob.
    pub(super) fn of(statistics: &[Value; 2], checks: Checks) -> Self {
        let mut verdict = Self { lines: Vec::new(), faults: Vec::new() };
        for (statistics, [me, other]) in statistics.iter().zip([["Ann", "Bob"], ["Bob", "Ann"]]) {
            let peer = &statistics["peers"][0];
            let video = &peer["video"];
            // The first picture alone would be a still.
            if video["frames"].as_u64().is_some_and(|frames| frames > 1) {
                let (number, fps) = (|name: &str| video[name].as_u64().unwrap_or(0), &video["fps"]);
                verdict.lines.push(format!(
                    "{me} sees {other}: {}x{}, {} pictures a second, capture to display {}",
                    number("width"),
                    number("height"),
                    fps.as_f64().unwrap_or(0.0),
                    delay(&video["latency_ms"])
                ));
            } else {
                verdict.faults.push(format!("{me} has not seen {other} move"));
            }
            let sound = &peer["audio"]["latency_ms"];
            if sound.is_object() {
                verdict.lines.push(format!("{me} hears {other}: mouth to ear {}", delay(sound)));
            } else {
                verdict.faults.push(format!("{me} has not heard {other}"));
            }
        }
        match checks.chat {
            Some(true) => verdict.lines.push("Each has read what the other typed.".into()),
            Some(false) => verdict.faults.push("a message that was typed has not arrived".into()),
            None => {}
        }
        verdict
    }

    pub(super) fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.faults.iter().map(|fault| format!("Something is wrong: {fault}."));
        let lines: Vec<_> = self.lines.iter().cloned().chain(faults).collect();
        f.write_str(&lines.join("\n"))
    }
}

fn delay(quantiles: &Value) -> String {
    let ms = |name: &str| quantiles[name].as_f64().unwrap_or(f64::NAN);
    format!("p50 {:.0} ms, p95 {:.0} ms", ms("p50"), ms("p95"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_needs_moving_pictures_sound_and_chat_both_ways() {
        let good = json!({"peers": [{
            "video": {"frames": 290, "fps": 29.9, "width": 640, "height": 360, "latency_ms": {"p50": 21.4, "p95": 30.2}},
            "audio": {"latency_ms": {"p50": 30.0, "p95": 36.0}},
        }]});
        let with =
            |statistics: [&Value; 2], chat| Verdict::of(&statistics.map(Clone::clone), Checks { chat });
        let verdict = with([&good, &good], Some(true));
        assert!(verdict.is_good());
        let text = verdict.to_string();
        assert!(
            text.contains(
                "Ann sees Bob: 640x360, 29.9 pictures a second, capture to display p50 21 ms, p95 30 ms"
            ),
            "{text}"
        );
        assert!(text.contains("Bob hears Ann: mouth to ear p50 30 ms, p95 36 ms"), "{text}");
        assert!(with([&good, &good], None).is_good());

        let mut still = good.clone();
        still["peers"][0]["video"]["frames"] = json!(1);
        let mut deaf = good.clone();
        deaf["peers"][0]["audio"]["latency_ms"] = Value::Null;
        for (statistics, chat, fault) in [
            ([&still, &good], Some(true), "Ann has not seen Bob move"),
            ([&good, &deaf], Some(true), "Bob has not heard Ann"),
            ([&good, &good], Some(false), "message"),
            ([&good, &Value::Null], None, "Bob has not seen Ann move"),
        ] {
            let verdict = with(statistics, chat);
            assert!(!verdict.is_good() && verdict.to_string().contains(fault), "{verdict}");
        }
    }
}
