//! What people call a relay.

use std::fmt;
use std::str::FromStr;

/// Host and port of a relay, as in `relay.example.org:4433`. Says where a relay is looked for, never who it is: that is its
/// [`Pin`](crate::pin::Pin).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Authority {
    /// Name in lower case, or address without brackets.
    pub host: String,
    /// UDP port, not 0.
    pub port: u16,
}

/// A text names no relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no relay: give HOST or HOST:PORT, as in relay.example.org:4433")]
pub struct AuthorityError(String);

/// As [`Authority::parse`] with [`DEFAULT_PORT`].
impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        Self::parse(text, DEFAULT_PORT)
    }
}

impl Authority {
    /// Parses `HOST`, `HOST:PORT`, an IPv6 address, or `[IPv6]:PORT`; `default_port` counts where none is named.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, AuthorityError> {
        let wrong = || AuthorityError(text.chars().take(MAX_TEXT_CHARS).collect());
        let port = |p: &str| p.parse().ok().filter(|p| *p != 0).ok_or_else(wrong);
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            match rest.strip_prefix(':') {
                Some(p) => (host, port(p)?),
                None if rest.is_empty() => (host, default_port),
                None => return Err(wrong()),
            }
        } else {
            match text.split_once(':') {
                Some((host, p)) if !p.contains(':') => (host, port(p)?),
                _ => (text, default_port),
            }
        };
        let strange = |c: char| c.is_whitespace() || c.is_control() || "/[]@?#".contains(c);
        if host.is_empty() || host.len() > MAX_HOST_BYTES || host.contains(strange) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The UDP port of vchat relays.
pub const DEFAULT_PORT: u16 = 4433;

/// The longest host name (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 253;

/// As much of a wrong text as an error repeats.
const MAX_TEXT_CHARS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_hosts_with_or_without_a_port() {
        for (text, host, port) in [
            ("relay.example", "relay.example", 4433),
            ("Relay.Example:99", "relay.example", 99),
            ("10.0.0.1:5", "10.0.0.1", 5),
            ("::1", "::1", 4433),
            ("[::1]:7", "::1", 7),
            ("[fe80::2]", "fe80::2", 4433),
        ] {
            assert_eq!(text.parse(), Ok(Authority { host: host.into(), port }), "{text}");
        }
        let long = "x".repeat(MAX_HOST_BYTES + 1);
        for text in ["", ":5", "a:b", "a:0", "a:70000", "a b", "https://x", "[::1", "[::1]x", "x/y", &long] {
            assert!(text.parse::<Authority>().is_err(), "{text}");
        }
        assert!(long[1..].parse::<Authority>().is_ok(), "the longest name");
    }

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["[::1]:7", "relay.example:4433", "10.0.0.1:5"] {
            let relay: Authority = text.parse().expect("a relay");
            assert_eq!(relay.to_string(), text);
        }
        for (text, port) in [("h", 7), ("h:9", 9), ("::1", 7), ("[::1]", 7), ("[::1]:9", 9)] {
            assert_eq!(Authority::parse(text, 7).expect("a relay").port, port, "{text}");
        }
        let error = format!("a b{}", "x".repeat(1000)).parse::<Authority>().expect_err("no relay");
        assert!(error.to_string().contains("a b") && error.to_string().len() < 200, "{error}");
    }
}
