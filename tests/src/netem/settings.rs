//! What a link does to packets, and how people write it.

use std::time::Duration;

use vchat_proto::units::Bitrate;

/// What one direction of a link does to packets. The default does nothing to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Share of packets lost after the queue, 0.0 to 1.0.
    pub loss: f64,
    /// Mean number of packets lost in a row. What independent losses give by chance, `1 / (1 - loss)`, is the least.
    pub burst: f64,
    /// Time on the way.
    pub delay: Duration,
    /// Each packet is on the way for `delay` give or take up to this, evenly distributed; never less than zero.
    pub jitter: Duration,
    /// Bits of IP packets that pass per second; `None` for any number.
    pub rate: Option<Bitrate>,
    /// Longest time a packet waits for its turn at `rate`; one that would wait longer is dropped.
    pub buffer: Duration,
    /// Share of packets held back so that later ones overtake, 0.0 to 1.0. All others keep their order.
    pub reorder: f64,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The name of no setting.
    #[error("unknown setting {0:?}: there are loss, burst, delay, jitter, rate, buffer and reorder")]
    Unknown(String),
    /// A value that cannot be understood or is out of range.
    #[error("{value:?} is no {what}")]
    Value {
        /// The text.
        value: String,
        /// What it should be, with an example.
        what: &'static str,
    },
    /// Something that is not `key=value`.
    #[error("{0:?} is not of the form key=value")]
    Form(String),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            loss: 0.0,
            burst: 1.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate: None,
            buffer: DEFAULT_BUFFER,
            reorder: 0.0,
        }
    }
}

impl Settings {
    /// Changes one setting given as `key=value`, such as `loss=5%` or `rate=500k`.
    pub fn apply(&mut self, text: &str) -> Result<(), SettingsError> {
        let (key, value) = text.split_once('=').ok_or_else(|| SettingsError::Form(text.into()))?;
        match key {
            "loss" => self.loss = parse_percent(value)?,
            "burst" => self.burst = parse_burst(value)?,
            "delay" => self.delay = parse_duration(value)?,
            "jitter" => self.jitter = parse_duration(value)?,
            "rate" => self.rate = if value == "none" { None } else { Some(parse_rate(value)?) },
            "buffer" => self.buffer = parse_duration(value)?,
            "reorder" => self.reorder = parse_percent(value)?,
            _ => return Err(SettingsError::Unknown(key.into())),
        }
        Ok(())
    }
}

/// A share of the whole: `5%` is 0.05.
pub fn parse_percent(text: &str) -> Result<f64, SettingsError> {
    let number = text.strip_suffix('%').and_then(number).filter(|n| *n <= 100.0);
    Ok(number.ok_or_else(|| wrong(text, "share from 0% to 100%, such as 5%"))? / 100.0)
}

/// A time with its unit: `250us`, `25ms`, `1.5s` or `2m`.
pub fn parse_duration(text: &str) -> Result<Duration, SettingsError> {
    let unit = |suffix, seconds: f64| Some(number(text.strip_suffix(suffix)?)? * seconds);
    // In this order: `ms` ends in `s` too.
    let seconds =
        unit("us", 1e-6).or_else(|| unit("ms", 1e-3)).or_else(|| unit("s", 1.0)).or_else(|| unit("m", 60.0));
    let seconds = seconds.filter(|s| *s <= MAX_SECONDS);
    seconds.map(Duration::from_secs_f64).ok_or_else(|| wrong(text, "time with its unit, such as 25ms or 10s"))
}

/// Bits per second: `2M`, `500k`, `1.5M`, `1G` or `64000`.
pub fn parse_rate(text: &str) -> Result<Bitrate, SettingsError> {
    let unit = |suffix, bits: f64| Some(number(text.strip_suffix(suffix)?)? * bits);
    let bits = unit("k", 1e3).or_else(|| unit("M", 1e6)).or_else(|| unit("G", 1e9)).or_else(|| number(text));
    let bits = bits.filter(|b| (1.0..=MAX_BITS_PER_SECOND).contains(b));
    bits.map(|b| Bitrate::from_bps(b as u64))
        .ok_or_else(|| wrong(text, "bit rate above zero, such as 2M or 500k"))
}

/// A number of packets, at least one.
pub fn parse_burst(text: &str) -> Result<f64, SettingsError> {
    let packets = number(text).filter(|n| (1.0..=MAX_BURST).contains(n));
    packets.ok_or_else(|| wrong(text, "number of packets lost in a row, such as 4"))
}

/// Digits with or without a fraction; neither signs nor exponents nor infinity.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.parse().ok() } else { None }
}

fn wrong(value: &str, what: &'static str) -> SettingsError {
    SettingsError::Value { value: value.into(), what }
}

/// As much as home routers hold at a rate that suits a call; the issue of a rate step assumes the same.
const DEFAULT_BUFFER: Duration = Duration::from_millis(300);

/// A day, more than any test takes and far from every overflow.
const MAX_SECONDS: f64 = 86_400.0;

/// One terabit, beyond every link.
const MAX_BITS_PER_SECOND: f64 = 1e12;

/// A burst this long is an outage; a script says that better.
const MAX_BURST: f64 = 10_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_units() {
        assert_eq!(parse_percent("5%"), Ok(0.05));
        assert_eq!(parse_percent("0.5%"), Ok(0.005));
        assert_eq!(parse_percent("100%"), Ok(1.0));
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_duration("25ms"), Ok(Duration::from_millis(25)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_rate("2M"), Ok(Bitrate::from_kbps(2000)));
        assert_eq!(parse_rate("1.5M"), Ok(Bitrate::from_kbps(1500)));
        assert_eq!(parse_rate("500k"), Ok(Bitrate::from_kbps(500)));
        assert_eq!(parse_rate("64000"), Ok(Bitrate::from_kbps(64)));
    }

    #[test]
    fn values_without_sense_are_refused_by_name() {
        for bad in ["5", "-5%", "101%", "%", "", "1e1%", "NaN%", "inf%", "5 %", "1.2.3%"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
        for bad in ["25", "-1s", "ms", "", "1h", "90000s", "1e9s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for bad in ["0", "0k", "-1k", "2m", "M", "", "2000G", "1e3"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        for bad in ["0", "0.5", "-1", "x", "99999"] {
            assert!(parse_burst(bad).is_err(), "{bad}");
        }
        let text = parse_duration("25").expect_err("no unit").to_string();
        assert!(text.contains("\"25\"") && text.contains("25ms"), "{text}");
    }

    #[test]
    fn settings_change_one_by_one() {
        let mut settings = Settings::default();
        for change in
            ["loss=5%", "burst=4", "delay=25ms", "jitter=10ms", "rate=2M", "buffer=1s", "reorder=1%"]
        {
            settings.apply(change).expect(change);
        }
        let expected = Settings {
            loss: 0.05,
            burst: 4.0,
            delay: Duration::from_millis(25),
            jitter: Duration::from_millis(10),
            rate: Some(Bitrate::from_kbps(2000)),
            buffer: Duration::from_secs(1),
            reorder: 0.01,
        };
        assert_eq!(settings, expected);
        settings.apply("rate=none").expect("unlimited");
        assert_eq!(settings.rate, None);
        assert_eq!(settings.apply("lag=1s"), Err(SettingsError::Unknown("lag".into())));
        assert_eq!(settings.apply("loss"), Err(SettingsError::Form("loss".into())));
    }
}
