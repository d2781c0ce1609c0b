//! Calls in virtual time over seeded networks.

use proptest::prelude::*;

use super::*;

/// A sender, a network and a listener who pulls 2.5 ms at a time and stretches as told, in 5 ms steps.
pub(super) struct Call {
    pub(super) buffer: JitterBuffer,
    rng: u64,
    /// Arrival, id, capture, reach.
    pub(super) wire: VecDeque<(u64, u32, u64, u32)>,
    sent: u32,
    pub(super) now: u64,
    pub(super) next_send: f64,
    /// Microseconds of decoded sound not yet played.
    ready: i64,
    /// Microseconds between packets on the listener's clock: 10 000, more when the sender's clock is slow.
    period: f64,
    jitter: u64,
    loss_per_mille: u64,
    pub(super) stretched: u32,
    /// When packets were played, and when they had been captured.
    pub(super) heard: Vec<(u64, u64)>,
}

/// The listener's clock when the call starts: far from the sender's, which starts at 0.
pub(super) const START: u64 = 7_000_000_000;

impl Call {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            buffer: JitterBuffer::new(),
            rng: seed,
            wire: VecDeque::new(),
            sent: 0,
            now: 0,
            next_send: 0.0,
            ready: 0,
            period: 10_000.0,
            jitter: 0,
            loss_per_mille: 0,
            stretched: 0,
            heard: Vec::new(),
        }
    }

    /// splitmix64.
    pub(super) fn random(&mut self, below: u64) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.rng ^ (self.rng >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    /// Sends (if `talking`) and listens for a time; returns the statistics of that time alone.
    pub(super) fn run(&mut self, seconds: u64, talking: bool) -> Stats {
        let before = self.buffer.stats();
        let end = self.now + seconds * 1_000_000;
        while self.now < end {
            self.now += 2_500;
            while self.next_send <= self.now as f64 {
                self.send(talking);
            }
            self.deliver();
            self.listen();
        }
        let after = self.buffer.stats();
        Stats {
            played: after.played - before.played,
            concealed: after.concealed - before.concealed,
            repaired: after.repaired - before.repaired,
            late: after.late - before.late,
            dropped: after.dropped - before.dropped,
            ..after
        }
    }

    fn send(&mut self, talking: bool) {
        let at = self.next_send as u64;
        self.next_send += self.period;
        if !talking {
            return;
        }
        let delay = 20_000 + self.random(self.jitter + 1);
        // The sender's clock counts 10 ms a packet, however long that takes here.
        let captured = (self.next_send / self.period).round() as u64 * 10_000;
        if self.random(1000) >= self.loss_per_mille {
            self.wire.push_back((at + delay, self.sent, captured, 1));
            self.wire.make_contiguous().sort_unstable();
        }
        self.sent = self.sent.wrapping_add(1);
    }

    fn deliver(&mut self) {
        while let Some((at, id, captured, reach)) = self.wire.pop_front_if(|&mut (at, ..)| at <= self.now) {
            let packet = Packet { reach, ..packet(id, captured) };
            self.buffer.handle_packet(MediaTime::from_micros(START + at), packet);
        }
    }

    fn listen(&mut self) {
        while self.ready < 2_500 {
            match self.buffer.tick(MediaTime::from_micros(START + self.now)) {
                Tick::Play { packet, stretch } => {
                    self.heard.push((self.now, packet.captured.as_micros()));
                    let by = match stretch {
                        Stretch::Keep => 0,
                        Stretch::Shorten { .. } => -5_000,
                        Stretch::Lengthen { .. } => 5_000,
                    };
                    self.stretched += u32::from(by != 0);
                    self.buffer.handle_stretched(by);
                    self.ready += FRAME_US + by;
                }
                Tick::Conceal { .. } => self.ready += FRAME_US,
                Tick::Silence => self.ready += 2_500,
            }
        }
        self.ready -= 2_500;
    }
}

