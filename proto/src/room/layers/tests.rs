use super::*;
use crate::units::MediaTime;
use crate::wire::datagram::{Dependency, MediaKind};

/// Cameras of 600 kb/s full and 150 kb/s small, of which a third is discardable, at 25 frames a second.
struct World {
    layers: Layers,
    now: Instant,
    cameras: Vec<Camera>,
    /// What everybody's hop carries; told every 100 ms.
    carries: BTreeMap<ParticipantId, Bitrate>,
    outputs: Vec<Output>,
    /// Bytes to each receiver of each track since the last look.
    bytes: BTreeMap<(ParticipantId, TrackId), usize>,
}

struct Camera {
    owner: ParticipantId,
    full: Stream,
    small: Option<Stream>,
    /// The small one is encoded.
    small_on: bool,
}

struct Stream {
    track: TrackId,
    next: FrameId,
    key_wanted: bool,
    bytes: usize,
}

const fn id(n: usize) -> ParticipantId {
    ParticipantId(n as u32 + 1)
}

const fn full(n: usize) -> TrackId {
    TrackId(10 * (n as u16 + 1))
}

const fn small(n: usize) -> TrackId {
    TrackId(10 * (n as u16 + 1) + 1)
}

const KBPS: fn(u64) -> Bitrate = Bitrate::from_kbps;

impl World {
    fn new(people: usize, has_small: bool) -> Self {
        let mut w = Self {
            layers: Layers::default(),
            now: Instant::now(),
            cameras: Vec::new(),
            carries: BTreeMap::new(),
            outputs: Vec::new(),
            bytes: BTreeMap::new(),
        };
        for n in 0..people {
            w.layers.add_receiver(w.now, id(n), true);
            w.layers.add_camera(w.now, id(n), full(n), has_small.then(|| small(n)));
            let stream = |track, bytes| Stream { track, next: FrameId(0), key_wanted: true, bytes };
            let small = has_small.then(|| stream(small(n), 750));
            w.cameras.push(Camera { owner: id(n), full: stream(full(n), 3000), small, small_on: false });
        }
        w.drain();
        w
    }

    /// Lets time pass with everybody sending.
    fn run(&mut self, ms: u64) {
        for step in 0..ms / 40 {
            for n in 0..self.cameras.len() {
                self.frame(n, false);
                if self.cameras[n].small_on {
                    self.frame(n, true);
                }
            }
            self.now += Duration::from_millis(40);
            if step % 3 == 0 {
                for (to, rate) in self.carries.clone() {
                    self.layers.handle_budget(self.now, to, rate);
                }
            }
            if self.layers.poll_timeout().is_some_and(|t| t <= self.now) {
                self.layers.handle_timeout(self.now);
            }
            self.drain();
        }
    }

    /// The next frame of somebody, in three datagrams. Every second one is discardable.
    fn frame(&mut self, n: usize, is_small: bool) {
        let camera = &mut self.cameras[n];
        let stream = if is_small { camera.small.as_mut() } else { Some(&mut camera.full) };
        let stream = stream.expect("a small track");
        let key = std::mem::take(&mut stream.key_wanted);
        let discardable = !key && stream.next.0 % 2 == 1;
        let bytes = if discardable { stream.bytes * 2 / 3 } else { stream.bytes * 4 / 3 } / 3;
        let back = if discardable || key { 1 } else { 2 };
        let (track, frame) = (stream.track, stream.next);
        stream.next = frame.plus(1);
        for index in 0..3 {
            self.datagram(header(track, frame.0, index, if key { 0 } else { back }, discardable), bytes);
        }
    }

    fn datagram(&mut self, header: MediaHeader, bytes: usize) -> Vec<ParticipantId> {
        let begins = header.is_key() && header.index == 0;
        let mut to = Vec::new();
        self.layers.handle_media(self.now, &header, bytes, begins, |id| to.push(id));
        for id in &to {
            *self.bytes.entry((*id, header.track)).or_default() += bytes;
        }
        self.drain();
        to
    }

