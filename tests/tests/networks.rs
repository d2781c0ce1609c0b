//! The networks of `vchat-bench table` in virtual time, with fixed seeds: what repair, rate control and playout make of them.

use std::time::Duration;

use vchat_proto::units::Bitrate;
use vchat_tests::netem::Settings;
use vchat_tests::virtual_call::{Path, Shown, World};

/// A call of two after five seconds, both directions and some seeds together.
#[derive(Debug, Default)]
struct Seen {
    fps: f64,
    p50: Duration,
    p95: Duration,
    /// Share of the time in gaps of more than 200 ms.
    frozen: f64,
    /// Share of sound that was invented.
    invented: f64,
}

/// Calls over two such lines. `change` may change them, at the times since the call began that are in `at`.
fn call(line: &Settings, at: &[u64], change: impl Fn(u64) -> Settings) -> Seen {
    let (mut shown, mut delays, mut frozen) = (0, Vec::new(), Duration::ZERO);
    let (mut invented, mut heard) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let people = ["ann", "bob"].map(|name| world.add(name, Path::both(line)));
        world.run_for(WARM_UP);
        let (from, before) = (world.now(), people.map(|who| stats(&world, who)));
        for &ms in at {
            world.run_for((from + Duration::from_millis(ms)).saturating_sub(world.now()));
            people.iter().for_each(|who| world.set_path(*who, Path::both(&change(ms))));
        }
        world.run_for((from + TIME).saturating_sub(world.now()));
        let to = from + TIME;
        for (who, before) in people.into_iter().zip(before) {
            let within = |s: &&Shown| (from..to).contains(&s.at);
            let pictures: Vec<Shown> =
                world.client(who).shown(other(who)).iter().filter(within).copied().collect();
            shown += pictures.len();
            delays.extend(pictures.iter().map(|s| s.at - s.captured));
            let times: Vec<Duration> =
                std::iter::once(from).chain(pictures.iter().map(|s| s.at)).chain([to]).collect();
            let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
            frozen += gaps.filter(|gap| *gap > Duration::from_millis(200)).sum::<Duration>();
            let after = stats(&world, who);
            invented += after.0 - before.0;
            heard += after.1 - before.1;
        }
    }
    delays.sort_unstable();
    let all = TIME.as_secs_f64() * (2 * SEEDS) as f64;
    let at = |percent: usize| delays.get(delays.len() * percent / 100).copied().unwrap_or_default();
    Seen {
        fps: shown as f64 / all,
        p50: at(50),
        p95: at(95),
        frozen: frozen.as_secs_f64() / all,
        invented: invented as f64 / heard.max(1) as f64,
    }
}

const fn other(who: usize) -> &'static str {
    if who == 0 { "bob" } else { "ann" }
}

/// Frames of sound invented, and all.
fn stats(world: &World, who: usize) -> (u64, u64) {
    let stats = world.client(who).heard(other(who)).stats;
    (stats.concealed, stats.concealed + stats.repaired + stats.played)
}

fn steady(line: &Settings) -> Seen {
    call(line, &[], |_| line.clone())
}

fn line(delay_ms: u64, loss: f64) -> Settings {
    Settings { loss, delay: Duration::from_millis(delay_ms), ..Settings::default() }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const SEEDS: u64 = 3;
const WARM_UP: Duration = Duration::from_secs(5);
const TIME: Duration = Duration::from_secs(20);

#[test]
fn wifi() {
    let seen = steady(&Settings { jitter: ms(5), ..line(15, 0.005) });
    assert!(seen.fps > 29.0 && seen.p95 < ms(100) && seen.frozen < 0.001, "{seen:?}");
    assert!(seen.invented < 0.002, "{seen:?}");
}

#[test]
fn loss_of_five_percent_a_hop() {
    let seen = steady(&line(12, 0.05));
    assert!(seen.fps > 29.0 && seen.p95 < ms(110) && seen.frozen < 0.003, "{seen:?}");
    assert!(seen.invented < 0.003, "{seen:?}");
}

#[test]
fn loss_of_ten_percent_a_hop() {
    let seen = steady(&line(25, 0.1));
    assert!(seen.fps > 28.0 && seen.p95 < ms(170) && seen.frozen < 0.01, "{seen:?}");
    assert!(seen.invented < 0.01, "{seen:?}");
}

#[test]
fn loss_of_twenty_percent_a_hop() {
    let seen = steady(&line(25, 0.2));
    assert!(seen.fps > 25.0 && seen.p95 < ms(300) && seen.frozen < 0.03, "{seen:?}");
    assert!(seen.invented < 0.03, "{seen:?}");
}

#[test]
fn loss_in_bursts() {
    let seen = steady(&Settings { burst: 4.0, ..line(25, 0.3) });
    assert!(seen.fps > 15.0 && seen.p95 < ms(700) && seen.frozen < 0.2, "{seen:?}");
    // Deep redundancy, which the model has not, restores most of this.
    assert!(seen.invented < 0.2, "{seen:?}");
}

#[test]
fn outages_of_a_third_of_a_second() {
    let times: Vec<u64> = (0..4).flat_map(|n| [2000 + n * 5000, 2300 + n * 5000]).collect();
    let good = line(10, 0.0);
    let seen = call(&good, &times, |ms| if ms % 1000 == 0 { line(10, 1.0) } else { line(10, 0.0) });
    // Four outages of 300 ms in 20 s, and a round trip each.
    assert!(seen.frozen < 4.0 * 0.37 / 20.0, "{seen:?}");
    assert!(seen.p50 < ms(60), "{seen:?}");
}

#[test]
fn a_line_of_500_kbps() {
    let narrow = Settings { rate: Some(Bitrate::from_kbps(500)), buffer: ms(300), ..line(10, 0.0) };
    let seen = steady(&narrow);
    assert!(seen.fps > 27.0 && seen.p50 < ms(90) && seen.p95 < ms(150) && seen.frozen < 0.01, "{seen:?}");
    assert!(seen.invented < 0.005, "{seen:?}");
}

#[test]
fn a_rate_that_falls_and_rises() {
    let of = |kbps| Settings { rate: Some(Bitrate::from_kbps(kbps)), buffer: ms(300), ..line(10, 0.0) };
    let seen = call(&of(2000), &[5000, 12_000], |ms| of(if ms == 5000 { 400 } else { 2000 }));
    assert!(seen.fps > 25.0 && seen.p50 < ms(80) && seen.frozen < 0.05, "{seen:?}");
}

#[test]
fn far_away() {
    let seen = steady(&line(150, 0.01));
    // Each repair takes a third of a second here.
    assert!(seen.fps > 25.0 && seen.frozen < 0.25 && seen.invented < 0.02, "{seen:?}");
}
