//! The honest ones: a call that goes on, and somebody who wants to come in.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};
use vchat_certs::identity::Identity;
use vchat_proto::hop;
use vchat_proto::packetize::Packetizer;
use vchat_proto::stats::Distribution;
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::datagram::{Media, MediaKind};
use vchat_proto::wire::hop::{Packet, Report};
use vchat_proto::wire::pb;

use crate::bench::guest::{Guest, Stream, control_up};

/// The parts of a measurement: before, during and after the attack.
pub(super) const PHASES: usize = 3;

/// What all members of a call share.
#[derive(Debug)]
pub(super) struct Stage {
    /// Which part it is now; [`PHASES`] and more: not measured.
    phase: AtomicUsize,
    over: AtomicBool,
    started: Instant,
}

impl Stage {
    pub(super) fn new() -> Arc<Self> {
        let (phase, over) = (AtomicUsize::new(PHASES), AtomicBool::new(false));
        Arc::new(Self { phase, over, started: Instant::now() })
    }

    pub(super) fn enter(&self, phase: usize) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Nothing is sent any more.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn phase(&self) -> usize {
        self.phase.load(Ordering::Relaxed)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A member of the call, who sends and counts what arrives of the others.
pub(super) struct Member {
    sending: JoinHandle<anyhow::Result<[u64; PHASES]>>,
    receiving: JoinHandle<[Heard; PHASES]>,
    answering: JoinHandle<()>,
    connection: quinn::Connection,
}

/// What one member received in one part.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) datagrams: u64,
    /// From the sender's call to the receiver's, both in this program.
    pub(super) delays: Distribution,
}

impl Member {
    pub(super) async fn join(
        relay: SocketAddr,
        identity: &Identity,
        stage: &Arc<Stage>,
        place: u32,
    ) -> anyhow::Result<Self> {
        let kinds = [pb::TrackKind::Camera, pb::TrackKind::Microphone];
        let guest = Guest::join(relay, identity, "flooded", &kinds).await.context("cannot join the call")?;
        let connection = guest.line.connection.clone();
        let key_frame = Arc::new(AtomicBool::new(true));
        let (reports_in, reports) = mpsc::channel(REPORTS);
        let source = Source { tracks: guest_tracks(&guest)?, place, key_frame: key_frame.clone() };
        let sending = tokio::spawn(send(source, connection.clone(), stage.clone(), reports));
        let receiving = tokio::spawn(receive(connection.clone(), stage.clone(), reports_in));
        let answering = tokio::spawn(async move {
            let Guest { line: _line, mut control, .. } = guest;
            answer(&mut control, &key_frame).await;
        });
        Ok(Self { sending, receiving, answering, connection })
    }

