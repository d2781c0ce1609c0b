//! One direction of an impaired link.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::random::Random;
use super::settings::Settings;

/// One direction of a link, in virtual time: a queue before a line of limited rate, then a way that takes time and
/// loses packets.
///
/// Times are counted from any zero and never go back. [`Self::handle_packet`] and [`Self::handle_settings`] put in,
/// [`Self::poll_arrival`] takes out (until `None`, after every input and whenever [`Self::poll_timeout`] is reached).
///
/// Losses follow the two-state model of Gilbert ("Capacity of a burst-noise channel", Bell System Technical Journal
/// 39, 1960) with no loss in the good state and nothing but loss in the bad one, a case of Elliott's (same journal,
/// 42, 1963): leaving the bad state with probability `1 / burst` makes bursts that long on average, and entering it
/// with `loss / (1 - loss) / burst` makes the share of lost packets `loss`.
///
/// Bounds: the queue holds what passes in `buffer`, the way [`MAX_ON_THE_WAY`] packets; either drops the newcomer.
#[derive(Debug)]
pub struct Link<T> {
    settings: Settings,
    random: Random,
    losing: bool,
    queue: VecDeque<(u64, T)>,
    queued_bits: u64,
    /// Work already done on the head of the queue, in bits times nanoseconds per second: exact at every rate.
    head_done: u128,
    /// Up to when the line has worked.
    now: Duration,
    /// By arrival time, and by number among those of one time.
    on_the_way: BTreeMap<(Duration, u64), T>,
    last_arrival: Duration,
    departed: u64,
    counts: Counts,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came in.
    pub packets: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Packets lost on the way.
    pub lost: u64,
    /// Packets that found the queue full.
    pub overflowed: u64,
    /// Packets held back so that others overtake them.
    pub reordered: u64,
    /// Packets taken out at the far end.
    pub arrived: u64,
    /// Bytes of IP packets that the line has passed, whether lost on the way afterwards or not: what there is to compare
    /// with the rate.
    pub passed_bytes: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
        self.lost += more.lost;
        self.overflowed += more.overflowed;
        self.reordered += more.reordered;
        self.arrived += more.arrived;
        self.passed_bytes += more.passed_bytes;
    }
}

impl<T> Link<T> {
    /// A link that draws its chances from `random`.
    #[must_use]
    pub const fn new(settings: Settings, random: Random) -> Self {
        Self {
            settings,
            random,
            losing: false,
            queue: VecDeque::new(),
            queued_bits: 0,
            head_done: 0,
            now: Duration::ZERO,
            on_the_way: BTreeMap::new(),
            last_arrival: Duration::ZERO,
            departed: 0,
            counts: Counts {
                packets: 0,
                bytes: 0,
                lost: 0,
                overflowed: 0,
                reordered: 0,
                arrived: 0,
                passed_bytes: 0,
            },
        }
    }

    /// A packet with `bytes` of UDP payload enters.
    pub fn handle_packet(&mut self, now: Duration, bytes: usize, packet: T) {
        self.work(now);
        self.counts.packets += 1;
        self.counts.bytes += bytes as u64;
        if self.wait().is_some_and(|wait| wait > self.settings.buffer) {
            self.counts.overflowed += 1;
            return;
        }
        let bits = (bytes + HEADER_BYTES) as u64 * 8;
        self.queued_bits += bits;
        self.queue.push_back((bits, packet));
        self.work(now);
    }

    /// From now on the link is like this. Packets in the queue pass at the new rate; those on their way arrive when
    /// they would have.
    pub fn handle_settings(&mut self, now: Duration, settings: Settings) {
        self.work(now);
        self.settings = settings;
        self.work(now);
    }

    /// The next packet that has arrived by now.
    pub fn poll_arrival(&mut self, now: Duration) -> Option<T> {
        self.work(now);
        let first = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        self.counts.arrived += 1;
        Some(first.remove())
    }

