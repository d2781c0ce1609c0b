//! What a soak is told like.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{SoakOptions, Soaked};
use crate::bench::kills::summary;
use crate::bench::machine::Machine;

impl Soaked {
    pub(super) fn json(&self, options: &SoakOptions) -> Value {
        let (resident, descriptors) = (self.watch.resident(), self.watch.descriptors());
        let slope = self.watch.slope().map(|s| [s.per_second, s.low, s.high].map(per_hour));
        let (delays, answers) = (summary(&self.media.delays), summary(&self.lines.delays));
        json!({
            "machine": Machine::read().json(), "minutes": options.minutes, "clients": options.clients,
            "resident_mib": {"first": mib(resident.0), "last": mib(resident.1)},
            "slope_mib_per_hour": slope.map(|[slope, low, high]| json!({"slope": slope, "low": low, "high": high})),
            "descriptors": {"first": descriptors.0, "last": descriptors.1},
            "relay_cores": self.watch.cpu(),
            "joins": self.visits.joins(), "goodbyes": self.visits.goodbyes, "hung_up": self.visits.hung_up,
            "vanished": self.visits.vanished, "rooms_opened": self.visits.rooms,
            "strangers": self.visits.strangers, "revoked": self.visits.revoked,
            "sound": self.media.sound, "sound_lost": self.media.lost, "pictures": self.media.pictures,
            "sound_delay_ms": {"p50": delays[0], "p99": delays[1], "max": delays[2]},
            "lines": self.lines(),
            "ack_ms": {"p50": answers[0], "p99": answers[1], "max": answers[2]},
            "surprises": self.watch.surprises, "losses": self.losses,
        })
    }

    pub(super) fn text(&self, options: &SoakOptions) -> Result<String, std::fmt::Error> {
        let (resident, descriptors) = (self.watch.resident(), self.watch.descriptors());
        let (delays, answers) = (summary(&self.media.delays), summary(&self.lines.delays));
        let (media, visits) = (&self.media, &self.visits);
        let mut text = format!("{}\n", Machine::read());
        writeln!(text, "{} minutes, {} who stay", options.minutes, options.clients)?;
        write!(text, "memory      {:.2} MiB, then {:.2} MiB; ", mib(resident.0), mib(resident.1))?;
        match self.watch.slope().map(|s| [s.per_second, s.low, s.high].map(per_hour)) {
            Some([slope, low, high]) => writeln!(
                text,
                "{slope:+.2} MiB an hour ({low:+.2} to {high:+.2}), target below {SLOPE_MIB}: {}",
                if slope < SLOPE_MIB { "met" } else { "MISSED" }
            )?,
            None => writeln!(text, "too short to say how it grows")?,
        }
        writeln!(text, "files       {} open, then {}", descriptors.0, descriptors.1)?;
        writeln!(text, "processor   {:.1} % of a core", self.watch.cpu() * 100.0)?;
        writeln!(
            text,
            "visits      {} ({} goodbyes, {} hung up, {} vanished), {} to rooms of their own; turned away: {} strangers, {} revoked",
            visits.joins(),
            visits.goodbyes,
            visits.hung_up,
            visits.vanished,
            visits.rooms,
            visits.strangers,
            visits.revoked
        )?;
        writeln!(
            text,
            "sound       {} packets, {} lost; p50 {:.1} ms, p99 {:.1} ms, max {:.0} ms",
            media.sound, media.lost, delays[0], delays[1], delays[2]
        )?;
        writeln!(text, "pictures    {}", media.pictures)?;
        writeln!(
            text,
            "chat        {} lines; acknowledged p50 {:.1} ms, p99 {:.1} ms, max {:.0} ms",
            self.lines(),
            answers[0],
            answers[1],
            answers[2]
        )?;
        write!(text, "log         {} warnings and errors", self.watch.surprises.len())?;
        for surprise in self.watch.surprises.iter().take(SHOWN) {
            write!(text, "\n            {surprise}")?;
        }
        for loss in self.losses.iter().take(SHOWN) {
            write!(text, "\nLOST        {loss}")?;
        }
        Ok(text)
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn per_hour(bytes_per_second: f64) -> f64 {
    bytes_per_second * 3600.0 / f64::from(1 << 20)
}

const SLOPE_MIB: f64 = 1.0;

/// Of each kind; more of the same tell nothing more.
const SHOWN: usize = 20;