    fn drain(&mut self) {
        while let Some(output) = self.layers.poll_output() {
            let asked = match output {
                Output::Begin(_, track) | Output::KeyFrame(track) => Some(track),
                Output::Wanted(owner, track, wanted) => {
                    let camera = self.cameras.iter_mut().find(|c| c.owner == owner).expect("somebody");
                    if track != camera.full.track {
                        camera.small_on = wanted;
                    }
                    None
                }
                Output::Limit(owner, track, limit) => {
                    let camera = self.cameras.iter_mut().find(|c| c.owner == owner).expect("somebody");
                    assert_eq!(track, camera.full.track);
                    let kbps = limit.map_or(600, |l| l.kbps().min(600));
                    camera.full.bytes = kbps as usize * 1000 / 8 / 25;
                    None
                }
                Output::VideoWanted(..) => None,
            };
            let streams = self.cameras.iter_mut().flat_map(|c| c.small.iter_mut().chain([&mut c.full]));
            streams.filter(|s| Some(s.track) == asked).for_each(|s| s.key_wanted = true);
            self.outputs.push(output);
        }
    }

    /// Receiver 0 sees nobody but 1, whose full track goes to receiver 2 as well, so that nothing limits it.
    fn pair_and_a_witness(has_small: bool) -> Self {
        let mut w = Self::new(3, has_small);
        w.view(0, &[(2, 0)]);
        w
    }

    fn take(&mut self) -> Vec<Output> {
        self.bytes.clear();
        std::mem::take(&mut self.outputs)
    }

    /// In kb/s over so many milliseconds.
    fn rate(&self, to: usize, track: TrackId, ms: u64) -> u64 {
        self.bytes.get(&(id(to), track)).map_or(0, |bytes| *bytes as u64 * 8 / ms)
    }

    fn choice(&self, to: usize, from: usize) -> Choice {
        self.layers.cameras[&full(from)].routes[&id(to)].choice
    }

    fn view(&mut self, to: usize, heights: &[(usize, u32)]) {
        let view = heights.iter().map(|(n, height)| (id(*n), *height)).collect();
        self.layers.set_view(self.now, id(to), view);
        self.drain();
    }
}

const fn header(track: TrackId, frame: u32, index: u16, back: u16, discardable: bool) -> MediaHeader {
    MediaHeader {
        kind: MediaKind::Video,
        track,
        frame: FrameId(frame),
        index,
        count: 3,
        dependency: if back == 0 { Dependency::None } else { Dependency::Back(back) },
        discardable,
        temporal: discardable as u8,
        spatial: 0,
        captured: MediaTime::from_micros(0),
    }
}

#[test]
fn without_a_budget_everybody_gets_the_best() {
    let mut w = World::new(3, true);
    w.run(1000);
    w.take();
    w.run(4000);
    assert_eq!(w.take(), [], "nothing changes");
    w.run(1000);
    assert!((550..650).contains(&w.rate(0, full(1), 1000)), "{}", w.rate(0, full(1), 1000));
    assert_eq!(w.rate(0, small(1), 1000), 0);
    assert_eq!(w.rate(0, full(0), 1000), 0, "nobody gets their own");
}

#[test]
fn one_slow_receiver_changes_nothing_for_the_others() {
    let mut w = World::new(4, true);
    w.carries = (0..4).map(|n| (id(n), KBPS(3000))).collect();
    w.run(3000);
    let wanted: Vec<Output> = w.take();
    assert!(wanted.contains(&Output::VideoWanted(id(3), KBPS(500))), "before anything is measured");
    let last = wanted.iter().rev().find_map(|o| match o {
        Output::VideoWanted(to, rate) if *to == id(3) => Some(rate.kbps()),
        _ => None,
    });
    assert!(last.is_some_and(|kbps| (1700..1950).contains(&kbps)), "{last:?}");
    w.carries.insert(id(3), KBPS(300));
    w.run(3000);
    let outputs = w.take();
    let full_asked = |o: &&Output| matches!(o, Output::KeyFrame(t) if (0..4).any(|n| *t == full(n)));
    assert_eq!(outputs.iter().find(full_asked), None);
    let wanted = outputs.iter().filter(|o| matches!(o, Output::Wanted(_, _, true))).count();
    assert_eq!(wanted, 3, "its small pictures of all others");
    w.run(10_000);
    let sum: u64 = (0..3).map(|n| w.rate(3, small(n), 10_000) + w.rate(3, full(n), 10_000)).sum();
    assert!((200..=300).contains(&sum), "{sum} kb/s");
    assert!((0..3).all(|n| w.rate(3, full(n), 10_000) == 0));
    for (to, from) in [(0, 1), (1, 0), (2, 3)] {
        assert!((590..610).contains(&w.rate(to, full(from), 10_000)));
        assert_eq!(w.rate(to, small(from), 10_000), 0);
    }
    let outputs = w.take();
    assert!(!outputs.iter().any(|o| matches!(o, Output::KeyFrame(_))), "{outputs:?}");
}

