//! What the client is told on its command line, checked once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use vchat_certs::authority::{Authority, AuthorityError};
use vchat_certs::code::Code;
use vchat_certs::invite::{Link, LinkError};
use vchat_proto::id::{DisplayName, RoomName};
use vchat_proto::units::{Bitrate, seconds_of_text};

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
        vchat-client vchat://relay.example.org:4433/#…        come in by an invite link\n  \
        vchat-client --relay relay.example.org --name Ann     every time after that\n  \
        vchat-client --relay auto                             the relay of this local network\n  \
        vchat-client pair --relay HOST --code 4-1234-5678     pair by a spoken code\n  \
        vchat-client history --relay HOST --room team         what was written there\n  \
        vchat-client --relay localhost --camera test --mic tone\n\n\
        Keys in the window: M mute, V camera, C chat panel, S statistics, Enter write, F1 help, Q quit.\n\
        Exit codes: 0 ok, 2 wrong usage, 3 relay not reachable, 4 not paired, refused or another key than known,\n\
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
    /// Let a relay and this device know each other, without a call
    #[command(after_help = "Examples:\n  \
        vchat-client pair vchat://relay.example.org:4433/#…\n  \
        vchat-client pair --relay relay.example.org --code 4-1234-5678")]
    Pair {
        /// An invite link, as `vchatd invite` prints it
        #[arg(value_name = "INVITE-LINK", required_unless_present = "code", conflicts_with = "code")]
        link: Option<String>,
        /// The relay, instead of the one that the link names; `auto`: the one on this local network [port default: 4433]
        #[arg(long, value_name = "HOST[:PORT]")]
        relay: Option<Target>,
        /// A spoken code, as `vchatd invite --code` prints it
        #[arg(long, value_name = "CODE", requires = "relay")]
        code: Option<String>,
        /// How the relay's operator sees this device [default: the user's name]
        #[arg(long, value_parser = name)]
        name: Option<DisplayName>,
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Invite somebody, as an administrator of the relay: print a link, or a code to say
    #[command(after_help = "Examples:\n  \
        vchat-client invite --relay relay.example.org\n  \
        vchat-client invite --relay relay.example.org --room team --uses 5 --ttl 7d")]
    Invite {
        /// The relay; `auto`: the one on this local network [port default: 4433] [env: VCHAT_RELAY]
        #[arg(long, value_name = "HOST[:PORT]")]
        relay: Option<Target>,
        /// A room that the device may enter; repeat it for several [default: any]
        #[arg(long = "room", value_name = "ROOM", value_parser = room)]
        rooms: Vec<RoomName>,
        /// For how many devices
        #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "code")]
        uses: u32,
        /// For how long, as in 30m, 24h or 7d
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = ttl, conflicts_with = "code")]
        ttl: u64,
        /// A code to say instead of a link: one device, ten minutes, three tries
        #[arg(long)]
        code: bool,
        /// The device may invite others
        #[arg(long)]
        admin: bool,
        /// One JSON object: link, code, expires
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Print what was written in a room, without joining it
    #[command(after_help = "Examples:\n  \
        vchat-client history --relay relay.example.org\n  \
        vchat-client history --relay relay.example.org --room team --before 1200 --limit 500 --json")]
    History {
        /// The relay; `auto`: the one on this local network [port default: 4433] [env: VCHAT_RELAY]
        #[arg(long, value_name = "HOST[:PORT]")]
        relay: Option<Target>,
        /// The room [default: the one of the invite, or else lobby]
        #[arg(long, value_name = "ROOM", value_parser = room)]
        room: Option<RoomName>,
        /// Lines before the one with this number [default: the newest]
        #[arg(long, value_name = "N")]
        before: Option<u64>,
        /// How many lines
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=MAX_LINES))]
        limit: u32,
        /// One JSON array: seq, sent, name, text of each line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// List cameras, microphones and speakers
    Devices {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct DirArgs {
    /// Where this device's key is kept [default: $XDG_CONFIG_HOME/vchat or ~/.config/vchat]
    #[arg(long, env = "VCHAT_CONFIG_DIR", value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Where the keys of known relays are kept [default: $XDG_STATE_HOME/vchat or ~/.local/state/vchat]
    #[arg(long, env = "VCHAT_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CallArgs {
    /// An invite link: pairs if need be, then joins
    #[arg(value_name = "INVITE-LINK")]
    link: Option<String>,
    /// The relay to call through; `auto`: the one on this local network that this device is paired with
    /// [port default: 4433] [env: VCHAT_RELAY]
    #[arg(long, value_name = "HOST[:PORT]")]
    relay: Option<Target>,
    /// The room to join; everybody who names the same room is in the same call [default: the one of the invite, or else
    /// lobby]
    #[arg(long, value_parser = room)]
    room: Option<RoomName>,
    /// Accept the key of a relay that was never met, and remember it. Only where nobody can be in between
    #[arg(long)]
    trust_on_first_use: bool,
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
    /// Most bits a second to send as video, as in 500k or 2M [default: what suits the size, at most 2M]
    #[arg(long, value_name = "RATE", value_parser = bitrate)]
    max_bitrate: Option<Bitrate>,
    /// Leave after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,
    /// Print what happens to stdout, one JSON object a line
    #[arg(long, value_name = "json")]
    events: Option<EventFormat>,
    #[command(flatten)]
    dirs: DirArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EventFormat {
    Json,
}

/// What to do.
#[derive(Debug)]
pub enum Task {
    /// Invite somebody, as an administrator.
    Invite(Box<InviteConfig>),
    /// Join a call.
    Call(Box<Config>),
    /// Pair with a relay.
    Pair(Box<PairConfig>),
    /// Read what was written in a room.
    History(Box<HistoryConfig>),
    /// List devices.
    Devices {
        /// As JSON.
        json: bool,
    },
}

/// A checked pairing.
#[derive(Clone, Debug)]
pub struct PairConfig {
    /// Where the relay is.
    pub relay: Target,
    /// What lets us in.
    pub invite: Invite,
    /// How the relay's operator sees this device.
    pub name: DisplayName,
    /// Where the identity is kept.
    pub config_dir: PathBuf,
    /// Where known relays are kept.
    pub state_dir: PathBuf,
}

/// A checked wish for an invite.
#[derive(Clone, Debug)]
pub struct InviteConfig {
    /// Where the relay is.
    pub relay: Target,
    /// The rooms it is for; any, if there is none.
    pub rooms: Vec<RoomName>,
    /// For how many devices.
    pub uses: u32,
    /// For how many seconds.
    pub ttl_s: u64,
    /// A spoken code rather than a link.
    pub code: bool,
    /// The device may invite others.
    pub admin: bool,
    /// Whether to print JSON.
    pub json: bool,
    /// Where the identity is kept.
    pub config_dir: PathBuf,
    /// Where known relays are kept.
    pub state_dir: PathBuf,
}

/// A checked wish to read what was written in a room.
#[derive(Clone, Debug)]
pub struct HistoryConfig {
    /// Where the relay is.
    pub relay: Target,
    /// The room; none for the one that the relay chooses.
    pub room: Option<RoomName>,
    /// Lines with smaller numbers; none for the newest.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
    /// Whether to print JSON.
    pub json: bool,
    /// Where the identity is kept.
    pub config_dir: PathBuf,
    /// Where known relays are kept.
    pub state_dir: PathBuf,
}

/// What lets a device in.
#[derive(Clone, Debug)]
pub enum Invite {
    /// A link, which also says who the relay is.
    Link(Link),
    /// A spoken code.
    Code(Code),
}

/// Where a relay is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// There.
    Relay(Authority),
    /// On the local network.
    Lan,
}

/// A checked call.
#[derive(Clone, Debug)]
pub struct Config {
    /// The relay.
    pub relay: Target,
    /// The link to pair by before the call.
    pub invite: Option<Link>,
    /// Whether a key that was never met is accepted.
    pub trust_on_first_use: bool,
    /// The room; none for the one that the relay chooses.
    pub room: Option<RoomName>,
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
    /// Most bits a second of video; none for what suits the size.
    pub max_bitrate: Option<Bitrate>,
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

impl Cli {
    /// Checks what clap could not. The error is one line for the user.
    pub fn resolve(self) -> Result<Task, String> {
        match self.command {
            Some(Sub::Devices { json }) => return Ok(Task::Devices { json }),
            Some(Sub::Pair { link, relay, code, name, dirs }) => {
                return pairing(link, code, relay, name, dirs).map(|config| Task::Pair(Box::new(config)));
            }
            Some(Sub::Invite { relay, rooms, uses, ttl, code, admin, json, dirs }) => {
                let relay = relay.map_or_else(from_environment, Ok)?;
                let (config_dir, state_dir) = dirs.resolve()?;
                let config =
                    InviteConfig { relay, rooms, uses, ttl_s: ttl, code, admin, json, config_dir, state_dir };
                return Ok(Task::Invite(Box::new(config)));
            }
            Some(Sub::History { relay, room, before, limit, json, dirs }) => {
                let relay = relay.map_or_else(from_environment, Ok)?;
                let (config_dir, state_dir) = dirs.resolve()?;
                let config = HistoryConfig { relay, room, before, limit, json, config_dir, state_dir };
                return Ok(Task::History(Box::new(config)));
            }
            None => {}
        }
        let args = self.call;
        let link = args.link.as_deref().map(invite_link).transpose()?;
        if args.trust_on_first_use && args.relay == Some(Target::Lan) {
            return Err(
                "--trust-on-first-use needs the relay's name: on a local network anybody may answer".into()
            );
        }
        let relay = match (args.relay, &link) {
            (Some(relay), _) => relay,
            (None, Some(link)) => Target::Relay(link.relay.clone()),
            (None, None) => from_environment()?,
        };
        let (config_dir, state_dir) = args.dirs.resolve()?;
        Ok(Task::Call(Box::new(Config {
            relay,
            invite: link,
            trust_on_first_use: args.trust_on_first_use,
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
            config_dir,
            state_dir,
        })))
    }
}

/// Not by clap: in the environment it is for those who name no relay, a link included.
fn from_environment() -> Result<Target, String> {
    let relay = std::env::var("VCHAT_RELAY").ok().filter(|relay| !relay.is_empty()).ok_or(NO_RELAY)?;
    relay.parse().map_err(|e: AuthorityError| e.to_string())
}

fn pairing(
    link: Option<String>,
    code: Option<String>,
    relay: Option<Target>,
    name: Option<DisplayName>,
    dirs: DirArgs,
) -> Result<PairConfig, String> {
    // Not by clap, which would repeat a damaged one, secret and all.
    let link = link.as_deref().map(invite_link).transpose()?;
    let code = code.map(|code| code.parse::<Code>()).transpose().map_err(|e| e.to_string())?;
    let named = link.as_ref().map(|link| Target::Relay(link.relay.clone()));
    let relay = relay.or(named).ok_or(NO_RELAY)?;
    let invite = link
        .map(Invite::Link)
        .or_else(|| code.map(Invite::Code))
        .ok_or("no invite: give a link or --code CODE")?;
    let (config_dir, state_dir) = dirs.resolve()?;
    Ok(PairConfig { relay, invite, name: name.unwrap_or_else(user_name), config_dir, state_dir })
}

impl DirArgs {
    /// The directories of the identity and of known relays.
    fn resolve(self) -> Result<(PathBuf, PathBuf), String> {
        let home = std::env::var_os("HOME");
        let dir = |given: Option<PathBuf>, xdg: &str, below_home: &str, flag: &str| {
            given
                .or_else(|| {
                    std::env::var_os(xdg).filter(|d| !d.is_empty()).map(|d| Path::new(&d).join("vchat"))
                })
                .or_else(|| home.as_ref().map(|h| Path::new(h).join(below_home).join("vchat")))
                .ok_or_else(|| format!("$HOME is not set; name a directory with {flag} DIR"))
        };
        Ok((
            dir(self.config_dir, "XDG_CONFIG_HOME", ".config", "--config-dir")?,
            dir(self.state_dir, "XDG_STATE_HOME", ".local/state", "--state-dir")?,
        ))
    }
}

impl FromStr for Target {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if text == "auto" { Ok(Self::Lan) } else { text.parse().map(Self::Relay) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(relay) => relay.fmt(f),
            Self::Lan => f.write_str("on this local network"),
        }
    }
}

fn ttl(text: &str) -> Result<u64, &'static str> {
    seconds_of_text(text).ok_or("give a number and a unit, as in 30m, 24h or 7d")
}

