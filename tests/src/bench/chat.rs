//! Messages that are written while a call is measured.

use std::time::{Duration, Instant};

use super::stage::Party;

/// What was written, and when.
#[derive(Debug, Default)]
pub(super) struct Chat {
    sent: Vec<Instant>,
}

impl Chat {
    /// Lets one of the clients, in turn, write a message when one is due, `elapsed` of the measured `time` having passed.
    pub(super) fn write(
        &mut self,
        parties: &mut [Party; 2],
        elapsed: Duration,
        time: Duration,
    ) -> anyhow::Result<()> {
        let number = self.sent.len();
        if elapsed < FIRST + PERIOD * number as u32 || elapsed + LAST > time {
            return Ok(());
        }
        self.sent.push(Instant::now());
        parties[number % 2].process.send_line(&text(number))
    }

    /// How long each message took to the other client in milliseconds, in ascending order; and how many have not come.
    pub(super) fn delays(&self, parties: &[Party; 2]) -> (Vec<f64>, usize) {
        let events = [parties[1].process.timed_events(), parties[0].process.timed_events()];
        let arrival = |number: usize| {
            let is_it = |event: &serde_json::Value| event["event"] == "chat" && event["text"] == text(number);
            events[number % 2].iter().find(|(_, event)| is_it(event)).map(|(at, _)| *at)
        };
        let delay = |(number, sent): (usize, &Instant)| Some((arrival(number)? - *sent).as_secs_f64() * 1e3);
        let mut delays: Vec<f64> = self.sent.iter().enumerate().filter_map(delay).collect();
        delays.sort_by(f64::total_cmp);
        let lost = self.sent.len() - delays.len();
        (delays, lost)
    }
}

fn text(number: usize) -> String {
    format!("message {number}")
}

/// When the first message is written, and how far they are apart.
const FIRST: Duration = Duration::from_millis(500);
const PERIOD: Duration = Duration::from_secs(2);
/// The last is written so long before the end that it arrives on every network on which people would still talk.
const LAST: Duration = Duration::from_secs(3);
