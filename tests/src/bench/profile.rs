//! The networks that calls are measured on.

use std::net::SocketAddr;

use anyhow::Context;

use crate::netem::{Proxy, Running, Script, Settings};

/// A network. Each client has a line of its own with these properties, so what one says passes two of them.
///
/// They are those under which the figures of other systems are known, so they can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Nothing in between: loopback
    Clean,
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
    /// 10 ms, nothing passes for 300 ms every 5 s
    Burst,
    /// 10 ms, 500 kb/s with a queue of 300 ms
    #[value(name = "500k")]
    Narrow,
}

impl Profile {
    /// The line of one client before `relay`, if it is not a plain one.
    pub(super) fn line(self, relay: SocketAddr, seed: u64) -> anyhow::Result<Option<Running>> {
        let (settings, script) = match self {
            Self::Clean => return Ok(None),
            Self::Wifi => (&["delay=15ms", "jitter=5ms", "loss=0.5%"][..], ""),
            Self::Loss5 => (&["delay=12ms", "loss=5%"][..], ""),
            Self::Loss10 => (&["delay=25ms", "loss=10%"][..], ""),
            Self::Loss20 => (&["delay=25ms", "loss=20%"][..], ""),
            Self::Lossyburst => (&["delay=25ms", "loss=30%", "burst=4"][..], ""),
            Self::Burst => (&["delay=10ms"][..], "0s loss=0%\n4700ms loss=100%\nrepeat 5s"),
            Self::Narrow => (&["delay=10ms", "rate=500k", "buffer=300ms"][..], ""),
        };
        let mut line = Settings::default();
        settings.iter().try_for_each(|setting| line.apply(setting))?;
        let proxy =
            Proxy::bind(SocketAddr::from(([127, 0, 0, 1], 0)), relay).context("cannot bind a proxy")?;
        let script = Script::parse(script)?;
        Ok(Some(proxy.with_settings(&line).with_script(script).with_seed(seed).spawn()?))
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_profile_makes_a_line_but_the_clean_one() {
        let relay = SocketAddr::from(([127, 0, 0, 1], 9));
        for profile in Profile::value_variants() {
            let line = profile.line(relay, 1).expect("a line");
            assert_eq!(line.is_none(), *profile == Profile::Clean, "{profile:?}");
        }
    }
}
