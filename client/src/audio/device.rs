//! Finding microphones and speakers, and the settings under which they are opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use cpal::traits::{DeviceTrait, HostTrait};
use cpal::{BufferSize, SampleFormat, StreamConfig, SupportedBufferSize, SupportedStreamConfigRange};

use super::{AudioError, Kind, RATE};

/// The microphones and speakers of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// Sources of sound. A sound server's monitors of its own output are among them.
    pub microphones: Vec<DeviceInfo>,
    /// Destinations of sound.
    pub speakers: Vec<DeviceInfo>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What `--mic` and `--speaker` take; stays the same between runs.
    pub name: String,
    /// What a person recognises.
    pub description: String,
    /// Whether `auto` would take it.
    pub default: bool,
}

/// Lists the devices of the sound system in use: PulseAudio (or PipeWire's stand-in for it) when its server runs,
/// otherwise ALSA.
///
/// Both lists are empty on a machine without sound.
#[must_use]
pub fn devices() -> Devices {
    let Some(host) = host() else { return Devices::default() };
    let list = |kind: Kind| {
        let default = default_of(&host, kind).and_then(|d| d.id().ok());
        all(&host, kind)
            .into_iter()
            .filter(|device| device.id().is_ok_and(|id| worth_listing(&id)))
            .filter_map(|device| {
                let id = device.id().ok()?;
                Some(DeviceInfo {
                    name: id.id().to_owned(),
                    description: describe(&device),
                    default: default.as_ref() == Some(&id),
                })
            })
            .collect()
    };
    Devices { microphones: list(Kind::Microphone), speakers: list(Kind::Speaker) }
}

/// A device and how to open it.
pub(super) struct Found {
    pub(super) device: cpal::Device,
    pub(super) name: String,
    pub(super) config: StreamConfig,
    pub(super) format: SampleFormat,
}

impl Found {
    /// Starts a stream with `open`.
    pub(super) fn start<T>(
        &self,
        kind: Kind,
        open: impl FnMut(StreamConfig) -> Result<T, cpal::Error>,
    ) -> Result<T, AudioError> {
        with_any_period(self.config, open).map_err(|e| AudioError::Device {
            kind,
            name: self.name.clone(),
            reason: one_line(&e),
        })
    }
}

/// Opens with the period wished for, and with the device's own where it refuses that one.
///
/// ALSA's sharing plugins (dmix and dsnoop, its default) list any period and have a single one once a rate is chosen.
fn with_any_period<T>(
    config: StreamConfig,
    mut open: impl FnMut(StreamConfig) -> Result<T, cpal::Error>,
) -> Result<T, cpal::Error> {
    match open(config) {
        Err(error)
            if error.kind() == cpal::ErrorKind::UnsupportedConfig
                && config.buffer_size != BufferSize::Default =>
        {
            open(StreamConfig { buffer_size: BufferSize::Default, ..config })
        }
        result => result,
    }
}

/// Finds the device called `name`, or the default one.
pub(super) fn find(kind: Kind, name: Option<&str>, period: u32) -> Result<Found, AudioError> {
    let Some(host) = host() else {
        return Err(match name {
            Some(name) => AudioError::NoSuchDevice { kind, name: name.to_owned() },
            None => AudioError::NoDevice { kind },
        });
    };
    let device = match name {
        Some(name) => named(all(&host, kind), name)
            .ok_or_else(|| AudioError::NoSuchDevice { kind, name: name.to_owned() })?,
        None => default_of(&host, kind).ok_or(AudioError::NoDevice { kind })?,
    };
    let name = describe(&device);
    let (config, format) = settings(&device, kind, period).map_err(|e| AudioError::Device {
        kind,
        name: name.clone(),
        reason: one_line(&e),
    })?;
    Ok(Found { device, name, config, format })
}