fn packet(id: u32, captured: u64) -> Packet {
    Packet {
        id: FrameId(id),
        captured: MediaTime::from_micros(captured),
        reach: 1,
        pauses: false,
        payload: Bytes::from_static(b"sound"),
    }
}

#[test]
fn without_jitter_sound_waits_less_than_a_frame_and_nothing_is_concealed() {
    let mut call = Call::new(1);
    call.run(2, true);
    let stats = call.run(20, true);
    assert_eq!((stats.concealed, stats.repaired, stats.dropped), (0, 0, 0), "{stats:?}");
    assert!(stats.delay <= Duration::from_millis(10), "{stats:?}");
    assert!(stats.played >= 1990, "{stats:?}");
}

#[test]
fn jitter_of_30_ms_costs_under_one_percent_once_known() {
    for seed in 0..5 {
        let mut call = Call::new(seed);
        call.jitter = 30_000;
        call.run(3, true);
        let stats = call.run(60, true);
        assert!(stats.concealed + stats.repaired < 60, "{stats:?}");
        assert!(stats.target <= Duration::from_millis(35), "{stats:?}");
        assert!(stats.delay <= Duration::from_millis(45), "{stats:?}");
    }
}

#[test]
fn the_delay_comes_down_within_seconds_after_the_jitter_ends() {
    let mut call = Call::new(3);
    call.jitter = 80_000;
    assert!(call.run(10, true).target > Duration::from_millis(60));
    call.jitter = 0;
    let stats = call.run(12, true);
    assert!(stats.delay <= Duration::from_millis(12), "{stats:?}");
    assert!(stats.concealed <= 1, "{stats:?}");
}

#[test]
fn drifting_clocks_are_followed_without_concealment() {
    for ppm in [-200.0, 200.0] {
        let mut call = Call::new(4);
        call.jitter = 3_000;
        call.period = 10_000.0 * (1.0 + ppm / 1e6);
        call.run(5, true);
        let stats = call.run(600, true);
        assert_eq!((stats.concealed, stats.repaired, stats.dropped), (0, 0, 0), "{ppm} ppm: {stats:?}");
        assert!(stats.delay <= Duration::from_millis(15), "{ppm} ppm: {stats:?}");
        // 200 ppm of 600 s are 120 ms: one stretch of 5 ms each 25 s, not a flutter of hundreds.
        assert!((16..=60).contains(&call.stretched), "{} stretches", call.stretched);
    }
}

#[test]
fn single_losses_are_repaired_from_the_next_packet() {
    let mut call = Call::new(5);
    call.loss_per_mille = 50;
    call.run(10, true);
    let stats = call.run(60, true);
    let lost = stats.concealed + stats.repaired;
    assert!((200..400).contains(&lost), "{stats:?}");
    assert!(stats.repaired * 10 > lost * 8, "{stats:?}");
    assert!(stats.delay <= Duration::from_millis(25), "{stats:?}");
}

#[test]
fn a_pause_is_silence_and_the_next_sentence_starts_whole() {
    let mut call = Call::new(6);
    call.run(5, true);
    let silent = call.run(30, false);
    // The pause was not announced: the start of it looks like loss.
    assert!(silent.concealed <= 10, "{silent:?}");
    let stats = call.run(5, true);
    assert_eq!((stats.concealed, stats.dropped), (0, 0), "{stats:?}");
    assert!(stats.played >= 495, "{stats:?}");
}