#[test]
fn the_costliest_is_lowered_soon_and_raised_step_by_step() {
    let mut w = World::new(3, true);
    w.carries.insert(id(0), KBPS(2000));
    w.run(3000);
    w.carries.insert(id(0), KBPS(800));
    w.run(600);
    assert_eq!([w.choice(0, 1), w.choice(0, 2)], [Choice::Full; 2], "a dip is left to the hop");
    w.run(600);
    let mut choices = [w.choice(0, 1), w.choice(0, 2)];
    choices.sort();
    assert_eq!(choices, [Choice::Small, Choice::Full], "750 kb/s");
    w.carries.insert(id(0), KBPS(700));
    w.run(2000);
    assert!([w.choice(0, 1), w.choice(0, 2)].contains(&Choice::Full), "50 kb/s too much are borne");
    w.carries.insert(id(0), KBPS(600));
    w.run(1200);
    assert_eq!([w.choice(0, 1), w.choice(0, 2)], [Choice::Small; 2]);
    // 750 kb/s would be more than 85 %.
    w.carries.insert(id(0), KBPS(820));
    w.run(10_000);
    assert_eq!([w.choice(0, 1), w.choice(0, 2)], [Choice::Small; 2]);
    w.carries.insert(id(0), KBPS(950));
    w.run(400);
    let mut choices = [w.choice(0, 1), w.choice(0, 2)];
    choices.sort();
    assert_eq!(choices, [Choice::Small, Choice::Full], "one of them");
    // As much as the best takes is all that the hop is asked for.
    w.carries.insert(id(0), KBPS(1300));
    w.run(2400);
    assert!([w.choice(0, 1), w.choice(0, 2)].contains(&Choice::Small), "not before 3 s");
    w.run(800);
    assert_eq!([w.choice(0, 1), w.choice(0, 2)], [Choice::Full; 2]);
}

#[test]
fn discardable_frames_go_where_there_is_no_small_track_and_at_last_everything() {
    let mut w = World::pair_and_a_witness(false);
    w.carries.insert(id(0), KBPS(1000));
    w.run(3000);
    for (kbps, choice, rate) in [(450, Choice::ThinFull, 390..=410), (300, Choice::Nothing, 0..=0)] {
        w.carries.insert(id(0), KBPS(kbps));
        w.run(1200);
        assert_eq!(w.choice(0, 1), choice);
        w.take();
        w.run(1200);
        let got = w.rate(0, full(1), 1200);
        assert!(rate.contains(&got), "{got} at {kbps}");
    }
    w.carries.insert(id(0), KBPS(1000));
    w.run(9000);
    assert_eq!(w.choice(0, 1), Choice::Full, "and it comes back");
    w.take();
    w.run(1000);
    assert!(w.rate(0, full(1), 1000) > 550);
}

#[test]
fn who_flaps_waits_longer_each_time() {
    let mut w = World::pair_and_a_witness(true);
    w.carries.insert(id(0), KBPS(2000));
    w.run(3000);
    let mut waits = Vec::new();
    for _ in 0..6 {
        // The hop bears nothing more, whenever it is tried.
        w.carries.insert(id(0), KBPS(300));
        w.run(1200);
        assert_eq!(w.choice(0, 1), Choice::Small);
        w.carries.insert(id(0), KBPS(2000));
        let since = w.now;
        while w.choice(0, 1) == Choice::Small {
            w.run(40);
        }
        waits.push((w.now - since).as_secs());
        w.run(1000);
    }
    assert_eq!(waits, [2, 5, 11, 23, 29, 29]);
    w.run(6000);
    w.carries.insert(id(0), KBPS(300));
    w.run(1200);
    w.carries.insert(id(0), KBPS(2000));
    w.run(3200);
    assert_eq!(w.choice(0, 1), Choice::Full, "what lasted is forgotten");
}

