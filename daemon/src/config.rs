//! What the daemon is told: flags over environment over a TOML file, checked once.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use serde::Deserialize;

/// vchatd: the relay of a vchat. People join it with `vchat-client --relay HOST`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "vchatd",
    version,
    about,
    after_help = "Example:\n  vchatd --listen '[::]:4433' --state-dir /var/lib/vchatd\n\n\
                  Exit codes: 0 stopped as asked, 2 wrong usage or configuration, 1 anything else.\n\
                  Logs go to stderr; RUST_LOG sets the level (default: info)."
)]
pub struct Flags {
    #[command(subcommand)]
    command: Option<Command>,

    /// A TOML file with the same settings: listen = ["ADDR:PORT"], state-dir = "DIR", log = "text"
    #[arg(long, env = "VCHATD_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    /// UDP address to listen on; repeat it for several; port 0 takes any free one [default: [::]:4433]
    #[arg(long, env = "VCHATD_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',', global = true)]
    listen: Vec<SocketAddr>,

    /// Where the relay's key and the keys it has seen are kept [default: $STATE_DIRECTORY, else ~/.local/state/vchatd]
    #[arg(long, env = "VCHATD_STATE_DIR", value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,

    /// How to write the log [default: text]
    #[arg(long, env = "VCHATD_LOG", value_name = "FORMAT", global = true)]
    log: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum Command {
    /// Run the relay (what happens without a command, too)
    Run,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    listen: Option<Vec<SocketAddr>>,
    state_dir: Option<PathBuf>,
    log: Option<LogFormat>,
}

/// Checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// UDP addresses to listen on, at least one.
    pub listen: Vec<SocketAddr>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// How to write the log.
    pub log: LogFormat,
}

/// Why the settings are no use. One line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration {path} is wrong: {why}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why, on one line.
        why: String,
    },
    /// There is no place for the state.
    #[error("no place for the relay's key: set --state-dir DIR (neither $STATE_DIRECTORY nor $HOME is set)")]
    NoStateDir,
}

impl Flags {
    /// Reads the configuration file, if one is named, and checks everything.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ConfigError::Read { path: path.clone(), error })?;
                parse(path, &text)?
            }
            None => File::default(),
        };
        let env = |name| std::env::var_os(name);
        merge(self, file, env("STATE_DIRECTORY").as_deref(), env("HOME").as_deref())
    }
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(0, |s| 1 + text[..s.start.min(text.len())].matches('\n').count());
        let why = format!("line {line}: {}", e.message().replace('\n', " "));
        ConfigError::Parse { path: path.into(), why }
    })
}

fn merge(
    flags: Flags,
    file: File,
    state: Option<&OsStr>,
    home: Option<&OsStr>,
) -> Result<Config, ConfigError> {
    let listen = Some(flags.listen).filter(|l| !l.is_empty()).or(file.listen).filter(|l| !l.is_empty());
    let state_dir = flags
        .state_dir
        .or(file.state_dir)
        .or_else(|| state.map(PathBuf::from))
        .or_else(|| home.map(|h| Path::new(h).join(".local/state/vchatd")))
        .ok_or(ConfigError::NoStateDir)?;
    Ok(Config {
        listen: listen.unwrap_or_else(|| vec![SocketAddr::from(([0_u16; 8], DEFAULT_PORT))]),
        state_dir,
        log: flags.log.or(file.log).unwrap_or(LogFormat::Text),
    })
}

/// The port of vchat relays.
pub const DEFAULT_PORT: u16 = 4433;

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(args: &[&str]) -> Flags {
        Flags::try_parse_from(std::iter::once("vchatd").chain(args.iter().copied())).expect("good flags")
    }

    fn merged(args: &[&str], text: &str) -> Result<Config, ConfigError> {
        merge(flags(args), parse(Path::new("x.toml"), text)?, None, Some(OsStr::new("/home/ann")))
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let config = merged(&[], "").expect("defaults");
        assert_eq!(config.listen, [SocketAddr::from(([0_u16; 8], 4433))]);
        assert_eq!(config.state_dir, Path::new("/home/ann/.local/state/vchatd"));
        let file = "listen = ['1.2.3.4:5', '[::1]:6']\nstate-dir = '/var/x'\nlog = 'json'";
        let config = merged(&["--listen", "9.9.9.9:9"], file).expect("good");
        assert_eq!(config.listen, [SocketAddr::from(([9, 9, 9, 9], 9))]);
        assert_eq!((config.state_dir.as_path(), config.log), (Path::new("/var/x"), LogFormat::Json));
        assert_eq!(merged(&["run"], file).expect("good").listen.len(), 2);
    }

    #[test]
    fn systemd_names_the_state_directory() {
        let config =
            merge(flags(&[]), File::default(), Some(OsStr::new("/var/lib/vchatd")), None).expect("good");
        assert_eq!(config.state_dir, Path::new("/var/lib/vchatd"));
        assert!(matches!(merge(flags(&[]), File::default(), None, None), Err(ConfigError::NoStateDir)));
    }

    #[test]
    fn a_wrong_file_is_told_with_its_line() {
        let why = merged(&[], "\nlistne = []").expect_err("unknown key").to_string();
        assert!(why.contains("x.toml") && why.contains("line 2") && why.contains("listne"), "{why}");
        let why = merged(&[], "listen = ['nonsense']").expect_err("no address").to_string();
        assert!(why.contains("line 1"), "{why}");
    }
}