#[test]
fn an_announced_pause_conceals_nothing() {
    let mut buffer = JitterBuffer::new();
    let at = |ms: u64| MediaTime::from_micros(START + ms * 1000);
    let mut last = packet(1, 10_000);
    last.pauses = true;
    buffer.handle_packet(at(0), packet(0, 0));
    buffer.handle_packet(at(10), last);
    assert!(matches!(buffer.tick(at(20)), Tick::Play { .. }));
    assert!(matches!(buffer.tick(at(30)), Tick::Play { .. }));
    assert_eq!(buffer.tick(at(40)), Tick::Silence);
    assert_eq!(buffer.stats().concealed, 0);
    // The same ids go on after the pause, a second later.
    buffer.handle_packet(at(1010), packet(2, 1_010_000));
    assert_eq!(buffer.tick(at(1010)), Tick::Silence, "it has not waited yet");
    assert!(matches!(buffer.tick(at(1026)), Tick::Play { .. }));
}

#[test]
fn order_is_restored_duplicates_are_dropped_and_ids_wrap() {
    let mut buffer = JitterBuffer::new();
    let at = |ms: u64| MediaTime::from_micros(START + ms * 1000);
    for (ms, n) in [(0, 0), (11, 1), (12, 1), (21, 3), (22, 2), (23, 3)] {
        buffer.handle_packet(at(ms), packet((u32::MAX - 1).wrapping_add(n), u64::from(n) * 10_000));
    }
    let mut played = Vec::new();
    for ms in [30, 40, 50, 60] {
        if let Tick::Play { packet, .. } = buffer.tick(at(ms)) {
            played.push(packet.id.0);
        }
    }
    // The first two are older than the target by then; a start skips what it can.
    assert_eq!(played, [0, 1][..], "{:?}", buffer.stats());
    assert_eq!(buffer.stats().dropped, 2);
}

#[test]
fn copies_of_what_was_played_are_neither_late_nor_slow() {
    let mut buffer = JitterBuffer::new();
    let at = |ms: u64| MediaTime::from_micros(START + ms * 1000);
    for n in 0..500_u64 {
        // Each packet comes again 10, 20 and 400 ms after its first arrival.
        for age in [0, 1, 2, 40] {
            let Some(id) = n.checked_sub(age) else { continue };
            buffer.handle_packet(at(n * 10), packet(id as u32, id * 10_000));
        }
        buffer.tick(at(n * 10 + 5));
    }
    let stats = buffer.stats();
    assert_eq!((stats.late, stats.concealed, stats.repaired), (0, 0, 0), "{stats:?}");
    assert!(stats.target <= Duration::from_millis(5), "{stats:?}");
}

#[test]
fn a_hole_is_filled_from_the_nearest_packet_that_reaches_so_far() {
    let mut buffer = JitterBuffer::new();
    let at = |ms: u64| MediaTime::from_micros(START + ms * 1000);
    let from = |name| Bytes::from_static(name);
    buffer.handle_packet(at(0), packet(0, 0));
    assert!(matches!(buffer.tick(at(20)), Tick::Play { .. }));
    // 1, 2 and 3 are lost; 4 tells of the one before it, 5 of all.
    buffer.handle_packet(at(20), Packet { payload: from(b"4"), ..packet(4, 40_000) });
    buffer.handle_packet(at(20), Packet { payload: from(b"5"), reach: 9, ..packet(5, 50_000) });
    for (ms, id, payload, back) in [(30, 1, b"5", 4), (40, 2, b"5", 3), (50, 3, b"4", 1)] {
        let captured = MediaTime::from_micros(id * 10_000);
        let repair = Some(Repair { payload: from(payload), back, captured });
        assert_eq!(buffer.tick(at(ms)), Tick::Conceal { repair });
    }
    assert!(matches!(buffer.tick(at(60)), Tick::Play { .. }));
    assert_eq!((buffer.stats().repaired, buffer.stats().concealed), (3, 0));
}