/// Tells when a device disappears from the sound server. Ends (within a second) when dropped.
///
/// PulseAudio moves the streams of a device that was unplugged to another one, without a word. For a microphone that
/// other one may be the monitor of the loudspeaker, which would send the call back into itself.
pub(super) struct Watch(Arc<AtomicBool>);

impl Watch {
    /// Watches `device`; its end goes to `gone`. Does nothing on ALSA, where listing devices means opening them and
    /// a stream reports its end by itself.
    pub(super) fn start(device: &cpal::Device, kind: Kind, gone: SyncSender<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Self(stop.clone());
        let Some(id) = device.id().ok().filter(|id| id.host() == cpal::HostId::PulseAudio) else {
            return watch;
        };
        let run = move || {
            let Some(host) = host() else { return };
            while !stop.load(Ordering::Relaxed) {
                let devices = all(&host, kind);
                // An empty list is a server that does not answer: the stream notices that itself.
                if !devices.is_empty() && !devices.iter().any(|d| d.id().is_ok_and(|other| other == id)) {
                    // Whoever listens has heard of an end already when this does not fit.
                    let _ = gone.try_send("it was removed from the sound server".to_owned());
                    return;
                }
                std::thread::sleep(WATCH_PERIOD);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("audio-watch".to_owned()).spawn(run) {
            tracing::warn!(%error, "the microphone is not watched");
        }
        watch
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A cpal error without line breaks.
pub(super) fn one_line(error: &cpal::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The sound system; none on a machine without a sound server and without sound cards, where ALSA would offer its
/// plugins as devices and complain on stderr.
fn host() -> Option<cpal::Host> {
    let host = cpal::default_host();
    (host.id() != cpal::HostId::Alsa || std::path::Path::new(ALSA_CARDS).exists()).then_some(host)
}

/// All devices that can be opened by name. ALSA does not list its own default; it comes first here.
fn all(host: &cpal::Host, kind: Kind) -> Vec<cpal::Device> {
    let listed: Vec<_> = match kind {
        Kind::Microphone => host.input_devices().map(Iterator::collect),
        Kind::Speaker => host.output_devices().map(Iterator::collect),
    }
    .unwrap_or_default();
    let default = default_of(host, kind)
        .filter(|default| host.id() == cpal::HostId::Alsa && !listed.iter().any(|d| d.id() == default.id()));
    default.into_iter().chain(listed).collect()
}

/// Whether a person would choose this device from a list.
///
/// ALSA offers each device of a card under a dozen names, and its plugins besides. Of those this keeps the default and,
/// for each device, the name that converts rates and channels (`plughw`), by the card's name, which unlike its number
/// stays the same between boots. The others can be opened all the same.
fn worth_listing(id: &cpal::DeviceId) -> bool {
    let by_card_name = |id: &str| {
        id.strip_prefix("plughw:CARD=").is_some_and(|card| !card.starts_with(|c: char| c.is_ascii_digit()))
    };
    id.host() != cpal::HostId::Alsa || id.id() == "default" || by_card_name(id.id())
}

/// The system's choice. A monitor of the machine's own output is no microphone: it would send the call back into
/// itself. A sound server names one as default when it has nothing else.
fn default_of(host: &cpal::Host, kind: Kind) -> Option<cpal::Device> {
    match kind {
        Kind::Microphone => {
            host.default_input_device().filter(|d| d.id().is_ok_and(|id| !id.id().ends_with(".monitor")))
        }
        Kind::Speaker => host.default_output_device(),
    }
}

/// The device with that id or description; otherwise the first whose description or id has it as a part, those listed
/// for people before others.
fn named(devices: Vec<cpal::Device>, name: &str) -> Option<cpal::Device> {
    let wanted = name.to_lowercase();
    let rank = |device: &cpal::Device| {
        let (id, description) = (device.id().ok()?.id().to_lowercase(), describe(device).to_lowercase());
        if id == wanted {
            Some(0)
        } else {
            let found = description.contains(&wanted) || id.contains(&wanted);
            let hidden = !device.id().is_ok_and(|id| worth_listing(&id));
            found.then_some(1 + 2 * u8::from(hidden) + u8::from(description != wanted))
        }
    };
    devices.into_iter().filter_map(|d| Some((rank(&d)?, d))).min_by_key(|&(rank, _)| rank).map(|(_, d)| d)
}

fn describe(device: &cpal::Device) -> String {
    device.description().map_or_else(|_| "unknown".to_owned(), |d| d.name().to_owned())
}

/// Mono at 48 kHz where the device (or the sound server for it) can do that, otherwise what comes next to it.
fn settings(
    device: &cpal::Device,
    kind: Kind,
    period: u32,
) -> Result<(StreamConfig, SampleFormat), cpal::Error> {
    let ranges: Vec<SupportedStreamConfigRange> = match kind {
        Kind::Microphone => device.supported_input_configs()?.collect(),
        Kind::Speaker => device.supported_output_configs()?.collect(),
    };
    let usable = |range: &SupportedStreamConfigRange| {
        let format = match range.sample_format() {
            SampleFormat::F32 => 0,
            SampleFormat::I16 => 1,
            _ => return None,
        };
        let other_rate = !range.contains_rate(RATE);
        Some((other_rate, range.channels(), format))
    };
    let best = ranges.into_iter().filter_map(|r| Some((usable(&r)?, r))).min_by_key(|&(rank, _)| rank);
    let Some(((other_rate, ..), range)) = best else {
        let default = match kind {
            Kind::Microphone => device.default_input_config()?,
            Kind::Speaker => device.default_output_config()?,
        };
        let config = StreamConfig { buffer_size: BufferSize::Default, ..default.config() };
        return Ok((config, default.sample_format()));
    };
    let sample_rate =
        if other_rate { RATE.clamp(range.min_sample_rate(), range.max_sample_rate()) } else { RATE };
    let buffer_size = match range.buffer_size() {
        SupportedBufferSize::Range { min, max } if min <= max => BufferSize::Fixed(period.clamp(*min, *max)),
        _ => BufferSize::Default,
    };
    Ok((StreamConfig { channels: range.channels(), sample_rate, buffer_size }, range.sample_format()))
}

/// A sound from the wrong source for a second is tolerable; the question costs the server next to nothing.
const WATCH_PERIOD: Duration = Duration::from_secs(1);
/// Exists when the kernel drives a sound card.
const ALSA_CARDS: &str = "/dev/snd";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_refuses_the_period_is_opened_with_its_own() {
        let wish = StreamConfig { channels: 1, sample_rate: RATE, buffer_size: BufferSize::Fixed(240) };
        let refuse = |kind| {
            move |config: StreamConfig| match config.buffer_size {
                BufferSize::Default => Ok("its own"),
                BufferSize::Fixed(_) => Err(cpal::Error::with_message(kind, "240 is not 1024")),
            }
        };
        let opened = with_any_period(wish, refuse(cpal::ErrorKind::UnsupportedConfig));
        assert_eq!(opened.ok(), Some("its own"));
        assert!(with_any_period(wish, refuse(cpal::ErrorKind::DeviceBusy)).is_err(), "busy stays busy");
    }

    #[test]
    fn of_the_many_names_of_a_card_one_is_listed() {
        let listed = |name: &str| worth_listing(&cpal::DeviceId::new(cpal::HostId::Alsa, name));
        for name in ["default", "plughw:CARD=PCH,DEV=0", "plughw:CARD=Webcam,DEV=1"] {
            assert!(listed(name), "{name}");
        }
        for name in ["null", "speex", "hw:CARD=PCH,DEV=0", "plughw:CARD=0,DEV=0", "surround51:CARD=PCH,DEV=0"]
        {
            assert!(!listed(name), "{name}");
        }
        assert!(worth_listing(&cpal::DeviceId::new(
            cpal::HostId::PulseAudio,
            "alsa_output.pci.analog-stereo"
        )));
    }
}
