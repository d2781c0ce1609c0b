//! The estimator on reports made by hand; whole networks are in `tests/tests/estimators.rs`.

use super::silence::ABSENCE;
use super::*;

const MS: Duration = Duration::from_millis(1);
const RTT: Duration = Duration::from_millis(40);

/// A sender of one datagram of 1000 bytes every 10 ms (800 kb/s), whose receiver reports each at once.
struct Hop {
    estimator: Estimator,
    now: Instant,
    next: u64,
}

impl Hop {
    fn new(max_kbps: u64) -> Self {
        let now = Instant::now();
        let kbps = Bitrate::from_kbps;
        let settings = Settings { start: kbps(800), min: kbps(60), max: kbps(max_kbps) };
        Self { estimator: Estimator::new(now, settings), now, next: 1 }
    }

    /// Sends for `time`; each datagram is on the way as long as `way` says, or lost.
    fn send(&mut self, time: Duration, way: impl Fn(u64) -> Option<Duration>) {
        let end = self.now + time;
        while self.now < end {
            let number = self.next;
            self.next += 1;
            self.estimator.handle_sent(self.now, number, 1000);
            let sent_us = number as i64 * 10_000;
            let arrived_us = way(number).map(|way| sent_us + way.as_micros() as i64);
            let report = [Arrival { number, arrived_us }];
            self.estimator.handle_feedback(self.now, RTT, &report);
            // Reports repeat themselves.
            self.estimator.handle_feedback(self.now, RTT, &report);
            self.now += 10 * MS;
        }
    }

    fn kbps(&self) -> u64 {
        self.estimator.target().kbps()
    }
}

#[test]
fn the_target_grows_without_a_queue_and_falls_with_one() {
    let mut hop = Hop::new(2000);
    hop.send(1000 * MS, |_| Some(20 * MS));
    assert!((900..1100).contains(&hop.kbps()), "{}", hop.kbps());
    // Nothing more than 1.5 times what is sent, as long as nothing shows that it passes.
    hop.send(9000 * MS, |_| Some(20 * MS));
    assert!((1150..=1210).contains(&hop.kbps()), "{}", hop.kbps());
    assert_eq!(hop.estimator.queue_delay(), Duration::ZERO);
    hop.send(150 * MS, |_| Some(100 * MS));
    assert_eq!(hop.estimator.queue_delay(), 80 * MS);
    // 800 kb/s arrived; a share is left, and some of it is to drain 80 ms.
    assert!((350..600).contains(&hop.kbps()), "{}", hop.kbps());
}

#[test]
fn half_of_the_datagrams_lost_is_no_queue() {
    let mut hop = Hop::new(1000);
    hop.send(3000 * MS, |_| Some(20 * MS));
    hop.send(5000 * MS, |number| (number % 4 < 2).then_some(20 * MS));
    let loss = hop.estimator.loss();
    assert!((loss.rate - 0.5).abs() < 0.03 && (loss.burst - 2.0).abs() < 0.1, "{loss:?}");
    assert_eq!(hop.kbps(), 1000);
}

#[test]
fn the_application_bounds_the_target() {
    let mut hop = Hop::new(1000);
    hop.estimator.set_max(Bitrate::from_kbps(500));
    assert_eq!(hop.kbps(), 500);
    hop.estimator.set_max(Bitrate::from_kbps(10));
    assert_eq!(hop.kbps(), 60);
    hop.estimator.set_max(Bitrate::from_kbps(2000));
    hop.send(1000 * MS, |_| Some(20 * MS));
    assert!((61..2000).contains(&hop.kbps()), "{}", hop.kbps());
}

#[test]
fn silence_begins_when_nothing_answers_and_long_silence_starts_anew() {
    let mut hop = Hop::new(2000);
    assert_eq!(hop.estimator.poll_timeout(), None);
    hop.send(3000 * MS, |_| Some(20 * MS));
    // A pause of the sender is no silence.
    assert!(!hop.estimator.is_silent(hop.now + Duration::from_secs(60)));
    assert_eq!(hop.estimator.poll_timeout(), None);
    let grown = hop.kbps();
    assert!(grown > 1000);
    hop.estimator.handle_sent(hop.now, hop.next, 1000);
    hop.next += 1;
    let at = hop.estimator.poll_timeout().expect("silence is awaited");
    assert!(at <= hop.now + 100 * MS && !hop.estimator.is_silent(at - MS) && hop.estimator.is_silent(at));
    hop.estimator.handle_timeout(at);
    assert_eq!((hop.kbps(), hop.estimator.poll_probe(at)), (grown, None));
    let later = hop.estimator.poll_timeout().expect("absence is awaited");
    assert_eq!(later, hop.now + ABSENCE);
    hop.estimator.handle_timeout(later);
    assert_eq!((hop.kbps(), hop.estimator.poll_timeout()), (800, None));
    hop.now = later;
    hop.send(10 * MS, |_| Some(20 * MS));
    assert!(!hop.estimator.is_silent(later));
}

#[test]
fn a_sender_whose_datagrams_are_alone_is_asked_for_padding() {
    let mut hop = Hop::new(2000);
    assert_eq!(hop.estimator.poll_probe(hop.now), None, "nobody has answered yet");
    hop.send(500 * MS, |_| Some(20 * MS));
    let probe = hop.estimator.poll_probe(hop.now).expect("nothing tells what passes");
    assert!((MIN_PROBE..20_000).contains(&probe.bytes), "{probe:?}");
    assert_eq!(hop.estimator.poll_probe(hop.now), None);
    hop.send(1000 * MS, |_| Some(20 * MS));
    assert!(hop.estimator.poll_probe(hop.now).is_some());
    // The next one is later.
    hop.send(1000 * MS, |_| Some(20 * MS));
    assert_eq!(hop.estimator.poll_probe(hop.now), None);
    // Nothing to learn when all is used that can be.
    hop.estimator.set_max(Bitrate::from_kbps(800));
    hop.send(5000 * MS, |_| Some(20 * MS));
    assert_eq!(hop.estimator.poll_probe(hop.now), None);
}

#[test]
fn numbers_that_start_again_are_a_new_count() {
    let mut hop = Hop::new(1000);
    hop.next = 5000;
    hop.send(2000 * MS, |_| Some(20 * MS));
    hop.next = 1;
    hop.send(3000 * MS, |number| (number % 2 == 0).then_some(20 * MS));
    assert!((hop.estimator.loss().rate - 0.5).abs() < 0.05, "{:?}", hop.estimator.loss());
}
