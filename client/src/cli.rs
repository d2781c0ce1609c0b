//! What the client is told on its command line, checked once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vchat_proto::id::{DisplayName, RoomName};
use vchat_proto::units::Bitrate;

use crate::audio::{MicSpec, SpeakerSpec};
use crate::video::CameraSpec;
use crate::video::encoder::Kind;

/// vchat-client: see, hear and write to each other through a vchat relay.
#[derive(Debug, Parser)]
#[command(
    name = "vchat-client",
    version,
    about,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        vchat-client --relay relay.example.org --room team --name Ann\n  \
        vchat-client --relay localhost --camera test --mic tone\n\n\
        Keys in the window: M mute, V camera, C chat panel, S statistics, Enter write, F1 help, Q quit.\n\
        Exit codes: 0 ok, 2 wrong usage, 3 relay not reachable, 4 refused or not the relay that is trusted,\n\
        5 no usable device, 1 anything else. Logs go to stderr; RUST_LOG sets the level (default: warn)."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    call: CallArgs,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// List cameras, microphones and speakers
    Devices {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct CallArgs {
    /// The relay to call through [port default: 4433]
    #[arg(long, env = "VCHAT_RELAY", value_name = "HOST[:PORT]")]
    relay: Option<String>,
    /// The room to join; everybody who names the same room is in the same call
    #[arg(long, default_value = "lobby", value_parser = room)]
    room: RoomName,
    /// The name that the others see [default: the user's]
    #[arg(long, value_parser = name)]
    name: Option<DisplayName>,
    /// auto | none | test | file:PATH.y4m | NAME or INDEX of a camera
    #[arg(long, default_value = "auto", value_name = "CAMERA")]
    camera: CameraSpec,
    /// auto | none | tone | file:PATH.wav | NAME of a microphone
    #[arg(long, default_value = "auto", value_name = "MIC")]
    mic: MicSpec,
    /// window | none | y4m:DIR (writes NAME.y4m and NAME.csv for each of the others)
    #[arg(long, default_value = "window", value_name = "DISPLAY", value_parser = display)]
    display: DisplaySpec,
    /// auto | none | wav:DIR (writes NAME.wav for each of the others, and mix.wav) | NAME of a speaker
    #[arg(long, default_value = "auto", value_name = "SPEAKER")]
    speaker: SpeakerSpec,
    /// The video encoder: aom (fast, no delay) or rav1e
    #[arg(long, default_value = "aom", value_name = "aom|rav1e")]
    encoder: Kind,
    /// Size of the pictures to send; a camera takes the nearest it has [default: 640x360, a file's own]
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<(usize, usize)>,
    /// Pictures a second to send [default: 30, a file's own]
    #[arg(long)]
    fps: Option<u32>,
    /// Most bits a second to send as video, as in 500k or 2M
    #[arg(long, default_value = "2M", value_name = "RATE", value_parser = bitrate)]
    max_bitrate: Bitrate,
    /// Leave after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,
    /// Print what happens to stdout, one JSON object a line
    #[arg(long, value_name = "json")]
    events: Option<EventFormat>,
    /// Where this device's key is kept [default: $XDG_CONFIG_HOME/vchat or ~/.config/vchat]
    #[arg(long, env = "VCHAT_CONFIG_DIR", value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Where the keys of known relays are kept [default: $XDG_STATE_HOME/vchat or ~/.local/state/vchat]
    #[arg(long, env = "VCHAT_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EventFormat {
    Json,
}

/// What to do.
#[derive(Debug)]
pub enum Task {
    /// Join a call.
    Call(Box<Config>),
    /// List devices.
    Devices {
        /// As JSON.
        json: bool,
    },
}

/// A checked call.
#[derive(Clone, Debug)]
pub struct Config {
    /// The relay.
    pub relay: Authority,
    /// The room.
    pub room: RoomName,
    /// What the others see.
    pub name: DisplayName,
    /// Where pictures come from.
    pub camera: CameraSpec,
    /// Where sound comes from.
    pub mic: MicSpec,
    /// Where pictures go.
    pub display: DisplaySpec,
    /// Where sound goes.
    pub speaker: SpeakerSpec,
    /// Which encoder.
    pub encoder: Kind,
    /// Size of the pictures to send.
    pub size: Option<(usize, usize)>,
    /// Pictures a second to send.
    pub fps: Option<u32>,
    /// Most bits a second of video.
    pub max_bitrate: Bitrate,
    /// When to leave.
    pub duration: Option<Duration>,
    /// Whether to print JSON events.
    pub events: bool,
    /// Where the identity is kept.
    pub config_dir: PathBuf,
    /// Where known relays are kept.
    pub state_dir: PathBuf,
}

/// What `--display` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DisplaySpec {
    /// A window.
    Window,
    /// Nothing; pictures are decoded all the same.
    None,
    /// Files in this directory.
    Y4m(PathBuf),
}

