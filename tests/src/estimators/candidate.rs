//! The estimators that are compared, behind one door.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use goog_cc::network_control::{NetworkControllerConfig, NetworkControllerInterface};
use goog_cc::transport::{
    NetworkAvailability, NetworkControlUpdate, PacedPacketInfo, PacketResult, ProbeClusterConfig,
    ProcessInterval, RoundTripTimeUpdate, SentPacket, StreamsConfig, TargetRateConstraints,
    TransportPacketsFeedback,
};
use goog_cc::units::{DataRate, DataSize, TimeDelta, Timestamp};
use goog_cc::{GoogCcConfig, GoogCcNetworkController};
use vchat_proto::cc::{Arrival, Estimator, Settings};
use vchat_proto::units::Bitrate;

/// Padding that an estimator wants on the wire now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Padding {
    pub(super) bytes: usize,
    /// The pace at which it should leave; the ordinary one if `None`.
    pub(super) pace: Option<f64>,
}

/// An estimator under test. Times count from the start; rates are bits per second.
pub(super) trait Candidate {
    fn handle_sent(&mut self, now: Duration, number: u64, bytes: usize);
    fn handle_feedback(&mut self, now: Duration, rtt: Duration, report: &[Arrival]);
    fn handle_timeout(&mut self, now: Duration);
    fn target(&self) -> f64;
    fn pacing_rate(&self) -> f64;
    fn poll_padding(&mut self, now: Duration) -> Option<Padding>;
    fn is_silent(&self, now: Duration) -> bool;
}

/// The estimator of `vchat_proto`.
pub(super) struct Own {
    epoch: Instant,
    estimator: Estimator,
}

impl Own {
    pub(super) fn new(start: Bitrate, max: Bitrate) -> Self {
        let epoch = Instant::now();
        Self { epoch, estimator: Estimator::new(epoch, Settings { start, min: MIN_RATE, max }) }
    }
}

impl Candidate for Own {
    fn handle_sent(&mut self, now: Duration, number: u64, bytes: usize) {
        self.estimator.handle_sent(self.epoch + now, number, bytes);
    }

    fn handle_feedback(&mut self, now: Duration, rtt: Duration, report: &[Arrival]) {
        self.estimator.handle_feedback(self.epoch + now, rtt, report);
    }

    fn handle_timeout(&mut self, now: Duration) {
        if self.estimator.poll_timeout().is_some_and(|at| at <= self.epoch + now) {
            self.estimator.handle_timeout(self.epoch + now);
        }
    }

    fn target(&self) -> f64 {
        self.estimator.target().bps() as f64
    }

    fn pacing_rate(&self) -> f64 {
        self.estimator.pacing_rate().bps() as f64
    }

    fn poll_padding(&mut self, now: Duration) -> Option<Padding> {
        let probe = self.estimator.poll_probe(self.epoch + now)?;
        Some(Padding { bytes: probe.bytes, pace: None })
    }

    fn is_silent(&self, now: Duration) -> bool {
        self.estimator.is_silent(self.epoch + now)
    }
}

/// Google's congestion control as the crate `goog_cc` ports it from WebRTC, with WebRTC's settings.
pub(super) struct Goog {
    controller: GoogCcNetworkController,
    sent: BTreeMap<u64, SentPacket>,
    in_flight: i64,
    newest: u64,
    /// The highest number that reports have decided about: WebRTC's reports don't repeat themselves.
    decided: Option<u64>,
    probes: VecDeque<ProbeClusterConfig>,
    /// The probe of the moment, and the bytes and datagrams it still needs.
    probing: Option<(PacedPacketInfo, i64, i32)>,
    target: f64,
    pace: f64,
    processed: Duration,
}

impl Goog {
    pub(super) fn new(start: Bitrate, max: Bitrate) -> Self {
        let rate = |rate: Bitrate| Some(DataRate::from_bits_per_sec(rate.bps().cast_signed()));
        let constraints = TargetRateConstraints {
            at_time: time(Duration::ZERO),
            min_data_rate: rate(MIN_RATE),
            max_data_rate: rate(max),
            starting_rate: rate(start),
        };
        let stream_based_config = StreamsConfig {
            at_time: time(Duration::ZERO),
            requests_alr_probing: Some(true),
            max_total_allocated_bitrate: rate(max),
            ..StreamsConfig::default()
        };
        let config = NetworkControllerConfig {
            constraints,
            stream_based_config,
            ..NetworkControllerConfig::default()
        };
        let mut goog = Self {
            controller: GoogCcNetworkController::new(config, GoogCcConfig { feedback_only: true }),
            sent: BTreeMap::new(),
            in_flight: 0,
            newest: 0,
            decided: None,
            probes: VecDeque::new(),
            probing: None,
            target: start.bps() as f64,
            pace: start.bps() as f64 * 2.5,
            processed: Duration::ZERO,
        };
        let available = NetworkAvailability { at_time: time(Duration::ZERO), network_available: true };
        let update = goog.controller.on_network_availability(available);
        goog.take(update);
        goog
    }

