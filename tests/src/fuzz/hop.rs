//! Both ends of a hop, with a network that loses and delays, and an end that lies.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use vchat_proto::hop::{Receiver, Sender, Settings};
use vchat_proto::id::{FrameId, TrackId};
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::datagram::{Dependency, MediaHeader, MediaKind};
use vchat_proto::wire::hop::{Fate, Packet, Parity, Report};
use vchat_proto::wire::limits::MAX_DATAGRAM;

#[derive(Arbitrary, Debug)]
enum Step {
    /// A frame of so many fragments that depends on one so many back; 0 is a key frame.
    Picture {
        fragments: u8,
        back: u8,
        size: u16,
    },
    /// Sound of so many bytes.
    Sound {
        size: u8,
    },
    Pass {
        ms: u8,
    },
    /// The next datagrams of the network are lost, or all of them come.
    Lose(u8),
    Arrive(u8),
    /// The receiver's report reaches the sender, or is lost.
    Report {
        arrives: bool,
    },
    /// What no honest end would send.
    FalseReport {
        highest: u16,
        held: u32,
        arrived: u32,
        fates: Vec<(u8, i32)>,
    },
    FalseParity {
        first: u16,
        covered: u16,
        row: u8,
        data: Vec<u8>,
    },
    Bytes(Vec<u8>),
    Forget,
}

/// Nothing overflows, datagrams fit, and every timer that is due passes.
pub fn hop(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut now = Instant::now();
    let rate = Bitrate::from_kbps(600);
    let mut sender = Sender::new(now, Settings { start: rate, video_max: rate });
    let mut receiver = Receiver::new(now);
    let mut network: VecDeque<Bytes> = VecDeque::new();
    let (mut frame, mut sound) = (u32::MAX - 2, 0_u32);
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        match step {
            Step::Picture { fragments, back, size } => {
                let count = u16::from(fragments % 40) + 1;
                let dependency = if back == 0 { Dependency::None } else { Dependency::Back(back.into()) };
                for index in 0..count {
                    let header = header(MediaKind::Video, frame, index, count, dependency);
                    push(&mut sender, now, header, usize::from(size) % MediaHeader::MAX_PAYLOAD + 1);
                }
                frame = frame.wrapping_add(1);
            }
            Step::Sound { size } => {
                let header = header(MediaKind::Audio, sound, 0, 1, Dependency::None);
                push(&mut sender, now, header, usize::from(size) + 1);
                sound = sound.wrapping_add(1);
            }
            Step::Pass { ms } => now += Duration::from_millis(ms.into()),
            Step::Lose(n) => drop(network.drain(..network.len().min(n.into()))),
            Step::Arrive(n) => {
                for datagram in network.drain(..network.len().min(n.into())) {
                    deliver(&mut receiver, now, datagram);
                }
            }
            Step::Report { arrives } => {
                if let Some(report) = receiver.poll_report(now).filter(|_| arrives) {
                    let Ok((_, Packet::Report(report))) = Packet::parse(report) else { panic!("no report") };
                    sender.handle_report(now, &report);
                }
            }
            Step::FalseReport { highest, held, arrived, fates } => {
                let fate = |(kind, earlier): &(u8, i32)| match kind % 3 {
                    0 => Fate::Missing,
                    1 => Fate::Restored,
                    _ => Fate::Arrived(*earlier),
                };
                let fates = std::iter::once(Fate::Arrived(0)).chain(fates.iter().map(fate)).collect();
                let report = Report { highest, held_us: held, arrived, fates };
                if let Ok((_, Packet::Report(report))) = Packet::parse(report.encode()) {
                    sender.handle_report(now, &report);
                }
            }
            Step::FalseParity { first, covered, row, data } => {
                deliver(&mut receiver, now, Parity { first, covered, row, data: data.into() }.encode(first));
            }
            Step::Bytes(bytes) => deliver(&mut receiver, now, bytes.into()),
            Step::Forget => sender.forget(TrackId(1)),
        }
        sender.handle_timeout(now);
        for sent in 0.. {
            assert!(sent < 100_000, "it never stops sending");
            let Some(datagram) = sender.poll_datagram(now) else { break };
            assert!(datagram.len() <= MAX_DATAGRAM, "{} bytes", datagram.len());
            assert!(Packet::parse(datagram.clone()).is_ok(), "it cannot be read");
            network.push_back(datagram);
        }
        while sender.poll_refresh().is_some() {}
        assert!(sender.video_target() <= rate);
        // What waits for its pace is not due yet.
        assert!(
            sender.poll_timeout().is_none_or(|t| t + Duration::from_millis(1) > now),
            "a timer does not pass"
        );
    }
}

fn deliver(receiver: &mut Receiver, now: Instant, datagram: Bytes) {
    let len = datagram.len();
    if let Ok((number, packet)) = Packet::parse(datagram) {
        receiver.handle_packet(now, number, len, packet);
    }
    while receiver.poll_media().is_some() {}
}

fn push(sender: &mut Sender, now: Instant, header: MediaHeader, size: usize) {
    let size = if header.kind == MediaKind::Audio { size.min(400) } else { size };
    let body = header.datagram(&vec![7; size]).freeze().slice(2..);
    sender.push(now, header, body);
}

const fn header(kind: MediaKind, frame: u32, index: u16, count: u16, dependency: Dependency) -> MediaHeader {
    let track = TrackId(if matches!(kind, MediaKind::Video) { 1 } else { 2 });
    let discardable = matches!(kind, MediaKind::Video) && frame % 2 == 1;
    MediaHeader {
        kind,
        track,
        frame: FrameId(frame),
        index,
        count,
        dependency,
        discardable,
        temporal: discardable as u8,
        spatial: 0,
        captured: MediaTime::from_micros(0),
    }
}
