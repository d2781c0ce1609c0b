//! Whole calls in virtual time, over many seeds.

use std::time::Duration;

use vchat_proto::units::Bitrate;
use vchat_tests::netem::{Random, Settings};
use vchat_tests::virtual_call::{Path, Shown, Who, World};

/// Runs a scenario with many seeds; a failure names the seed.
fn seeds(count: u64, mut scenario: impl FnMut(u64)) {
    for seed in 0..count {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(seed)));
        if let Err(panic) = result {
            eprintln!("with seed {seed}:");
            std::panic::resume_unwind(panic);
        }
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn bad(loss: f64) -> Settings {
    Settings { loss, burst: 2.0, delay: ms(25), jitter: ms(20), reorder: 0.01, ..Settings::default() }
}

/// The longest time between two pictures shown in a span of time, its ends included.
fn longest_freeze(shown: &[Shown], from: Duration, to: Duration) -> Duration {
    let within = shown.iter().map(|s| s.at).filter(|at| (from..=to).contains(at));
    let times: Vec<Duration> = std::iter::once(from).chain(within).chain([to]).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Pictures that were captured in a span of time.
fn captured_within(shown: &[Shown], from: Duration, to: Duration) -> usize {
    shown.iter().filter(|s| (from..to).contains(&s.captured)).count()
}

/// 30 pictures a second, and as many as can be in a time.
fn frames_in(time: Duration) -> usize {
    usize::try_from(time.as_micros() / 33_333).unwrap_or(usize::MAX)
}

const FRAME_INTERVAL: Duration = Duration::from_micros(33_334);
const NAMES: [&str; 12] =
    ["ann", "bob", "eve", "dan", "fay", "gus", "hal", "ida", "jim", "kim", "leo", "mia"];

#[test]
fn on_a_good_network_everybody_sees_and_hears_everything() {
    seeds(20, |seed| {
        let mut world = World::new(seed);
        let path = Path::round_trip(ms(40));
        let all: Vec<Who> = NAMES[..3].iter().map(|name| world.add(name, path.clone())).collect();
        world.run_for(ms(1000));
        let from = world.now();
        world.run_for(ms(3000));
        let to = world.now() - ms(100);
        for &who in &all {
            for other in NAMES[..3].iter().filter(|name| **name != NAMES[who]) {
                let client = world.client(who);
                assert!(captured_within(client.shown(other), from, to) >= frames_in(to - from), "{other}");
                // A frame leaves at the pace at which the path is known to take it: at once, in the end.
                for s in client.shown(other).iter().filter(|s| s.captured >= from) {
                    assert!(s.at - s.captured <= ms(45), "{s:?}");
                }
                let heard = client.heard(other);
                assert_eq!(
                    (heard.stats.concealed, heard.stats.repaired, heard.stats.late),
                    (0, 0, 0),
                    "{heard:?}"
                );
                assert!(heard.delays.iter().all(|d| *d < ms(70)), "{:?}", heard.delays.iter().max());
            }
            for &other in all.iter().filter(|other| **other != who) {
                let error = world.client(who).clock_error(world.client(other)).expect("measured");
                assert!(error < ms(2), "{error:?}");
            }
            // Their own first, and one for everybody who came later.
            assert!(world.key_frames_asked_of(who) <= 3);
        }
    });
}

#[test]
fn a_bad_network_never_shows_a_picture_without_its_reference() {
    // The decoders of the world panic where a real one would show garbage, and so do damaged bytes.
    seeds(40, |seed| {
        let mut random = Random::new(seed, 0);
        let mut world = World::new(seed);
        for name in &NAMES[..3] {
            let settings = Settings {
                loss: random.unit() * 0.3,
                burst: 1.0 + random.unit() * 8.0,
                delay: random.below(ms(150)),
                jitter: random.below(ms(60)),
                rate: random.chance(0.5).then(|| Bitrate::from_kbps(200 + random.bits() % 2000)),
                buffer: ms(300),
                reorder: random.unit() * 0.1,
            };
            world.add(name, Path::both(&settings));
            world.run_for(random.below(ms(1500)));
        }
        world.run_for(ms(4000));
        // Whatever it was like: when it is good again, so is the picture.
        (0..3).for_each(|who| world.set_path(who, Path::round_trip(ms(40))));
        // More is tried some seconds after the last time that it was too much, up to half a minute after several.
        world.run_for(ms(40_000));
        let from = world.now();
        world.run_for(ms(1000));
        let to = world.now() - ms(100);
        for (who, name) in NAMES.iter().enumerate().take(3) {
            for other in NAMES[..3].iter().filter(|other| *other != name) {
                let client = world.client(who);
                assert!(captured_within(client.shown(other), from, to) >= frames_in(to - from), "{other}");
            }
        }
    });
}

#[test]
fn whoever_comes_late_sees_a_picture_after_one_or_two_round_trips() {
    let mut slow = 0;
    seeds(100, |seed| {
        let mut random = Random::new(seed, 0);
        let mut world = World::new(seed);
        let round_trips = [random.below(ms(200)), random.below(ms(200))];
        world.add("ann", Path::round_trip(round_trips[0]));
        // Streams may take longer than datagrams, so media may overtake the welcome.
        let way = Settings { delay: round_trips[1] / 2, ..Settings::default() };
        let path = Path { down: Settings { jitter: STREAM_LAG.min(way.delay), ..way.clone() }, up: way };
        world.run_for(ms(600) + random.below(ms(2000)));
        let bob = world.add("bob", path.clone());
        world.run_until(ms(2000), |w| !w.client(bob).shown("ann").is_empty()).expect("a picture");
        let client = world.client(bob);
        let took = client.shown("ann")[0].at - client.connected_at().expect("connected");
        // The hello there, the request to ann, her next picture to the relay, and on to bob.
        let limit = round_trips[0] + round_trips[1] + FRAME_INTERVAL * 2 + STREAM_LAG + PACED;
        slow += usize::from(took > limit + ms(1));
        assert!(took <= limit + ASKED_AGAIN, "{took:?} of {limit:?}");

        // A key frame is on its way already, or has just been: the next one needs no more than their own round trip.
        world.run_for(round_trips[0].saturating_sub(round_trips[1]) + random.below(ms(300)));
        let eve = world.add("eve", path);
        world.run_until(ms(2000), |w| !w.client(eve).shown("ann").is_empty()).expect("a picture");
        let client = world.client(eve);
        let took = client.shown("ann")[0].at - client.connected_at().expect("connected");
        slow += usize::from(took > limit + ms(1));
        assert!(took <= limit + ASKED_AGAIN, "{took:?} of {limit:?}");
        assert_eq!(client.joins().len(), 1);
    });
    assert!(slow <= 6, "{slow} of 200 came late");
}

const STREAM_LAG: Duration = ms(30);
/// A key frame that was asked for in vain is asked for again.
const ASKED_AGAIN: Duration = ms(500);
/// A key frame of 6 kB at the pace of a hop that is not known yet.
const PACED: Duration = ms(100);

#[test]
fn requests_of_many_for_a_key_frame_become_few_for_the_publisher() {
    seeds(20, |seed| {
        let mut world = World::new(seed);
        let ann = world.add("ann", Path::round_trip(ms(20)));
        for name in &NAMES[1..] {
            let up = Settings { delay: ms(25), ..Settings::default() };
            world.add_listener(name, Path { up, down: Settings { jitter: ms(5), ..bad(0.05) } });
        }
        world.run_for(ms(1000));
        let (from, before) = (world.now(), world.key_frames_asked_of(ann));
        world.run_for(ms(4000));
        let asked = world.key_frames_asked_of(ann) - before;
        let most = (world.now() - from).as_millis() / 300 + 1;
        assert!(asked as u128 <= most, "{asked} requests, {most} are the most");
        for (who, name) in NAMES.iter().enumerate().skip(1) {
            let shown = captured_within(world.client(who).shown("ann"), from, world.now() - ms(100));
            let freeze = longest_freeze(world.client(who).shown("ann"), from, world.now());
            assert!(shown > 20 && freeze < ms(2000), "{name} saw {shown} pictures, none for {freeze:?}");
        }
    });
}

#[test]
fn after_an_outage_the_picture_is_back_within_a_round_trip_and_a_third_of_a_second() {
    seeds(100, |seed| {
        let mut random = Random::new(seed, 0);
        let round_trip = random.below(ms(200));
        let (mut world, path) = (World::new(seed), Path::round_trip(round_trip));
        let (ann, bob) = (world.add("ann", path.clone()), world.add("bob", path.clone()));
        world.run_for(ms(1000) + random.below(ms(100)));
        // Streams are repaired in the end; media is not.
        let lossy = |settings: &Settings| Settings { loss: 1.0, ..settings.clone() };
        let broken = match seed % 3 {
            0 => (bob, Path { down: lossy(&path.down), ..path.clone() }),
            1 => (ann, Path { up: lossy(&path.up), ..path.clone() }),
            _ => (bob, Path { down: Settings { loss: 0.3, ..path.down.clone() }, ..path.clone() }),
        };
        world.set_path(broken.0, broken.1);
        let outage = ms(20) + random.below(ms(400));
        world.run_for(outage);
        let healed = world.now();
        [ann, bob].into_iter().for_each(|who| world.set_path(who, path.clone()));
        // What the streams lost in the outage may still be under repair; media that was lost shows after PATIENCE at the
        // latest, then the request and the key frame each take a round trip at most, and a retry may have to be awaited.
        let limit = ms(50) + round_trip * 2 + ms(300) + FRAME_INTERVAL * 2 + repair(round_trip);
        let after = world
            .run_until(limit, |w| w.client(bob).shown("ann").last().is_some_and(|s| s.captured > healed));
        assert!(
            after.is_some(),
            "no picture {limit:?} after an outage of {outage:?}, round trip {round_trip:?}"
        );
        world.run_for(ms(2000));
        let to = world.now() - ms(200);
        let shown = captured_within(world.client(bob).shown("ann"), healed + limit, to);
        assert!(shown >= frames_in(to - healed - limit), "{shown}");
    });
}

/// The longest that a model stream needs for what it lost in the last moment of an outage.
fn repair(round_trip: Duration) -> Duration {
    round_trip + ms(30)
}

#[test]
fn one_slow_receiver_takes_nothing_from_the_others() {
    seeds(20, |seed| {
        let mut world = World::new(seed);
        world.add("ann", Path::round_trip(ms(30)));
        let good: Vec<Who> =
            NAMES[1..4].iter().map(|n| world.add_listener(n, Path::round_trip(ms(30)))).collect();
        let trouble = if seed % 2 == 0 {
            Settings { rate: Some(Bitrate::from_kbps(300)), delay: ms(15), ..Settings::default() }
        } else {
            bad(0.4)
        };
        let slow = world.add_listener("slow", Path { up: Settings::default(), down: trouble });
        // Until the relay knows what the narrow line bears.
        world.run_for(ms(4000));
        let from = world.now();
        world.run_for(ms(6000));
        let to = world.now() - ms(100);
        for who in good {
            let client = world.client(who);
            let shown = captured_within(client.shown("ann"), from, to);
            assert!(shown * 100 >= frames_in(to - from) * 99, "{shown} of {}", frames_in(to - from));
            let heard = client.heard("ann");
            assert_eq!((heard.stats.concealed, heard.stats.late), (0, 0), "{heard:?}");
        }
        // What the slow one sees is not old; of two fifths lost, hardly a key frame is whole.
        let slow = world.client(slow);
        assert!(seed % 2 == 1 || slow.shown("ann").len() > 5, "{} pictures", slow.shown("ann").len());
        for s in slow.shown("ann").iter().filter(|s| s.captured > from) {
            assert!(s.at - s.captured < ms(1000), "{s:?}");
        }
    });
}

#[test]
fn chat_is_said_once_and_in_one_order_whatever_breaks() {
    seeds(25, |seed| {
        let mut random = Random::new(seed, 0);
        let mut world = World::new(seed);
        let all: Vec<Who> = NAMES[..4].iter().map(|name| world.add(name, Path::both(&bad(0.05)))).collect();
        world.run_for(ms(1500));
        let mut said = Vec::new();
        for n in 0..25 {
            let who = usize::try_from(random.bits() % 4).expect("small");
            said.push((world.say(who, &format!("line {n}")), who));
            match random.bits() % 12 {
                0 => world.cut(who),
                1 => all.iter().for_each(|who| world.heal(*who)),
                _ => {}
            }
            world.run_for(random.below(ms(1500)));
        }
        all.iter().for_each(|who| world.heal(*who));
        // Who was cut off for long comes back by itself.
        world.run_for(ms(25_000));
        let reference: Vec<_> =
            world.client(0).chat().iter().map(|l| (l.seq, l.id, l.text.clone())).collect();
        assert_eq!(reference.len(), said.len());
        assert!(reference.iter().enumerate().all(|(i, line)| line.0 == i as u64 + 1), "{reference:?}");
        for &who in &all {
            let client = world.client(who);
            let lines: Vec<_> = client.chat().iter().map(|l| (l.seq, l.id, l.text.clone())).collect();
            assert_eq!(lines, reference, "{}", NAMES[who]);
            let own: Vec<_> = said.iter().filter(|(_, by)| *by == who).map(|(id, _)| *id).collect();
            let stored: Vec<_> = client.stored().iter().map(|(id, _)| *id).collect();
            assert_eq!(stored, own, "{} hears of each of their lines once, in the order said", NAMES[who]);
            let in_room: Vec<_> = reference.iter().map(|l| l.1).filter(|id| own.contains(id)).collect();
            assert_eq!(in_room, own, "{}'s lines keep their order", NAMES[who]);
            assert_eq!(client.others().len(), 3);
        }
        assert_eq!(world.people(), 4);
    });
}

#[test]
fn who_leaves_is_gone_at_once_and_who_vanishes_after_the_idle_timeout() {
    seeds(20, |seed| {
        let mut world = World::new(seed);
        let path = Path::round_trip(ms(50));
        let (ann, bob) = (world.add("ann", path.clone()), world.add("bob", path.clone()));
        let eve = world.add("eve", path);
        world.run_for(ms(1000));
        world.leave(bob);
        world.run_for(ms(51));
        assert_eq!((world.people(), world.client(ann).others()), (2, vec!["eve"]));
        world.kill(eve);
        world.run_for(ms(7900));
        assert_eq!(world.people(), 2);
        world.run_for(ms(200));
        assert_eq!((world.people(), world.client(ann).others()), (1, vec![]));
        let shown = world.client(ann).shown("eve").len();
        world.run_for(ms(500));
        assert_eq!(world.client(ann).shown("eve").len(), shown);
    });
}

#[test]
fn a_short_cut_of_the_network_is_survived_and_a_long_one_repaired() {
    seeds(30, |seed| {
        let mut random = Random::new(seed, 0);
        let mut world = World::new(seed);
        let path = Path::round_trip(ms(60));
        let (ann, bob) = (world.add("ann", path.clone()), world.add("bob", path));
        world.run_for(ms(1000));
        for (cut, joins) in [(random.below(ms(7500)), 1), (ms(8500) + random.below(ms(20_000)), 2)] {
            world.cut(bob);
            world.run_for(cut);
            world.heal(bob);
            let healed = world.now();
            // An attempt to connect that began in the cut has 5 s to fail, and the next may wait 2 s.
            let back = |w: &World| {
                let fresh = |s: &Shown| s.captured > healed;
                w.client(bob).shown("ann").last().is_some_and(fresh)
                    && w.client(ann).shown("bob").last().is_some_and(fresh)
            };
            let limit = if joins == 1 { ms(600) } else { ms(8000) };
            world.run_until(limit, back).unwrap_or_else(|| panic!("no picture after a cut of {cut:?}"));
            assert_eq!((world.client(bob).joins().len(), world.people()), (joins, 2));
            assert_eq!((world.client(ann).others(), world.client(bob).others()), (vec!["bob"], vec!["ann"]));
        }
    });
}

#[test]
fn a_relay_that_starts_again_finds_everybody_back_and_loses_no_line() {
    seeds(50, |seed| {
        let mut random = Random::new(seed, 0);
        let mut world = World::new(seed);
        let all: Vec<Who> =
            NAMES[..3].iter().map(|n| world.add(n, Path::round_trip(random.below(ms(100))))).collect();
        world.run_for(ms(1000) + random.below(ms(1000)));
        world.say(0, "before");
        world.run_for(random.below(ms(300)));
        world.restart_relay();
        let restarted = world.now();
        let ids = [world.say(1, "meanwhile"), world.say(2, "meanwhile too")];
        let back = |w: &World| {
            all.iter().all(|who| {
                let others = NAMES[..3].iter().filter(|name| **name != NAMES[*who]);
                let client = w.client(*who);
                others.clone().count() == client.others().len()
                    && others.clone().all(|n| client.shown(n).last().is_some_and(|s| s.captured > restarted))
            })
        };
        // The farewell, a wait of 50 ms, the handshake, the hello; then pictures of all.
        let took = world.run_until(ms(2000), back).expect("everybody is back") - restarted;
        // Where two ask for the same key frame, one may have to ask again after half a second.
        assert!(took < ms(1000) + ms(50) + 4 * ms(100) + FRAME_INTERVAL + ms(100), "{took:?}");
        world.run_for(ms(500));
        for who in all {
            let texts = world.client(who).chat().iter().filter(|l| ids.contains(&l.id)).count();
            assert_eq!(texts, 2, "{:?}", world.client(who).chat());
            assert_eq!(world.client(who).joins().len(), 2);
        }
    });
}

#[test]
fn sound_survives_loss_and_jitter_with_little_concealment_and_little_delay() {
    seeds(50, |seed| {
        let mut world = World::new(seed);
        let down = Settings { loss: 0.05, delay: ms(40), jitter: ms(20), ..Settings::default() };
        let bob = world.add("bob", Path { up: Settings::default(), down });
        world.add("ann", Path::round_trip(ms(10)));
        world.run_for(ms(10_000));
        let heard = world.client(bob).heard("ann");
        let all = heard.stats.played + heard.stats.repaired + heard.stats.concealed;
        assert!(all > 900, "{:?}", heard.stats);
        // 5 % are lost; all but the first of a burst have their copy in the next packet.
        let concealed = heard.stats.concealed as f64 / all as f64;
        assert!(concealed < 0.04, "{:?}", heard.stats);
        let last = &heard.delays[heard.delays.len() - 500..];
        let longest = last.iter().max().copied().unwrap_or_default();
        // The way of 45 ms, jitter of 40 ms from first to last, a copy two frames later, its jitter, and guard.
        assert!(longest < ms(45 + 40 + 60), "{longest:?}");
        assert!(heard.stats.late * 100 <= all * 2, "{:?}", heard.stats);
    });
}

#[test]
fn a_call_follows_a_line_that_becomes_narrow_and_wide_again() {
    seeds(10, |seed| {
        let line = |kbps| {
            let rate = Some(Bitrate::from_kbps(kbps));
            Path::both(&Settings { delay: ms(10), rate, buffer: ms(300), ..Settings::default() })
        };
        let mut world = World::new(seed).with_video_max(Bitrate::from_kbps(2500));
        let both = [world.add("ann", line(2000)), world.add("bob", line(2000))];
        let wide = Bitrate::from_kbps(1300);
        let uses = |w: &World| both.iter().all(|who| w.client(*who).sends() > wide);
        world.run_until(ms(10_000), uses).expect("much of a wide line is used");
        world.run_for(ms(2000));
        both.iter().for_each(|who| world.set_path(*who, line(500)));
        world.run_for(ms(3000));
        let from = world.now();
        world.run_for(ms(12_000));
        let to = world.now() - ms(500);
        for (who, other) in [(both[0], "bob"), (both[1], "ann")] {
            let shown = world.client(who).shown(other);
            assert!(captured_within(shown, from, to) * 100 >= frames_in(to - from) * 95);
            let mut delays: Vec<_> =
                shown.iter().filter(|s| s.captured >= from).map(|s| s.at - s.captured).collect();
            delays.sort();
            assert!(delays[delays.len() / 2] < ms(90), "{:?}", delays[delays.len() / 2]);
        }
        both.iter().for_each(|who| world.set_path(*who, line(2000)));
        let again = world.now();
        let took = world.run_until(ms(15_000), uses).unwrap_or(ms(99_000));
        // Pairs come four times a second, and nearly all that count have to be of the wide line.
        assert!(took - again < ms(8000), "{:?}", took - again);
    });
}
