//! What `vchat-bench call` is told.

use std::fmt;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::profile::Profile;

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
    /// Where pictures go: files (delay read from the pixels) or windows on a display without a screen (delay as the
    /// clients say)
    #[arg(long, default_value = "files")]
    display: Display,
    /// Time measured of each call, after 3 s to warm up
    #[arg(long = "seconds", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(super) seconds: Duration,
    /// Calls of each kind; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) runs: u32,
    /// One JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) profile: Profile,
    pub(super) encoder: Encoder,
    pub(super) size: (u32, u32),
    pub(super) fps: u32,
    pub(super) display: Display,
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
        let setup = |size, encoder| Setup { profile, encoder, size, fps: self.fps, display: self.display };
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
    /// Such as `360p30 aom`.
    pub(super) fn short(&self) -> String {
        format!("{}p{} {}", self.size.1, self.fps, self.encoder.name())
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.size;
        let profile = self.profile.to_possible_value();
        let profile = profile.as_ref().map_or("?", |value| value.get_name());
        write!(f, "{profile}, {width}x{height} at {} fps, {}", self.fps, self.encoder.name())?;
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
        assert_eq!(setups(&narrow), ["500k, 320x180 at 15 fps, aom, in windows"]);
        for wrong in [["--size", "20x20"], ["--size", "640"], ["--seconds", "0"], ["--runs", "0"]] {
            assert!(Cli::try_parse_from(std::iter::once(&"call").chain(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