    fn take(&mut self, update: NetworkControlUpdate) {
        if let Some(target) = update.target_rate {
            self.target = target.target_rate.bps_float();
        }
        if let Some(pacer) = update.pacer_config {
            self.pace = pacer.data_rate().bps_float();
        }
        self.probes.extend(update.probe_cluster_configs);
    }
}

impl Candidate for Goog {
    fn handle_sent(&mut self, now: Duration, number: u64, bytes: usize) {
        let size = bytes as i64;
        let mut pacing_info = PacedPacketInfo::default();
        if let Some((info, bytes_left, left)) = &mut self.probing {
            pacing_info = *info;
            *bytes_left -= size;
            *left -= 1;
            if *bytes_left <= 0 && *left <= 0 {
                self.probing = None;
            }
        }
        self.in_flight += size;
        self.newest = number;
        let sent = SentPacket {
            send_time: time(now),
            size: DataSize::from_bytes(size),
            prior_unacked_data: DataSize::from_bytes(0),
            pacing_info,
            audio: false,
            sequence_number: number as i64,
            data_in_flight: DataSize::from_bytes(self.in_flight),
        };
        self.sent.insert(number, sent);
        let update = self.controller.on_sent_packet(sent);
        self.take(update);
    }

    fn handle_feedback(&mut self, now: Duration, rtt: Duration, report: &[Arrival]) {
        let fresh = report.iter().filter(|a| self.decided.is_none_or(|decided| a.number > decided));
        let packets: Vec<PacketResult> = fresh
            .filter_map(|a| {
                let sent_packet = self.sent.remove(&a.number)?;
                let receive_time = a.arrived_us.map_or(Timestamp::plus_infinity(), Timestamp::from_micros);
                Some(PacketResult { sent_packet, receive_time, ..PacketResult::default() })
            })
            .collect();
        self.decided = self.decided.max(report.iter().map(|a| a.number).max());
        let oldest = self.decided.unwrap_or(0);
        self.sent = self.sent.split_off(&oldest);
        self.in_flight = self.sent.values().map(|sent| sent.size.bytes()).sum();
        if packets.is_empty() {
            return;
        }
        let update = self.controller.on_round_trip_time_update(RoundTripTimeUpdate {
            receive_time: time(now),
            round_trip_time: TimeDelta::from_micros(rtt.as_micros() as i64),
            smoothed: false,
        });
        self.take(update);
        let update = self.controller.on_transport_packets_feedback(TransportPacketsFeedback {
            feedback_time: time(now),
            data_in_flight: DataSize::from_bytes(self.in_flight),
            packet_feedbacks: packets,
            sendless_arrival_times: Vec::new(),
        });
        self.take(update);
    }

    fn handle_timeout(&mut self, now: Duration) {
        if now < self.processed + PROCESS_INTERVAL {
            return;
        }
        self.processed = now;
        let update =
            self.controller.on_process_interval(ProcessInterval { at_time: time(now), pacer_queue: None });
        self.take(update);
    }

    fn target(&self) -> f64 {
        self.target
    }

    fn pacing_rate(&self) -> f64 {
        self.pace
    }

    fn poll_padding(&mut self, _: Duration) -> Option<Padding> {
        if self.probing.is_some() {
            return None;
        }
        let probe = self.probes.pop_front()?;
        let pace = probe.target_data_rate.bps_float();
        let bytes = (pace * probe.target_duration.seconds_float() / 8.0) as i64;
        let mut info = PacedPacketInfo::new(probe.id, i64::from(probe.target_probe_count), bytes);
        info.send_bitrate = probe.target_data_rate;
        self.probing = Some((info, bytes, probe.target_probe_count));
        // A probe needs so many datagrams, however few bytes make up its time.
        let least = 400 * i64::from(probe.target_probe_count);
        Some(Padding { bytes: usize::try_from(bytes.max(least)).unwrap_or(0), pace: Some(pace) })
    }

    fn is_silent(&self, _: Duration) -> bool {
        false
    }
}

/// The crate wants a time before which there is something.
fn time(now: Duration) -> Timestamp {
    Timestamp::from_micros(1_000_000 + now.as_micros() as i64)
}

/// What sound alone needs.
const MIN_RATE: Bitrate = Bitrate::from_kbps(60);

/// As WebRTC calls it.
const PROCESS_INTERVAL: Duration = Duration::from_millis(25);
