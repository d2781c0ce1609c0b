//! Sound and pictures of a client made by hand: as much as a call's, and as little to look at.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use quinn::Connection;
use tokio::time::MissedTickBehavior;
use vchat_proto::hop;
use vchat_proto::id::{FrameId, TrackId};
use vchat_proto::packetize::Packetizer;
use vchat_proto::reassemble::{Output, Reassembler};
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::datagram::{Media, MediaKind};
use vchat_proto::wire::hop::Packet;
use vchat_proto::wire::pb;

use super::guest::{Guest, Stream, control_up};

/// Somebody in a call, who sends sound and small pictures and takes in those of the others.
pub(super) struct Attendee {
    connection: Connection,
    camera: Packetizer,
    microphone: Packetizer,
    sender: hop::Sender,
    receiver: hop::Receiver,
    others: BTreeMap<TrackId, Camera>,
    /// The zero of everybody's media clock.
    clock: Instant,
    key_frame_due: bool,
    ticks: u64,
}

/// Somebody else's pictures.
struct Camera {
    pictures: Reassembler,
    heard: Instant,
}

/// What has come of somebody else.
pub(super) enum Arrived {
    /// A packet of sound, perhaps not for the first time, and how long it was on its way.
    Sound { track: TrackId, frame: FrameId, delay: Duration },
    /// A whole picture that can be decoded; `key`: that needs no other.
    Picture { key: bool },
    /// Somebody has left.
    Left,
}

impl Attendee {
    /// For a guest with [`TRACKS`]; those whose delays are measured have one `clock`.
    pub(super) fn new(guest: &Guest, clock: Instant) -> anyhow::Result<Self> {
        let [camera, microphone] = guest.tracks[..] else { bail!("not the tracks that were asked for") };
        let now = Instant::now();
        Ok(Self {
            connection: guest.line.connection.clone(),
            camera: Packetizer::new(MediaKind::Video, camera),
            microphone: Packetizer::new(MediaKind::Audio, microphone),
            sender: hop::Sender::new(now, hop::Settings { start: RATE, video_max: RATE }),
            receiver: hop::Receiver::new(now),
            others: BTreeMap::new(),
            clock,
            key_frame_due: true,
            ticks: 0,
        })
    }

    /// Sends and takes in until the connection ends, and says what has come.
    pub(super) async fn attend(
        &mut self,
        control: &mut Stream,
        mut arrived: impl FnMut(Arrived),
    ) -> anyhow::Result<()> {
        // Not in step with the others: by the time at which each came.
        let mut ticks = tokio::time::interval(SOUND_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let due = self.due();
            tokio::select! {
                _ = self.connection.closed() => return Ok(()),
                datagram = self.connection.read_datagram() => {
                    let Ok(datagram) = datagram else { return Ok(()) };
                    let len = datagram.len();
                    match Packet::parse(datagram)? {
                        (_, Packet::Report(report)) => self.sender.handle_report(Instant::now(), &report),
                        (number, packet) => self.receiver.handle_packet(Instant::now(), number, len, packet),
                    }
                }
                message = control.receive::<pb::RelayControl>() => match message.map(|m| m.body) {
                    Ok(Some(pb::relay_control::Body::KeyFrameRequest(_))) => self.key_frame_due = true,
                    Ok(Some(pb::relay_control::Body::Left(_))) => {
                        // Who stays is heard more often.
                        self.others.retain(|_, camera| camera.heard.elapsed() < GONE_AFTER);
                        arrived(Arrived::Left);
                    }
                    Ok(_) => {}
                    Err(_) => return Ok(()),
                },
                _ = ticks.tick() => self.record()?,
                () = tokio::time::sleep_until(due.into()) => {}
            }
            if !self.pass_on(control, &mut arrived).await? {
                return Ok(());
            }
        }
    }

    fn due(&self) -> Instant {
        let cameras = self.others.values().filter_map(|camera| camera.pictures.poll_timeout());
        let hop = [self.sender.poll_timeout(), self.receiver.poll_timeout()];
        let first = hop.into_iter().flatten().chain(cameras).min();
        first.unwrap_or_else(|| Instant::now() + SOUND_EVERY)
    }