fn invite_link(text: &str) -> Result<Link, String> {
    text.parse().map_err(|e: LinkError| e.to_string())
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

const NO_RELAY: &str =
    "no relay: say where to call, as in --relay HOST (or set VCHAT_RELAY), or open an invite link";
/// As many lines as a relay keeps of a room unless it is told otherwise.
const MAX_LINES: i64 = 100_000;
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
    fn everything_has_a_default_but_the_relay() {
        let c = config(&["--relay", "x"]);
        assert_eq!((c.room, c.encoder, c.max_bitrate), (None, Kind::Aom, None));
        assert_eq!((c.relay.to_string().as_str(), c.trust_on_first_use), ("x:4433", false));
        assert!(task(&[]).is_err_and(|e| e.contains("--relay") || e.contains("VCHAT_RELAY")));
    }

    #[test]
    fn values_are_checked() {
        let c = config(&["--relay", "x", "--size", "1280x720", "--max-bitrate", "1.5M", "--duration", "2.5"]);
        assert_eq!((c.size, c.max_bitrate), (Some((1280, 720)), Some(Bitrate::from_kbps(1500))));
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
            ["--relay", "a b"],
        ] {
            assert!(task(&["--relay", "x", wrong[0], wrong[1]]).is_err(), "{wrong:?}");
        }
    }

    const LINK: &str = "vchat://relay.example:4433/#\
        aeaacaqdaqcqmbyibefawdanbyhraeiscmkbkfqxdamrugy4dupb7jnfuws2ljnfuws2ljnfuws2ljk2ui";

    #[test]
    fn a_link_says_where_to_call_unless_somebody_knows_better() {
        let c = config(&[LINK, "--name", "ann"]);
        assert_eq!(c.relay.to_string(), "relay.example:4433");
        assert_eq!(c.invite.map(|link| link.to_string()), Some(LINK.into()));
        let c = config(&[LINK, "--relay", "127.0.0.1:7"]);
        assert_eq!((c.relay.to_string().as_str(), c.invite.is_some()), ("127.0.0.1:7", true));
        assert_eq!(config(&["--relay", "auto"]).relay, Target::Lan);
        let damaged = task(&[&LINK[..LINK.len() - 3]]).expect_err("damaged");
        assert!(damaged.contains("damaged") && !damaged.contains(&LINK[40..60]), "{damaged}");
        assert!(task(&["--relay", "auto", "--trust-on-first-use"]).is_err());
        assert!(task(&["nonsense"]).expect_err("no link").contains("no invite link"));
    }

    #[test]
    fn pairing_takes_a_link_or_a_code() {
        let pair = |args: &[&str]| match task(&[&["pair"], args].concat()) {
            Ok(Task::Pair(config)) => Ok(*config),
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e),
        };
        let by_link = pair(&[LINK]).expect("a link");
        assert!(matches!(by_link.invite, Invite::Link(_)));
        assert_eq!(by_link.relay.to_string(), "relay.example:4433");
        let by_code = pair(&["--relay", "h", "--code", "4-1234-5678", "--name", "Ann"]).expect("a code");
        assert!(matches!(by_code.invite, Invite::Code(code) if code.nameplate() == 4));
        assert_eq!((by_code.relay.to_string().as_str(), by_code.name.as_str()), ("h:4433", "Ann"));
        for wrong in [
            &[][..],
            &["--relay", "h"],
            &["--code", "4-1234-5678"],
            &["--relay", "h", "--code", "9876-5432"],
            &[LINK, "--relay", "h", "--code", "4-1234-5678"],
        ] {
            let why = pair(wrong).expect_err("refused");
            assert!(!why.contains("9876"), "no secret is repeated: {why}");
        }
    }

    #[test]
    fn an_administrator_invites_with_the_words_of_the_operator() {
        let args =
            ["invite", "--relay", "h", "--room", "a", "--room", "b", "--uses", "3", "--ttl", "7d", "--json"];
        let Ok(Task::Invite(config)) = task(&args) else { panic!("no invite") };
        assert_eq!((config.rooms.len(), config.uses, config.ttl_s), (2, 3, 604_800));
        assert!(config.json && !config.code && !config.admin);
        assert!(task(&["invite", "--relay", "h", "--ttl", "soon"]).is_err());
        assert!(task(&["invite", "--relay", "h", "--code", "--uses", "2"]).is_err());
    }

    #[test]
    fn history_is_of_the_newest_lines_unless_told_otherwise() {
        let history = |args: &[&str]| match task(&[&["history", "--relay", "h"], args].concat()) {
            Ok(Task::History(config)) => Ok((config.room, config.before, config.limit, config.json)),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(history(&[]), Ok((None, None, 100, false)));
        let team = RoomName::parse("team").ok();
        let asked = history(&["--room", "team", "--before", "7", "--limit", "500", "--json"]);
        assert_eq!(asked, Ok((team, Some(7), 500, true)));
        for wrong in [["--limit", "0"], ["--limit", "100001"], ["--before", "-1"], ["--room", " "]] {
            assert!(history(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn devices_is_a_command() {
        assert!(matches!(task(&["devices", "--json"]), Ok(Task::Devices { json: true })));
    }
}
