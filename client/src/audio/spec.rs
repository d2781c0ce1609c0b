//! Where sound comes from and goes to, as written on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A source of sound: `auto`, `none`, `tone`, `file:PATH.wav` or the name of a microphone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MicSpec {
    /// The system's microphone when there is one, otherwise nothing.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// A test sound whose time can be measured, see [`super::tone`].
    Tone,
    /// A wav file of any rate and number of channels, in real time, over and over.
    File(PathBuf),
    /// The microphone of that name (its id, or part of its description).
    Named(String),
}

/// A destination of sound: `auto`, `none`, `wav:DIR` or the name of a speaker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SpeakerSpec {
    /// The system's speaker when there is one, otherwise nothing.
    #[default]
    Auto,
    /// Nothing; sound is decoded all the same, for statistics and speaking marks.
    None,
    /// One wav file per remote participant, and `mix.wav`, in that directory.
    Wav(PathBuf),
    /// The speaker of that name (its id, or part of its description).
    Named(String),
}

/// Why a text says neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing given.
    #[error("the name of the {0} is empty; use auto, none or a name from 'vchat-client devices'")]
    Empty(&'static str),
    /// A prefix without what belongs to it.
    #[error("'{0}' lacks a path; write {0}{1}")]
    NoPath(&'static str, &'static str),
}

impl FromStr for MicSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.trim() {
            "" => Err(SpecError::Empty("microphone")),
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "tone" => Ok(Self::Tone),
            "file:" => Err(SpecError::NoPath("file:", "PATH.wav")),
            other => Ok(match other.strip_prefix("file:") {
                Some(path) => Self::File(path.into()),
                None => Self::Named(other.into()),
            }),
        }
    }
}

impl FromStr for SpeakerSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.trim() {
            "" => Err(SpecError::Empty("speaker")),
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "wav:" => Err(SpecError::NoPath("wav:", "DIR")),
            other => Ok(match other.strip_prefix("wav:") {
                Some(path) => Self::Wav(path.into()),
                None => Self::Named(other.into()),
            }),
        }
    }
}

impl fmt::Display for MicSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Tone => f.write_str("tone"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for SpeakerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Wav(path) => write!(f, "wav:{}", path.display()),
            Self::Named(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_command_line_is_understood_and_printed_back() {
        for text in ["auto", "none", "tone", "file:a b/c.wav", "alsa_input.pci-0000", "USB Mic"] {
            let spec: MicSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), text);
        }
        for text in ["auto", "none", "wav:out/dir", "Headphones"] {
            let spec: SpeakerSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), text);
        }
        assert_eq!("file:x.wav".parse(), Ok(MicSpec::File("x.wav".into())));
        assert_eq!("wav:d".parse(), Ok(SpeakerSpec::Wav("d".into())));
        assert_eq!("tone".parse(), Ok(SpeakerSpec::Named("tone".into())));
    }

    #[test]
    fn errors_say_what_to_write() {
        let error = "file:".parse::<MicSpec>().expect_err("no path").to_string();
        assert_eq!(error, "'file:' lacks a path; write file:PATH.wav");
        let error = " ".parse::<SpeakerSpec>().expect_err("empty").to_string();
        assert!(error.contains("speaker is empty"), "{error}");
    }
}