    /// What microphone and camera have by now.
    fn record(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let captured = media_time(self.clock, now);
        let mut datagrams = self.microphone.packetize(&[7; SOUND_BYTES], false, captured)?;
        if self.ticks.is_multiple_of(PICTURE_EVERY) || self.key_frame_due {
            let key = std::mem::take(&mut self.key_frame_due);
            let picture = [7; KEY_BYTES];
            let len = if key { KEY_BYTES } else { PICTURE_BYTES };
            datagrams.extend(self.camera.packetize(&picture[..len], key, captured)?);
        }
        self.ticks += 1;
        for datagram in datagrams {
            let media = Media::parse(datagram.freeze())?;
            self.sender.push(now, media.header, media.body);
        }
        Ok(())
    }

    /// Carries everything where it belongs; whether the connection is there.
    async fn pass_on(
        &mut self,
        control: &mut Stream,
        arrived: &mut impl FnMut(Arrived),
    ) -> anyhow::Result<bool> {
        let now = Instant::now();
        let at = media_time(self.clock, now);
        while let Some(media) = self.receiver.poll_media() {
            let header = &media.header;
            if header.kind == MediaKind::Audio {
                let delay = at.as_micros().saturating_sub(header.captured.as_micros());
                let (track, frame) = (header.track, header.frame);
                arrived(Arrived::Sound { track, frame, delay: Duration::from_micros(delay) });
                continue;
            }
            let new = || Camera { pictures: Reassembler::default(), heard: now };
            let camera = self.others.entry(header.track).or_insert_with(new);
            camera.heard = now;
            camera.pictures.handle_media(now, at, &media);
        }
        for (track, camera) in &mut self.others {
            if camera.pictures.poll_timeout().is_some_and(|due| due <= now) {
                camera.pictures.handle_timeout(now, at);
            }
            while let Some(output) = camera.pictures.poll_output() {
                match output {
                    Output::Frame(frame) => arrived(Arrived::Picture { key: frame.key }),
                    Output::RefreshNeeded(decoded) => {
                        let decoded = decoded.map(|frame| frame.0);
                        let request = pb::KeyFrameRequest { track: track.0.into(), decoded };
                        let request = pb::client_control::Body::KeyFrameRequest(request);
                        if control.send(&control_up(request)).await.is_err() {
                            return Ok(false);
                        }
                    }
                }
            }
        }
        self.sender.handle_timeout(now);
        if let Some(report) = self.receiver.poll_report(now)
            && self.connection.send_datagram(report).is_err()
        {
            return Ok(false);
        }
        while let Some(datagram) = self.sender.poll_datagram(Instant::now()) {
            if self.connection.send_datagram(datagram).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn media_time(clock: Instant, now: Instant) -> MediaTime {
    MediaTime::from_micros(u64::try_from((now - clock).as_micros()).unwrap_or(u64::MAX))
}

/// Says goodbye and closes.
pub(super) async fn say_goodbye(control: &mut Stream, connection: &Connection) -> anyhow::Result<()> {
    control.send(&control_up(pb::client_control::Body::Goodbye(pb::Goodbye {}))).await?;
    // The relay closes when it has read that, so nothing said before is lost.
    let closed = tokio::time::timeout(FAREWELL, connection.closed()).await;
    closed.map(drop).context("a goodbye was not answered")
}

/// What an [`Attendee`] sends, in the order in which it is asked for.
pub(super) const TRACKS: [pb::TrackKind; 2] = [pb::TrackKind::Camera, pb::TrackKind::Microphone];

/// Two packets of sound in one, as with little bandwidth.
const SOUND_EVERY: Duration = Duration::from_millis(20);
const SOUND_BYTES: usize = 80;

/// 17 pictures a second of two fragments, of which the relay has as much to decide about as of large ones.
const PICTURE_EVERY: u64 = 3;
const PICTURE_BYTES: usize = 1500;
const KEY_BYTES: usize = 4000;

/// Enough from the start: how a rate is found is not measured with these.
const RATE: Bitrate = Bitrate::from_kbps(2000);

/// Several pictures.
const GONE_AFTER: Duration = Duration::from_secs(1);

const FAREWELL: Duration = Duration::from_secs(5);
