//! What the buffer makes of hops that lose packets and mend it: late arrivals, copies, outages.

use super::tests::Call;
use super::*;

/// A sender, hops that lose and repair, and how far packets reach back.
#[derive(Clone, Copy, Debug)]
struct Path {
    hops: u32,
    /// One way over a hop, in microseconds.
    way: u64,
    loss_per_mille: u64,
    /// Mean run of losses, in packets; 1 for losses that are independent of each other.
    burst: u64,
    /// Later datagrams that carry a copy.
    copies: usize,
    /// Whether what is lost is sent again, a round trip after the next datagram that came.
    again: bool,
    /// Nothing passes the last hop for so long (ms) each 5 s, from 3 s on.
    outage_ms: u64,
    /// One packet in `every` reaches back `reach`.
    reach: u32,
    every: u32,
}

const CLEAN: Path = Path {
    hops: 2,
    way: 12_500,
    loss_per_mille: 0,
    burst: 1,
    copies: 0,
    again: false,
    outage_ms: 0,
    reach: 0,
    every: 1,
};

impl Path {
    /// The arrivals of `seconds` of packets in order of time: when, and which.
    fn arrivals(self, call: &mut Call, seconds: u64) -> Vec<(u64, u32)> {
        let mut frames: Vec<(u64, u32)> =
            (0..seconds as u32 * 100).map(|n| (u64::from(n) * 10_000, n)).collect();
        for hop in 0..self.hops {
            let last = hop + 1 == self.hops;
            frames = self.hop(call, &frames, last);
        }
        frames
    }

    fn hop(self, call: &mut Call, sent: &[(u64, u32)], last: bool) -> Vec<(u64, u32)> {
        let mut bad = false;
        let mut lost = |call: &mut Call, at: u64| {
            let leave = if self.burst == 1 { 1000 - self.loss_per_mille } else { 1000 / self.burst };
            let enter = self.loss_per_mille * leave / (1000 - self.loss_per_mille);
            bad = if bad { call.random(1000) >= leave } else { call.random(1000) < enter };
            bad || last && self.in_outage(at)
        };
        let lost: Vec<bool> = sent.iter().map(|&(at, _)| lost(call, at)).collect();
        let mut arrived = Vec::new();
        for (n, &(_, id)) in sent.iter().enumerate() {
            let carriers = (n..sent.len()).take(self.copies + 1).filter(|&m| !lost[m]);
            arrived.extend(carriers.map(|m| (sent[m].0 + self.way, id)));
            let noticed = (n + 1..sent.len()).find(|&m| !lost[m]).filter(|_| self.again && lost[n]);
            let Some(mut at) = noticed.map(|m| sent[m].0 + 2 * self.way) else { continue };
            // What is too old is not sent again, and each try may fail.
            while at < sent[n].0 + 400_000 {
                if call.random(1000) >= self.loss_per_mille && !(last && self.in_outage(at)) {
                    arrived.push((at + self.way, id));
                    break;
                }
                at += 2 * self.way + 10_000;
            }
        }
        arrived.sort_unstable();
        if !last {
            // A relay passes on what is new to it.
            let mut seen = std::collections::BTreeSet::new();
            arrived.retain(|&(_, id)| seen.insert(id));
        }
        arrived
    }

    fn in_outage(self, at: u64) -> bool {
        at % 5_000_000 >= 3_000_000 && at % 5_000_000 < 3_000_000 + self.outage_ms * 1000
    }

    /// A call over this path, and how it went from its third second on.
    fn call(self, seed: u64, seconds: u64) -> (Call, Stats) {
        let mut call = Call::new(seed);
        self.arrivals(&mut call, seconds).into_iter().for_each(|(at, id)| {
            let reach = if id % self.every == 0 { self.reach } else { 0 };
            call.wire.push_back((at, id, u64::from(id) * 10_000, reach));
        });
        call.next_send = f64::INFINITY;
        call.run(2, true);
        let stats = call.run(seconds - 2, true);
        (call, stats)
    }
}

/// Mean and longest time from capture to playout from `from` seconds on, less the two hops, in milliseconds.
fn delays(call: &Call, path: Path, from: u64) -> (u64, u64) {
    let way = u64::from(path.hops) * path.way;
    let heard = call.heard.iter().filter(|&&(at, _)| at >= from * 1_000_000);
    let delays: Vec<u64> = heard.map(|&(at, captured)| (at - captured).saturating_sub(way) / 1000).collect();
    let longest = delays.iter().copied().max().unwrap_or(0);
    (delays.iter().sum::<u64>() / (delays.len() as u64).max(1), longest)
}

/// Whether blind concealment stays below that many frames in ten thousand, and the mean delay below that many ms.
fn assert_holds(name: &str, path: Path, blind: u64, delay: u64) {
    for seed in 0..5 {
        let (call, stats) = path.call(seed, 62);
        assert!(stats.concealed * 10_000 <= blind * 6_000, "{name}: {stats:?}");
        let (mean, _) = delays(&call, path, 2);
        assert!(mean <= delay, "{name}: {mean} ms, {stats:?}");
    }
}

#[test]
fn repaired_loss_is_waited_for_and_no_longer() {
    let lossy = |loss_per_mille| Path { loss_per_mille, again: true, ..CLEAN };
    assert_holds("loss5", Path { copies: 2, ..lossy(50) }, 30, 30);
    assert_holds("loss10", Path { copies: 2, ..lossy(100) }, 50, 50);
    assert_holds("loss20", Path { copies: 3, ..lossy(200) }, 60, 60);
    assert_holds("loss10, sent again only", lossy(100), 70, 95);
    assert_holds("loss20, sent again only", Path { reach: 17, every: 2, ..lossy(200) }, 10, 95);
}

#[test]
fn loss_that_is_not_repaired_is_restored() {
    let deep = |loss_per_mille, burst, every| Path { loss_per_mille, burst, every, reach: 28, ..CLEAN };
    assert_holds("loss10", deep(100, 1, 2), 100, 60);
    assert_holds("loss20", deep(200, 1, 2), 120, 90);
    assert_holds("lossyburst", deep(300, 4, 3), 900, 170);
    assert_holds("lossyburst x1", Path { hops: 1, ..deep(300, 4, 3) }, 450, 130);
    assert_holds("lossyburst, copies", Path { copies: 2, again: true, ..deep(300, 4, 3) }, 600, 130);
}

#[test]
fn after_an_outage_sound_is_back_at_once_and_the_delay_is_what_it_was() {
    for outage_ms in [300, 1000] {
        for (again, reach) in [(false, 0), (true, 0), (true, 17)] {
            let path = Path { outage_ms, again, reach, copies: 2, ..CLEAN };
            let (call, stats) = path.call(3, 22);
            // Four outages of which nothing can be saved. All the silence counts.
            assert!(stats.concealed <= 4 * (outage_ms / 10 + 1), "{path:?} {stats:?}");
            assert!(stats.concealed >= 4 * (outage_ms / 10 - 4), "{path:?} {stats:?}");
            let gap = call.heard.windows(2).map(|w| (w[1].0 - w[0].0) / 1000).max().expect("sound");
            assert!(gap <= outage_ms + 20, "{path:?}: silent for {gap} ms");
            let (mean, longest) = delays(&call, path, 2);
            assert!(mean <= 15 && longest <= 40, "{path:?}: {mean}, at most {longest} ms");
            assert!(stats.target <= Duration::from_millis(10), "{path:?} {stats:?}");
        }
    }
}
