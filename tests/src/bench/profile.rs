//! The networks that calls are measured on.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use vchat_proto::units::Bitrate;

use super::options::Source;
use crate::netem::{Proxy, Running, Script, Settings};

/// A network. Each client has a line of its own with these properties, in both directions, so what one says passes two of
/// them; in the forms `-x1` only the second client's line is impaired. Delays are those of one line, one way.
///
/// They are those under which the figures of other systems are known, so they can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Profile {
    /// Nothing in between: loopback
    Clean,
    /// 1 ms, 0.1 ms of jitter
    Lan,
    /// 10 ms and 0 to 10 ms of jitter in order, 0.5% loss
    Wifi,
    /// 12 ms, 5% loss
    Loss5,
    /// 25 ms, 10% loss
    Loss10,
    /// 25 ms, 20% loss
    Loss20,
    /// 25 ms, 30% loss in bursts of four
    Lossyburst,
    /// One line with 25 ms and 10% loss
    Loss10X1,
    /// One line with 25 ms and 20% loss
    Loss20X1,
    /// One line with 25 ms and 30% loss in bursts of four
    LossyburstX1,
    /// 10 ms, nothing passes for 300 ms every 5 s
    Burst,
    /// 10 ms, nothing passes for 1 s, once
    Outage,
    /// 25 ms; one client gets another address, once
    Rebind,
    /// 10 ms, 500 kb/s with a queue of 300 ms
    #[value(name = "500k")]
    Narrow,
    /// 10 ms, a queue of 300 ms; 2 Mb/s, 500 kb/s and 2 Mb/s, a third of the time each
    Step,
    /// 60 ms, from 0.5 to 4 Mb/s and back all the time, with a queue of 300 ms
    #[value(name = "4g")]
    Mobile,
    /// One line with 300 ms each way and 1% loss
    Satellite,
    /// Four clients, one with 300 kb/s and a queue of 300 ms
    Crushed,
    /// Four clients, one with 40% loss
    CrushedLoss,
}

impl Profile {
    /// As people type it.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How many are in the call.
    pub(super) const fn clients(self) -> usize {
        if matches!(self, Self::Crushed | Self::CrushedLoss) { 4 } else { 2 }
    }

    /// How long to measure where others are measured for `seconds`: three phases take twice as long.
    pub(super) fn time(self, seconds: Duration) -> Duration {
        if self == Self::Step { 2 * seconds } else { seconds }
    }

    /// What cameras show unless it is chosen. The test card is so simple that it leaves a narrow link half empty.
    pub(super) const fn source(self) -> Source {
        match self {
            // Anything simpler does not take all of 2 Mb/s, so nobody could tell that it came back to that.
            Self::Step => Source::Dim,
            Self::Narrow | Self::Mobile => Source::Clip,
            _ => Source::Card,
        }
    }

    /// The most that a camera may send unless it is chosen: a step is told by what fills the link above it.
    pub(super) const fn max_bitrate(self) -> Option<Bitrate> {
        if matches!(self, Self::Step) { Some(Bitrate::from_kbps(2500)) } else { None }
    }

    /// The rate of the lines, where it is limited and does not change.
    pub(super) const fn rate(self) -> Option<Bitrate> {
        if matches!(self, Self::Narrow) { Some(Bitrate::from_kbps(500)) } else { None }
    }