    /// When [`Self::poll_arrival`] should be called next; it may have nothing then.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let arrival = self.on_the_way.first_key_value().map(|((at, _), _)| *at);
        let departure = self.queue.front().map(|(bits, _)| self.now + self.head_time(*bits));
        arrival.into_iter().chain(departure).min()
    }

    /// What became of the packets so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// How long a packet would wait for its turn if it came in when the link was last told the time; `None` when the
    /// rate is not limited.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.settings.rate?;
        Some(self.head_time(self.queued_bits))
    }

    /// The present settings.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The time in which the line passes the first `bits` of the queue.
    fn head_time(&self, bits: u64) -> Duration {
        let Some(rate) = self.settings.rate else { return Duration::ZERO };
        let left = (u128::from(bits) * NANOS_PER_SECOND).saturating_sub(self.head_done);
        Duration::from_nanos(u64::try_from(left.div_ceil(u128::from(rate.bps().max(1)))).unwrap_or(u64::MAX))
    }

    /// Lets the line work up to `now`.
    fn work(&mut self, now: Duration) {
        while let Some(&(bits, _)) = self.queue.front() {
            let departure = self.now + self.head_time(bits);
            if departure > now {
                let rate = self.settings.rate.map_or(0, |rate| u128::from(rate.bps()));
                self.head_done += rate * now.saturating_sub(self.now).as_nanos();
                break;
            }
            self.now = departure;
            self.head_done = 0;
            self.queued_bits -= bits;
            self.counts.passed_bytes += bits / 8;
            if let Some((_, packet)) = self.queue.pop_front() {
                self.depart(packet);
            }
        }
        self.now = self.now.max(now);
    }

    /// Sends a packet that leaves the line at `self.now` on its way.
    fn depart(&mut self, packet: T) {
        if self.is_lost() {
            self.counts.lost += 1;
            return;
        }
        if self.on_the_way.len() >= MAX_ON_THE_WAY {
            self.counts.overflowed += 1;
            return;
        }
        let Settings { delay, jitter, reorder, .. } = self.settings;
        // From delay - jitter to delay + jitter.
        let way = (delay + self.random.below(2 * jitter)).saturating_sub(jitter);
        let mut arrival = (self.now + way).max(self.last_arrival);
        if self.random.chance(reorder) {
            self.counts.reordered += 1;
            arrival += MIN_HOLD + self.random.below(MAX_HOLD - MIN_HOLD);
        } else {
            self.last_arrival = arrival;
        }
        self.departed += 1;
        self.on_the_way.insert((arrival, self.departed), packet);
    }

    fn is_lost(&mut self) -> bool {
        let Settings { loss, burst, .. } = self.settings;
        if loss <= 0.0 || loss >= 1.0 {
            self.losing = loss >= 1.0;
            return self.losing;
        }
        let burst = burst.max(1.0 / (1.0 - loss));
        let toggles = if self.losing { 1.0 / burst } else { loss / (1.0 - loss) / burst };
        self.losing ^= self.random.chance(toggles);
        self.losing
    }
}

/// Headers of IPv4 (20 bytes) and UDP (8): a line carries them too.
const HEADER_BYTES: usize = 28;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A second at 180 Mb/s in full packets, against senders that nothing slows down.
pub const MAX_ON_THE_WAY: usize = 1 << 14;