#[test]
fn a_budget_that_is_all_that_was_asked_for_is_no_limit() {
    let mut w = World::pair_and_a_witness(true);
    let asked = |outputs: Vec<Output>| {
        let of = |o: Output| {
            if let Output::VideoWanted(to, rate) = o { (to == id(0)).then_some(rate) } else { None }
        };
        outputs.into_iter().rev().find_map(of)
    };
    // A hop that probes for what it is told and not for more.
    w.carries.insert(id(0), KBPS(500));
    w.run(1000);
    let first = asked(w.take()).expect("told");
    w.carries.insert(id(0), first);
    w.run(2000);
    // The encoder finds a better uplink; the hop needs a second to follow.
    w.cameras[1].full.bytes = 6000;
    w.run(1000);
    let more = asked(w.take()).expect("told of more");
    assert!(more.kbps() > 1000, "{more}");
    assert_eq!(w.choice(0, 1), Choice::Full);
    w.carries.insert(id(0), more);
    w.run(5000);
    assert_eq!(w.choice(0, 1), Choice::Full);
    // One that does not find it carries too little.
    w.cameras[1].full.bytes = 12_000;
    w.run(1500);
    assert_eq!(w.choice(0, 1), Choice::Full, "it may still find it");
    w.run(2000);
    assert_eq!(w.choice(0, 1), Choice::Small);
    w.take();
}

#[test]
fn a_switch_happens_where_a_key_frame_begins() {
    let mut w = World::new(2, true);
    w.run(400);
    w.view(0, &[(1, 200)]);
    assert_eq!(
        w.outputs.split_off(w.outputs.len() - 2),
        [Output::Wanted(id(1), small(1), true), Output::KeyFrame(small(1))]
    );
    let from_small =
        |w: &mut World, frame, index, back| w.datagram(header(small(1), frame, index, back, false), 100);
    let from_full = |w: &mut World, frame| w.datagram(header(full(1), frame, 0, 2, false), 100);
    assert_eq!(from_full(&mut w, 100), [id(0)], "until then the old track goes on");
    // The rest of a key frame of before: what was its beginning went by.
    assert_eq!(from_small(&mut w, 8, 1, 0), []);
    assert_eq!(from_small(&mut w, 10, 0, 2), []);
    assert_eq!(from_full(&mut w, 102), [id(0)]);
    assert_eq!(from_small(&mut w, 12, 0, 0), [id(0)]);
    assert_eq!(from_full(&mut w, 104), []);
    assert_eq!(from_small(&mut w, 10, 1, 2), [], "a straggler from before");
    assert_eq!(from_small(&mut w, 13, 0, 1), [id(0)]);
    assert_eq!(from_small(&mut w, 12, 2, 0), [id(0)], "its own fragments may be late");
}

#[test]
fn a_key_frame_that_does_not_come_is_asked_for_again_while_pictures_come() {
    let mut w = World::new(2, true);
    w.run(400);
    w.view(0, &[(1, 200)]);
    w.cameras[1].small_on = false;
    w.take();
    w.run(2000);
    assert_eq!(w.take(), [Output::KeyFrame(small(1)); 3]);
    assert_eq!(w.layers.poll_timeout(), None, "nothing is asked of a camera that is off");
    assert!(!w.layers.cares(w.now - Duration::from_secs(1), id(0), full(1)), "it is about to be replaced");
    assert!(w.layers.cares(w.now, id(0), full(1)), "or not");
    assert!(w.layers.cares(w.now, id(0), small(1)));
    assert!(!w.layers.cares(w.now, id(1), full(1)) && !w.layers.cares(w.now, id(0), TrackId(999)));
}