    /// Waits until it has sent what it has to, then for what is on its way; says what it sent and what it heard.
    pub(super) async fn leave(self) -> anyhow::Result<([u64; PHASES], [Heard; PHASES])> {
        let sent = self.sending.await??;
        tokio::time::sleep(STRAGGLERS).await;
        self.connection.close(0_u32.into(), b"");
        let heard = self.receiving.await?;
        self.answering.abort();
        Ok((sent, heard))
    }
}

fn guest_tracks(guest: &Guest) -> anyhow::Result<[Packetizer; 2]> {
    let [camera, microphone] = guest.tracks[..] else { anyhow::bail!("not the tracks that were asked for") };
    Ok([Packetizer::new(MediaKind::Video, camera), Packetizer::new(MediaKind::Audio, microphone)])
}

/// Camera and microphone of a member.
struct Source {
    tracks: [Packetizer; 2],
    /// Its place among the members.
    place: u32,
    key_frame: Arc<AtomicBool>,
}

async fn send(
    source: Source,
    connection: quinn::Connection,
    stage: Arc<Stage>,
    mut reports: mpsc::Receiver<Report>,
) -> anyhow::Result<[u64; PHASES]> {
    let Source { tracks: [mut camera, mut microphone], place, key_frame } = source;
    let mut hop = hop::Sender::new(Instant::now(), hop::Settings { start: RATE, video_max: RATE });
    let mut sent = [0; PHASES];
    // Cameras are not in step.
    tokio::time::sleep(AUDIO_EVERY * place / 4).await;
    let mut ticks = tokio::time::interval(AUDIO_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut tick = u64::from(place);
    while !stage.over.load(Ordering::Relaxed) {
        let due = hop.poll_timeout().unwrap_or_else(|| Instant::now() + AUDIO_EVERY);
        tokio::select! {
            _ = ticks.tick() => {}
            Some(report) = reports.recv() => {
                hop.handle_report(Instant::now(), &report);
                pump(&mut hop, &connection)?;
                continue;
            }
            () = tokio::time::sleep_until(due.into()) => {
                hop.handle_timeout(Instant::now());
                pump(&mut hop, &connection)?;
                continue;
            }
        }
        tick += 1;
        let phase = stage.phase();
        let captured = MediaTime::from_micros(stage.now_us());
        let mut datagrams = microphone.packetize(&[phase as u8; AUDIO_BYTES], false, captured)?;
        if tick % 10 % 3 == 0 && tick % 10 != 9 {
            let key = key_frame.swap(false, Ordering::Relaxed);
            let picture = vec![phase as u8; if key { KEY_BYTES } else { VIDEO_BYTES }];
            datagrams.extend(camera.packetize(&picture, key, captured)?);
        }
        if let Some(count) = sent.get_mut(phase) {
            *count += datagrams.len() as u64;
        }
        for datagram in datagrams {
            let media = Media::parse(datagram.freeze())?;
            hop.push(Instant::now(), media.header, media.body);
        }
        pump(&mut hop, &connection)?;
    }
    Ok(sent)
}

fn pump(hop: &mut hop::Sender, connection: &quinn::Connection) -> anyhow::Result<()> {
    while let Some(datagram) = hop.poll_datagram(Instant::now()) {
        connection.send_datagram(datagram).context("a member lost its connection")?;
    }
    Ok(())
}

/// Counts until the connection ends. A datagram belongs to the part in which it was sent.
async fn receive(
    connection: quinn::Connection,
    stage: Arc<Stage>,
    reports: mpsc::Sender<Report>,
) -> [Heard; PHASES] {
    let mut heard: [Heard; PHASES] = Default::default();
    let mut hop = hop::Receiver::new(Instant::now());
    // Sound may come more than once.
    let mut known = HashSet::new();
    loop {
        let due = hop.poll_timeout().unwrap_or_else(|| Instant::now() + STRAGGLERS);
        let datagram = tokio::select! {
            datagram = connection.read_datagram() => match datagram {
                Ok(datagram) => Some(datagram),
                Err(_) => return heard,
            },
            () = tokio::time::sleep_until(due.into()) => None,
        };
        let now = Instant::now();
        if let Some(datagram) = datagram {
            let len = datagram.len();
            match Packet::parse(datagram) {
                // What does not fit is older than what comes next.
                Ok((_, Packet::Report(report))) => drop(reports.try_send(report)),
                Ok((number, packet)) => hop.handle_packet(now, number, len, packet),
                Err(_) => {}
            }
        }
        if let Some(report) = hop.poll_report(now) {
            drop(connection.send_datagram(report));
        }
        while let Some(media) = hop.poll_media() {
            let header = &media.header;
            let phase = media.payload().first().copied().map_or(PHASES, usize::from);
            if let Some(heard) = heard.get_mut(phase)
                && known.insert((header.track, header.frame, header.index))
            {
                let delay = stage.now_us().saturating_sub(header.captured.as_micros());
                heard.datagrams += 1;
                heard.delays.record(i64::try_from(delay).unwrap_or(i64::MAX));
            }
        }
    }
}

/// Does what the relay asks for.
async fn answer(control: &mut Stream, key_frame: &AtomicBool) {
    while let Ok(message) = control.receive::<pb::RelayControl>().await {
        if matches!(message.body, Some(pb::relay_control::Body::KeyFrameRequest(_))) {
            key_frame.store(true, Ordering::Relaxed);
        }
    }
}

/// Known devices that came anew in one part.
#[derive(Clone, Debug, Default)]
pub(super) struct Joins {
    /// From nothing to the welcome.
    pub(super) times: Vec<Duration>,
    /// How long those had waited who were not in when the part ended.
    pub(super) waiting: Vec<Duration>,
}

/// Joins and leaves, again and again, until the time is over.
pub(super) async fn come_and_go(
    relay: SocketAddr,
    identity: &Identity,
    time: Duration,
) -> anyhow::Result<Joins> {
    let (mut joins, end) = (Joins::default(), Instant::now() + time);
    while Instant::now() < end {
        let began = Instant::now();
        match timeout(end - began, Guest::join(relay, identity, "next door", &[])).await {
            Ok(Ok(mut guest)) => {
                joins.times.push(began.elapsed());
                let goodbye = pb::client_control::Body::Goodbye(pb::Goodbye {});
                guest.control.send(&control_up(goodbye)).await?;
                guest.line.connection.close(0_u32.into(), b"");
            }
            Ok(Err(_)) | Err(_) => joins.waiting.push(began.elapsed()),
        }
        tokio::time::sleep(BETWEEN_JOINS.min(end.saturating_duration_since(Instant::now()))).await;
    }
    Ok(joins)
}

/// As Opus has it here.
const AUDIO_EVERY: Duration = Duration::from_millis(10);
const AUDIO_BYTES: usize = 80;

/// 1.2 Mb/s at 30 pictures a second: five datagrams each.
const VIDEO_BYTES: usize = 5000;
const KEY_BYTES: usize = 20_000;

/// Enough from the start: what is measured is the flood, not how the rate is found.
const RATE: Bitrate = Bitrate::from_kbps(3_000);
/// Reports that wait to be read.
const REPORTS: usize = 16;

/// What takes longer is lost to a conversation.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// A device may connect five times a second.
const BETWEEN_JOINS: Duration = Duration::from_millis(300);