/// Host and port of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Name or address, without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

impl Cli {
    /// Checks what clap could not. The error is one line for the user.
    pub fn resolve(self) -> Result<Task, String> {
        if let Some(Sub::Devices { json }) = self.command {
            return Ok(Task::Devices { json });
        }
        let args = self.call;
        let relay =
            args.relay.ok_or("no relay: say where to call, as in --relay HOST (or set VCHAT_RELAY)")?;
        let home = std::env::var_os("HOME");
        let dir = |given: Option<PathBuf>, xdg: &str, below_home: &str, flag: &str| {
            given
                .or_else(|| {
                    std::env::var_os(xdg).filter(|d| !d.is_empty()).map(|d| Path::new(&d).join("vchat"))
                })
                .or_else(|| home.as_ref().map(|h| Path::new(h).join(below_home).join("vchat")))
                .ok_or_else(|| format!("$HOME is not set; name a directory with {flag} DIR"))
        };
        Ok(Task::Call(Box::new(Config {
            relay: Authority::parse(&relay)?,
            room: args.room,
            name: args.name.unwrap_or_else(user_name),
            camera: args.camera,
            mic: args.mic,
            display: args.display,
            speaker: args.speaker,
            encoder: args.encoder,
            size: args.size,
            fps: args.fps,
            max_bitrate: args.max_bitrate,
            duration: args.duration,
            events: args.events.is_some(),
            config_dir: dir(args.config_dir, "XDG_CONFIG_HOME", ".config", "--config-dir")?,
            state_dir: dir(args.state_dir, "XDG_STATE_HOME", ".local/state", "--state-dir")?,
        })))
    }
}

impl Authority {
    /// Parses `HOST`, `HOST:PORT`, an IPv6 address, or `[IPv6]:PORT`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no relay: give HOST or HOST:PORT, as in relay.example.org:4433");
        let port = |p: &str| p.parse().ok().filter(|p| *p != 0).ok_or_else(wrong);
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            match rest.strip_prefix(':') {
                Some(p) => (host, port(p)?),
                None if rest.is_empty() => (host, DEFAULT_PORT),
                None => return Err(wrong()),
            }
        } else {
            match text.split_once(':') {
                Some((host, p)) if !p.contains(':') => (host, port(p)?),
                _ => (text, DEFAULT_PORT),
            }
        };
        let strange = |c: char| c.is_whitespace() || c.is_control() || "/[]@?#".contains(c);
        if host.is_empty() || host.contains(strange) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

fn room(text: &str) -> Result<RoomName, String> {
    RoomName::parse(text).map_err(|e| format!("this is no name for a room: {e}"))
}

fn name(text: &str) -> Result<DisplayName, String> {
    DisplayName::parse(text).map_err(|e| format!("this is no name for a person: {e}"))
}

