//! What `vchat-bench call` and `vchat-bench table` are told.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use vchat_proto::units::Bitrate;

use super::profile::Profile;
use crate::netem::parse_rate;

/// How to measure calls.
#[derive(Args, Clone, Debug)]
pub struct CallOptions {
    /// The network between each client and the relay [default: clean, in all sizes and with all encoders]
    #[arg(long, value_name = "PROFILE")]
    profile: Option<Profile>,
    /// The video encoder [default: aom, or both without --profile]
    #[arg(long)]
    encoder: Option<Encoder>,
    /// Size of the pictures, WIDTHxHEIGHT [default: 640x360, or that and 1280x720 without --profile]
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<(u32, u32)>,
    /// Pictures a second
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
    fps: u32,
    /// What cameras show: the test card, or a film of somebody moving, whose pictures are compared with what is shown of
    /// them [default: card; clip where that is too simple to fill the link]
    #[arg(long)]
    source: Option<Source>,
    /// The most a camera may send, such as 700k [default: the client's own]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    max_bitrate: Option<Bitrate>,
    /// What is said: chirps, whose delay can be told, or speech, of which is told how well it is understood
    #[arg(long, default_value = "chirps")]
    voice: Voice,
    /// Where pictures go: files (delay read from the pixels) or windows on a display without a screen (delay as the
    /// clients say)
    #[arg(long, default_value = "files")]
    display: Display,
    /// Time measured of each call, after 5 s to warm up; twice as much for `step`
    #[arg(long = "seconds", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(super) seconds: Duration,
    /// Calls of each kind; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) runs: u32,
    /// One JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// How to make the table of all figures.
#[derive(Args, Clone, Debug)]
pub struct TableOptions {
    /// Time measured of each call, after 5 s to warm up; twice as much for `step`
    #[arg(long = "seconds", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(super) seconds: Duration,
    /// Calls of each kind; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) runs: u32,
    /// Measure only calls on these networks; all other rows are those measured before
    #[arg(long, value_name = "PROFILE", value_delimiter = ',')]
    pub(super) only: Vec<Profile>,
    /// Where the page is written
    #[arg(long, value_name = "FILE", default_value = "docs/bench.md")]
    pub(super) out: PathBuf,
}

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) profile: Profile,
    pub(super) encoder: Encoder,
    pub(super) size: (u32, u32),
    pub(super) fps: u32,
    pub(super) source: Source,
    pub(super) max_bitrate: Option<Bitrate>,
    pub(super) voice: Voice,
    pub(super) display: Display,
}

/// What is played into microphones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Voice {
    Chirps,
    Speech,
}

/// What cameras show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Source {
    /// The client's test card
    Card,
    /// A film made for this
    Clip,
    /// The same in a dim room, whose noise leaves no link empty
    Dim,
}

/// The encoders of `vchat-client`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Encoder {
    Aom,
    Rav1e,
}

/// Where pictures are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Display {
    Files,
    Window,
}

impl CallOptions {
    /// The kinds of calls to measure: one for a profile, otherwise all that the options leave open.
    pub(super) fn setups(&self) -> Vec<Setup> {
        let all = self.profile.is_none();
        let sizes = match self.size {
            Some(size) => &[size][..],
            None if all => &[SMALL, LARGE][..],
            None => &[SMALL][..],
        };
        let encoders = match self.encoder {
            Some(encoder) => &[encoder][..],
            None if all => Encoder::value_variants(),
            None => &[Encoder::Aom][..],
        };
        let profile = self.profile.unwrap_or(Profile::Clean);
        let setup = |size, encoder| Setup {
            encoder,
            size,
            fps: self.fps,
            source: self.source.unwrap_or_else(|| profile.source()),
            max_bitrate: self.max_bitrate.or_else(|| profile.max_bitrate()),
            voice: self.voice,
            display: self.display,
            ..Setup::new(profile)
        };
        sizes
            .iter()
            .flat_map(|size| encoders.iter().map(move |encoder| (*size, *encoder)))
            .map(|(size, encoder)| setup(size, encoder))
            .collect()
    }
}

impl Encoder {
    /// As `--encoder` of the client takes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Aom => "aom",
            Self::Rav1e => "rav1e",
        }
    }
}

impl Setup {
    /// The usual call on a network.
    pub(super) const fn new(profile: Profile) -> Self {
        Self {
            profile,
            encoder: Encoder::Aom,
            size: SMALL,
            fps: 30,
            source: profile.source(),
            max_bitrate: profile.max_bitrate(),
            voice: Voice::Chirps,
            display: Display::Files,
        }
    }