    /// The line of client number `client` before `relay`, if it is not a plain one.
    pub(super) fn line(self, relay: SocketAddr, client: usize, seed: u64) -> anyhow::Result<Option<Running>> {
        let last = client + 1 == self.clients();
        let mut changes = self.changes();
        if !last && self == Self::Rebind {
            changes = &["delay=25ms"];
        } else if !last && self.is_one_sided() {
            changes = &[];
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let mut line = Settings::default();
        changes.iter().try_for_each(|change| line.apply(change))?;
        let proxy =
            Proxy::bind(SocketAddr::from(([127, 0, 0, 1], 0)), relay).context("cannot bind a proxy")?;
        Ok(Some(proxy.with_settings(&line).with_seed(seed).spawn()?))
    }

    /// What changes on the line of client number `client` while `time` is measured.
    pub(super) fn script(self, client: usize, time: Duration) -> anyhow::Result<Option<Script>> {
        let third = time.as_millis() / 3;
        let text = match self {
            Self::Burst => "0s loss=0%\n4700ms loss=100%\nrepeat 5s".to_owned(),
            Self::Outage => format!("{third}ms loss=100%\n{}ms loss=0%", third + OUTAGE.as_millis()),
            Self::Rebind if client + 1 == self.clients() => format!("{third}ms rebind"),
            Self::Step => format!("{third}ms rate=500k\n{}ms rate=2M", 2 * third),
            Self::Mobile => MOBILE_RATES.to_owned(),
            _ => return Ok(None),
        };
        Ok(Some(Script::parse(&text)?))
    }

    /// The outages that end within `time`, from its begin.
    pub(super) fn outages(self, time: Duration) -> Vec<Range<Duration>> {
        match self {
            Self::Burst => {
                let ends = (1_u32..).map(|n| BURST_PERIOD * n).take_while(|end| *end + OUTAGE < time);
                ends.map(|end| end - BURST..end).collect()
            }
            Self::Outage => {
                let begin = Duration::from_millis((time.as_millis() / 3) as u64);
                std::iter::once(begin..begin + OUTAGE).collect()
            }
            _ => Vec::new(),
        }
    }

    const fn changes(self) -> &'static [&'static str] {
        match self {
            Self::Clean => &[],
            Self::Lan => &["delay=1ms", "jitter=100us"],
            Self::Wifi => &["delay=15ms", "jitter=5ms", "loss=0.5%"],
            Self::Loss5 => &["delay=12ms", "loss=5%"],
            Self::Loss10 | Self::Loss10X1 => &["delay=25ms", "loss=10%"],
            Self::Loss20 | Self::Loss20X1 => &["delay=25ms", "loss=20%"],
            Self::Lossyburst | Self::LossyburstX1 => &["delay=25ms", "loss=30%", "burst=4"],
            Self::Burst | Self::Outage => &["delay=10ms"],
            Self::Rebind => &["delay=25ms"],
            Self::Narrow => &["delay=10ms", "rate=500k", "buffer=300ms"],
            Self::Step => &["delay=10ms", "rate=2M", "buffer=300ms"],
            Self::Mobile => &["delay=60ms", "rate=2M", "buffer=300ms"],
            Self::Satellite => &["delay=300ms", "loss=1%"],
            Self::Crushed => &["delay=10ms", "rate=300k", "buffer=300ms"],
            Self::CrushedLoss => &["delay=10ms", "loss=40%"],
        }
    }

    const fn is_one_sided(self) -> bool {
        matches!(
            self,
            Self::Loss10X1
                | Self::Loss20X1
                | Self::LossyburstX1
                | Self::Satellite
                | Self::Crushed
                | Self::CrushedLoss
        )
    }
}

/// How long nothing passes in `burst`, how often, and in `outage`.
const BURST: Duration = Duration::from_millis(300);
const BURST_PERIOD: Duration = Duration::from_secs(5);
const OUTAGE: Duration = Duration::from_secs(1);

/// Every rate of a telephone on the move, in steps up and down: falls by half and by eight, and rises as far.
const MOBILE_RATES: &str = "0s rate=2M\n3s rate=1M\n6s rate=4M\n9s rate=500k\n12s rate=700k\n15s rate=3M\n\
                            18s rate=1500k\n21s rate=500k\n24s rate=4M\n27s rate=1M\nrepeat 30s";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_makes_lines_and_scripts() {
        let relay = SocketAddr::from(([127, 0, 0, 1], 9));
        let time = Duration::from_secs(30);
        for profile in Profile::value_variants() {
            let lines: Vec<_> = (0..profile.clients())
                .map(|client| profile.line(relay, client, 1).expect("a line").is_some())
                .collect();
            assert_eq!(*lines.last().expect("clients"), *profile != Profile::Clean, "{profile:?}");
            assert_eq!(lines[0], !profile.is_one_sided() && *profile != Profile::Clean, "{profile:?}");
            profile.script(0, time).expect("a script");
            profile.script(1, time).expect("a script");
        }
    }

    #[test]
    fn outages_are_where_the_scripts_make_them() {
        let time = Duration::from_secs(12);
        for (profile, count) in [(Profile::Burst, 2), (Profile::Outage, 1), (Profile::Loss5, 0)] {
            let outages = profile.outages(time);
            assert_eq!(outages.len(), count, "{profile:?}");
            let Some(script) = profile.script(0, time).expect("a script") else { continue };
            let steps: Vec<_> = (0..8).filter_map(|i| Some(script.step(i)?.0)).collect();
            for outage in outages {
                assert!(
                    steps.contains(&outage.start) && steps.contains(&outage.end),
                    "{outage:?}: {steps:?}"
                );
            }
        }
    }
}