fn display(text: &str) -> Result<DisplaySpec, String> {
    match text.split_once(':') {
        None if text == "window" => Ok(DisplaySpec::Window),
        None if text == "none" => Ok(DisplaySpec::None),
        Some(("y4m", dir)) if !dir.is_empty() => Ok(DisplaySpec::Y4m(dir.into())),
        _ => Err("say window, none or y4m:DIR".into()),
    }
}

fn size(text: &str) -> Result<(usize, usize), String> {
    let (w, h) = text.split_once(['x', 'X']).ok_or("say WIDTHxHEIGHT, as in 640x360")?;
    match (w.parse(), h.parse()) {
        (Ok(w), Ok(h)) => Ok((w, h)),
        _ => Err("say WIDTHxHEIGHT, as in 640x360".into()),
    }
}

fn bitrate(text: &str) -> Result<Bitrate, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    let bps = digits.parse::<f64>().map_err(|_| "say a rate as in 500k or 2M")? * unit;
    if (MIN_BPS..=MAX_BPS).contains(&bps) {
        Ok(Bitrate::from_bps(bps as u64))
    } else {
        Err("say a rate from 50k to 20M".into())
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok().filter(|s| *s > 0.0);
    seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).ok_or_else(|| "say a number of seconds".into())
}

fn user_name() -> DisplayName {
    ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|v| DisplayName::parse(&std::env::var(v).ok()?).ok())
        .or_else(|| DisplayName::parse("guest").ok())
        .unwrap_or_else(|| unreachable!("'guest' is a name"))
}

/// The port of vchat relays.
const DEFAULT_PORT: u16 = 4433;
/// Below this even the smallest picture is unreadable.
const MIN_BPS: f64 = 50e3;
/// What a relay takes from one participant.
const MAX_BPS: f64 = 20e6;

#[cfg(test)]
mod tests {
    use super::*;

    fn task(args: &[&str]) -> Result<Task, String> {
        let cli = Cli::try_parse_from(std::iter::once("vchat-client").chain(args.iter().copied()));
        cli.map_err(|e| e.to_string())?.resolve()
    }

    fn config(args: &[&str]) -> Config {
        match task(args) {
            Ok(Task::Call(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

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
            assert_eq!(Authority::parse(text), Ok(Authority { host: host.into(), port }), "{text}");
        }
        for text in ["", ":5", "a:b", "a:0", "a:70000", "a b", "https://x", "[::1", "[::1]x", "x/y"] {
            assert!(Authority::parse(text).is_err(), "{text}");
        }
        assert_eq!(Authority::parse("[::1]:7").map(|a| a.to_string()), Ok("[::1]:7".into()));
    }

    #[test]
    fn everything_has_a_default_but_the_relay() {
        let c = config(&["--relay", "x"]);
        assert_eq!(
            (c.room.as_str(), c.encoder, c.max_bitrate),
            ("lobby", Kind::Aom, Bitrate::from_kbps(2000))
        );
        assert!(task(&[]).is_err_and(|e| e.contains("--relay") || e.contains("VCHAT_RELAY")));
    }

    #[test]
    fn values_are_checked() {
        let c = config(&["--relay", "x", "--size", "1280x720", "--max-bitrate", "1.5M", "--duration", "2.5"]);
        assert_eq!((c.size, c.max_bitrate.kbps()), (Some((1280, 720)), 1500));
        assert_eq!(c.duration, Some(Duration::from_millis(2500)));
        for wrong in [
            ["--size", "1280"],
            ["--max-bitrate", "2Q"],
            ["--max-bitrate", "1k"],
            ["--duration", "-1"],
            ["--room", " "],
            ["--name", "a\u{202e}b"],
            ["--display", "y4m:"],
            ["--encoder", "x264"],
            ["--events", "xml"],
        ] {
            assert!(task(&["--relay", "x", wrong[0], wrong[1]]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn devices_is_a_command() {
        assert!(matches!(task(&["devices", "--json"]), Ok(Task::Devices { json: true })));
    }
}