/// How long a reordered packet is held back: at least past its neighbours in a burst, at most for the time of a
/// late picture, so that it counts as late rather than as lost.
const MIN_HOLD: Duration = Duration::from_millis(1);
const MAX_HOLD: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vchat_proto::units::Bitrate;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn link(changes: &[&str]) -> Link<u32> {
        let mut settings = Settings::default();
        changes.iter().try_for_each(|change| settings.apply(change)).expect("valid settings");
        Link::new(settings, Random::new(1, 0))
    }

    /// Sends numbered packets of 1000 bytes, one every `gap`, and returns (arrival, number) in order of arrival.
    fn run(link: &mut Link<u32>, packets: u32, gap: Duration) -> Vec<(Duration, u32)> {
        let mut arrived = Vec::new();
        for number in 0..packets {
            let now = gap * number;
            while let Some(at) = link.poll_timeout().filter(|at| *at <= now) {
                arrived.extend(std::iter::from_fn(|| link.poll_arrival(at)).map(|n| (at, n)));
            }
            link.handle_packet(now, 1000, number);
        }
        drain(link, arrived)
    }

    fn drain(link: &mut Link<u32>, mut arrived: Vec<(Duration, u32)>) -> Vec<(Duration, u32)> {
        while let Some(at) = link.poll_timeout() {
            arrived.extend(std::iter::from_fn(|| link.poll_arrival(at)).map(|n| (at, n)));
        }
        arrived
    }

    #[test]
    fn a_perfect_link_passes_everything_at_once() {
        let arrived = run(&mut link(&[]), 1000, MS);
        assert_eq!(arrived, (0..1000).map(|n| (MS * n, n)).collect::<Vec<_>>());
    }

    #[test]
    fn losses_have_the_rate_and_the_burst_length_asked_for() {
        for (loss, burst) in [(0.05, 4.0), (0.05, 1.0), (0.3, 4.0), (0.01, 10.0), (0.5, 1.0)] {
            let mut link = Link::new(Settings { loss, burst, ..Settings::default() }, Random::new(3, 0));
            // 5000 bursts, whose mean length then strays by 1.4 % and their share by 2 %.
            let packets = (5000.0 * f64::max(burst, 1.0 / (1.0 - loss)) / loss) as u32;
            let arrived = run(&mut link, packets, MS);
            let rate = 1.0 - arrived.len() as f64 / f64::from(packets);
            let gaps = arrived.windows(2).map(|w| w[1].1 - w[0].1 - 1).filter(|gap| *gap > 0);
            let (bursts, lost) = gaps.fold((0, 0), |(bursts, lost), gap| (bursts + 1, lost + gap));
            let length = f64::from(lost) / f64::from(bursts);
            let expected = f64::max(burst, 1.0 / (1.0 - loss));
            assert!((rate / loss - 1.0).abs() < 0.1, "loss {rate} instead of {loss}, bursts of {burst}");
            assert!((length / expected - 1.0).abs() < 0.05, "bursts of {length} instead of {expected}");
            assert_eq!(link.counts().lost + link.counts().arrived, u64::from(packets));
        }
        assert!(run(&mut link(&["loss=100%"]), 1000, MS).is_empty());
    }

    #[test]
    fn delay_is_exact_and_jitter_spreads_around_it() {
        for (arrival, number) in run(&mut link(&["delay=25ms"]), 1000, MS) {
            assert_eq!(arrival, MS * number + 25 * MS);
        }
        // Far enough apart for jitter to act on each packet alone.
        let arrived = run(&mut link(&["delay=25ms", "jitter=10ms"]), 20_000, 100 * MS);
        let ways: Vec<_> = arrived.iter().map(|(at, n)| (*at - 100 * MS * *n).as_secs_f64() * 1e3).collect();
        let mean = ways.iter().sum::<f64>() / ways.len() as f64;
        let variance = ways.iter().map(|way| (way - mean).powi(2)).sum::<f64>() / ways.len() as f64;
        assert!(ways.iter().all(|way| (15.0..=35.0).contains(way)));
        assert!((mean - 25.0).abs() < 0.2, "{mean}");
        // An even distribution over 20 ms has a deviation of 20 / sqrt(12).
        assert!((variance.sqrt() - 5.77).abs() < 0.1, "{}", variance.sqrt());
    }

    #[test]
    fn a_narrow_link_passes_its_rate_and_drops_what_would_wait_too_long() {
        // 1028 bytes every millisecond are 8.2 Mb/s, four times too much.
        let mut link = link(&["rate=2M", "buffer=300ms"]);
        let arrived = run(&mut link, 10_000, MS);
        let last = arrived.last().expect("some arrive").0;
        let rate = arrived.len() as f64 * 1028.0 * 8.0 / last.as_secs_f64();
        assert!((rate / 2e6 - 1.0).abs() < 0.001, "{rate}");
        let one = Duration::from_nanos(1028 * 8 * 500);
        let longest = arrived.iter().map(|(at, n)| *at - MS * *n).max().expect("some arrive");
        assert!(longest <= 300 * MS + one && longest >= 299 * MS, "{longest:?}");
        assert_eq!(link.counts().overflowed as usize, 10_000 - arrived.len());
        assert_eq!(link.counts().passed_bytes, arrived.len() as u64 * 1028);
        assert_eq!(arrived[0], (one, 0));
    }

    #[test]
    fn a_queue_drains_at_the_rate_of_the_moment() {
        let mut link = link(&["rate=2M", "buffer=300ms"]);
        for number in 0..60 {
            link.handle_packet(Duration::ZERO, 1000, number);
        }
        // 60 packets take 246.72 ms; after 100 ms, 146.72 ms are left, which a quarter of the rate makes four times.
        let slow = Settings { rate: Some(Bitrate::from_kbps(500)), ..link.settings().clone() };
        link.handle_settings(100 * MS, slow);
        let arrived = drain(&mut link, Vec::new());
        let end = Duration::from_micros(100_000 + 4 * 146_720);
        let last = arrived.last().expect("all arrive").0;
        assert!(last.abs_diff(end) < Duration::from_micros(1), "{last:?} instead of {end:?}");
        assert_eq!(arrived.len(), 60);
    }

    #[test]
    fn only_reordered_packets_are_overtaken() {
        let mut link = link(&["reorder=1%", "delay=25ms"]);
        let arrived = run(&mut link, 100_000, MS);
        assert_eq!(arrived.len(), 100_000);
        let held = link.counts().reordered;
        assert!((900..1100).contains(&held), "{held}");
        let mut newest = 0;
        let mut late = 0;
        for (_, number) in arrived {
            late += u64::from(number < newest);
            newest = newest.max(number);
        }
        assert!(late <= held && late > held * 8 / 10, "{late} of {held} were overtaken");
    }

    #[test]
    fn the_way_holds_a_bounded_number() {
        let mut link = link(&["delay=1s"]);
        for number in 0..=MAX_ON_THE_WAY as u32 {
            link.handle_packet(Duration::ZERO, 1000, number);
        }
        assert_eq!(link.counts().overflowed, 1);
    }

    #[test]
    fn a_seed_decides_everything() {
        let changes = ["loss=10%", "burst=3", "delay=20ms", "jitter=20ms", "reorder=5%", "rate=5M"];
        let once = run(&mut link(&changes), 5000, MS);
        assert_eq!(run(&mut link(&changes), 5000, MS), once);
        let mut other = link(&changes);
        other.random = Random::new(2, 0);
        assert_ne!(run(&mut other, 5000, MS), once);
    }

    proptest! {
        #[test]
        fn order_holds_and_every_packet_is_accounted_for(
            loss in 0.0..1.0_f64, burst in 1.0..20.0_f64, delay in 0..50_u32, jitter in 0..50_u32,
            rate in prop::option::of(100_000..10_000_000_u64), gaps in prop::collection::vec((0..20_u32, 0..1200_usize), 1..200),
            change in 0..200_usize,
        ) {
            let settings = Settings {
                loss, burst, delay: MS * delay, jitter: MS * jitter, rate: rate.map(Bitrate::from_bps), ..Settings::default()
            };
            let mut link = Link::new(settings, Random::new(9, 9));
            let mut now = Duration::ZERO;
            for (number, (gap, bytes)) in gaps.iter().enumerate() {
                now += MS * *gap;
                if number == change {
                    link.handle_settings(now, Settings::default());
                }
                link.handle_packet(now, *bytes, number as u32);
            }
            let arrived = drain(&mut link, Vec::new());
            prop_assert!(arrived.windows(2).all(|w| w[0].1 < w[1].1 && w[0].0 <= w[1].0));
            let Counts { packets, lost, overflowed, arrived: out, .. } = link.counts();
            prop_assert_eq!(packets, lost + overflowed + out);
            prop_assert_eq!(packets, gaps.len() as u64);
        }
    }
}