#[test]
fn after_an_outage_what_is_restored_is_heard_while_the_first_packet_waits() {
    let mut call = Call::new(10);
    call.jitter = 40_000;
    call.run(5, true);
    // A second of packets is lost. The fastest way takes 10 ms from capture.
    call.run(1, false);
    let mut buffer = call.buffer;
    let at = |us: u64| MediaTime::from_micros(START + call.now + us);
    let captured = call.now - 10_000;
    buffer.handle_packet(at(0), Packet { reach: 40, ..packet(call.sent + 100, captured) });
    let first = (0..4).find_map(|n| match buffer.tick(at(n * 2_500)) {
        Tick::Conceal { repair: Some(repair) } => Some((n * 2_500, repair)),
        _ => None,
    });
    let (after, repair) = first.expect("sound at once");
    assert!((3..=5).contains(&repair.back), "{repair:?}");
    assert_eq!(repair.captured.as_micros(), captured - u64::from(repair.back) * 10_000);
    for n in 1..repair.back {
        let back = repair.back - n;
        let next = buffer.tick(at(after + u64::from(n) * 10_000));
        assert!(matches!(next, Tick::Conceal { repair: Some(r) } if r.back == back));
    }
    assert!(matches!(buffer.tick(at(after + u64::from(repair.back) * 10_000)), Tick::Play { .. }));
    let stats = buffer.stats();
    assert!((90..=100).contains(&stats.concealed), "all of the second but what was restored: {stats:?}");
}

#[test]
fn a_sender_that_starts_anew_is_heard_at_once() {
    let mut call = Call::new(8);
    call.run(5, true);
    call.sent = 3_000_000_000;
    let stats = call.run(2, true);
    assert!(stats.played >= 190, "{stats:?}");
    assert!(stats.concealed <= 10, "{stats:?}");
}

#[test]
fn a_new_route_does_not_add_to_the_delay_twice() {
    let mut call = Call::new(9);
    call.run(10, true);
    let before = call.buffer.stats().delay;
    // From now on each packet takes 50 ms longer: capture times lag by that much on the listener's clock.
    call.next_send += 50_000.0;
    call.run(12, true);
    let after = call.buffer.stats().delay;
    assert!(after <= before + Duration::from_millis(12), "{before:?} then {after:?}");
}

#[test]
fn an_unread_buffer_stays_bounded_and_plays_the_newest() {
    let mut buffer = JitterBuffer::new();
    for n in 0..1000 {
        buffer.handle_packet(MediaTime::from_micros(START + n * 10_000), packet(n as u32, n * 10_000));
    }
    assert_eq!(buffer.packets.len(), MAX_PACKETS);
    let Tick::Play { packet, .. } = buffer.tick(MediaTime::from_micros(START + 10_000_000)) else {
        panic!("nothing to play")
    };
    assert!(packet.id.0 >= 997, "{packet:?}");
}

proptest! {
    #[test]
    fn no_sequence_of_calls_panics_or_grows(
        ops in prop::collection::vec((any::<u32>(), any::<u64>(), any::<u8>()), 1..400),
    ) {
        let mut buffer = JitterBuffer::new();
        let (mut now, mut id) = (MediaTime::default(), 0_u32);
        for (a, b, kind) in ops {
            match kind % 8 {
                0 => now = now.offset((b % 100_000_000) as i64),
                1 => drop(buffer.tick(now)),
                2 => buffer.handle_stretched(b as i64),
                3 => {
                    id = a;
                    buffer.handle_packet(now, packet(id, b));
                }
                4 => buffer.handle_packet(now, Packet { pauses: true, ..packet(id, b % 1_000_000) }),
                _ => {
                    now = now.offset(10_000);
                    id = id.wrapping_add(a % 3);
                    let reach = if kind < 128 { 1 } else { a % 300 };
                    buffer.handle_packet(now, Packet { reach, ..packet(id, now.as_micros()) });
                    drop(buffer.tick(now));
                }
            }
            prop_assert!(buffer.packets.len() <= MAX_PACKETS);
            prop_assert!(buffer.waits.len() <= WAITS);
            prop_assert!(buffer.stats().delay < Duration::from_secs(10 * 365 * 86_400));
            let _ = buffer.has_next();
        }
    }
}