#[test]
fn the_view_decides_what_is_good_enough() {
    let mut w = World::new(3, true);
    w.run(1000);
    w.view(0, &[(1, 225), (2, 226)]);
    w.run(400);
    assert_eq!((w.choice(0, 1), w.choice(0, 2)), (Choice::Small, Choice::Full));
    w.view(0, &[(1, 0)]);
    w.run(400);
    w.take();
    w.run(1000);
    assert_eq!((w.rate(0, full(1), 1000), w.rate(0, small(1), 1000)), (0, 0), "not shown, not sent");
    assert!((590..=610).contains(&w.rate(0, full(2), 1000)));
    w.take();
    w.view(0, &[]);
    assert!(w.outputs.contains(&Output::Begin(id(0), full(1))), "{:?}", w.outputs);
    w.run(400);
    w.take();
    w.run(1000);
    assert!((590..=610).contains(&w.rate(0, full(1), 1000)), "at once, whatever the hold");
}

#[test]
fn a_small_track_is_wanted_for_a_while_after_its_last_receiver() {
    let mut w = World::new(3, true);
    w.run(400);
    w.take();
    w.view(0, &[(1, 100)]);
    w.view(2, &[(1, 100)]);
    let wanted = |outputs: Vec<Output>| -> Vec<bool> {
        let of = |o: Output| if let Output::Wanted(_, _, wanted) = o { Some(wanted) } else { None };
        outputs.into_iter().filter_map(of).collect()
    };
    assert_eq!(wanted(w.take()), [true]);
    w.run(400);
    w.layers.remove(w.now, id(2));
    w.view(0, &[]);
    w.run(4000);
    w.view(0, &[(1, 100)]);
    w.run(400);
    w.view(0, &[]);
    w.run(4800);
    assert_eq!(wanted(w.take()), [], "used again in time");
    w.run(400);
    assert_eq!(wanted(w.take()), [false]);
    assert_eq!(w.layers.poll_timeout(), None);
    w.view(0, &[(1, 100)]);
    assert_eq!(wanted(w.take()), [true]);
}

#[test]
fn who_leaves_leaves_nothing_behind() {
    let mut w = World::new(3, true);
    w.run(400);
    w.view(0, &[(1, 100), (2, 0)]);
    (0..3).for_each(|n| w.layers.remove(w.now, id(n)));
    assert!(w.layers.cameras.is_empty() && w.layers.smalls.is_empty() && w.layers.receivers.is_empty());
    assert_eq!(w.layers.poll_timeout(), None);
    w.layers.handle_budget(w.now, id(1), KBPS(100));
    w.layers.set_view(w.now, id(1), BTreeMap::new());
    w.drain();
}

#[test]
fn where_nobody_can_take_more_the_full_track_is_made_to_fit() {
    let mut w = World::new(2, true);
    w.carries.insert(id(0), KBPS(2000));
    w.run(3000);
    w.carries.insert(id(0), KBPS(400));
    w.run(3000);
    assert_eq!(w.choice(0, 1), Choice::Full, "made to fit");
    w.take();
    w.run(2000);
    let got = w.rate(0, full(1), 2000);
    assert!((350..=410).contains(&got), "{got} kb/s");
    w.carries.insert(id(0), KBPS(2000));
    w.run(6000);
    w.take();
    w.run(1000);
    assert!(w.rate(0, full(1), 1000) > 550, "step by step it comes back");
    w.carries.insert(id(0), KBPS(100));
    w.run(2000);
    assert!(w.choice(0, 1) < Choice::Full, "too little for the full track");
}

#[test]
fn a_full_track_that_nobody_receives_any_more_is_stopped_and_comes_back() {
    let mut w = World::new(2, true);
    w.view(0, &[(1, 100)]);
    w.run(1000);
    w.take();
    w.run(UNUSED_HOLD.as_millis() as u64);
    assert!(w.take().contains(&Output::Wanted(id(1), full(1), false)));
    w.view(0, &[(1, 500)]);
    let outputs = w.take();
    assert!(outputs.contains(&Output::Wanted(id(1), full(1), true)), "{outputs:?}");
    w.run(400);
    assert!(w.rate(0, full(1), 400) > 500);
}