    /// The call on a network in which pictures are compared with the originals.
    pub(super) const fn compared(profile: Profile) -> Self {
        Self { source: Source::Clip, max_bitrate: Some(COMPARED_BITRATE), ..Self::new(profile) }
    }

    /// The call on a network in which people speak.
    pub(super) const fn spoken(profile: Profile) -> Self {
        Self { voice: Voice::Speech, ..Self::new(profile) }
    }

    /// The kinds of calls that the table has, in its order.
    pub(super) fn table() -> Vec<Self> {
        let compared =
            [Profile::Clean, Profile::Loss5, Profile::Loss10, Profile::Loss20, Profile::Lossyburst];
        let usual = Profile::value_variants().iter().map(|profile| Self::new(*profile));
        let spoken = [Profile::Clean, Profile::Loss20, Profile::Lossyburst];
        usual.chain(compared.map(Self::compared)).chain(spoken.map(Self::spoken)).collect()
    }

    /// What the table and its bars call it; `None` for a call that is not there.
    pub(super) fn row(&self) -> Option<String> {
        let name = self.profile.name();
        let kinds = [
            (Self::new(self.profile), ""),
            (Self::compared(self.profile), " clip"),
            (Self::spoken(self.profile), " speech"),
        ];
        kinds.iter().find(|(setup, _)| setup == self).map(|(_, kind)| name + kind)
    }

    /// Such as `360p30 aom`.
    pub(super) fn short(&self) -> String {
        format!("{}p{} {}", self.size.1, self.fps, self.encoder.name())
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.size;
        let profile = self.profile.name();
        write!(f, "{profile}, {width}x{height} at {} fps, {}", self.fps, self.encoder.name())?;
        match self.source {
            Source::Card => {}
            Source::Clip => f.write_str(", clip")?,
            Source::Dim => f.write_str(", dim clip")?,
        }
        if self.voice == Voice::Speech {
            f.write_str(", speech")?;
        }
        if let Some(rate) = self.max_bitrate {
            write!(f, ", at most {} kb/s", rate.kbps())?;
        }
        if self.display == Display::Window {
            f.write_str(", in windows")?;
        }
        Ok(())
    }
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    // The barcode that delays are read from does not survive encoding in smaller pictures.
    sides.filter(|(w, h)| *w >= 160 && *h >= 90).ok_or_else(|| "give WIDTHxHEIGHT from 160x90 on".into())
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|s| (1.0..=3600.0).contains(s));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give a number of seconds from 1 to 3600".into())
}

const SMALL: (u32, u32) = (640, 360);
const LARGE: (u32, u32) = (1280, 720);
/// What the quality of pictures is told at.
const COMPARED_BITRATE: Bitrate = Bitrate::from_kbps(700);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: CallOptions,
    }

    fn setups(args: &[&str]) -> Vec<String> {
        let cli = Cli::try_parse_from(std::iter::once(&"call").chain(args)).expect("good options");
        cli.options.setups().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rows_have_names_and_other_calls_have_none() {
        let rows: Vec<_> = Setup::table().iter().map(|setup| setup.row().expect("a name")).collect();
        assert!(rows.contains(&"loss10".to_owned()) && rows.contains(&"loss10 clip".to_owned()), "{rows:?}");
        assert!(rows.iter().all(|row| rows.iter().filter(|other| row == *other).count() == 1), "{rows:?}");
        assert_eq!(Setup { fps: 15, ..Setup::new(Profile::Loss10) }.row(), None);
    }

    #[test]
    fn without_a_profile_there_are_all_kinds_of_calls() {
        let all = [
            "clean, 640x360 at 30 fps, aom",
            "clean, 640x360 at 30 fps, rav1e",
            "clean, 1280x720 at 30 fps, aom",
            "clean, 1280x720 at 30 fps, rav1e",
        ];
        assert_eq!(setups(&[]), all);
        assert_eq!(setups(&["--encoder", "rav1e"]), [all[1], all[3]]);
        assert_eq!(setups(&["--profile", "clean"]), [all[0]]);
        let narrow = ["--profile", "500k", "--size", "320x180", "--fps", "15", "--display", "window"];
        assert_eq!(setups(&narrow), ["500k, 320x180 at 15 fps, aom, clip, in windows"]);
        for wrong in [["--size", "20x20"], ["--size", "640"], ["--seconds", "0"], ["--runs", "0"]] {
            assert!(Cli::try_parse_from(std::iter::once(&"call").chain(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
