//! Temporal layers and references: what a frame says it depends on is all that its decoding needs.

use vchat_proto::wire::datagram::Dependency;

use super::*;

/// A receiver that decodes a frame when it has what the frame says it needs.
struct Receiver {
    decoder: Decoder,
    has: Vec<FrameId>,
}

impl Receiver {
    fn new() -> Self {
        Self { decoder: Decoder::new().expect("a decoder"), has: Vec::new() }
    }

    fn take(&mut self, frame: &EncodedFrame) -> Option<Picture> {
        let ready = match frame.dependency {
            Dependency::None => true,
            Dependency::Back(n) => self.has.contains(&frame.number.minus(u32::from(n))),
        };
        ready.then(|| {
            self.has.push(frame.number);
            decode(&mut self.decoder, frame)
        })
    }
}

fn with_layers(layers: u8, kbps: u64) -> Box<dyn Encoder> {
    open(Kind::Aom, Settings { layers, ..settings(320, 180, kbps) })
}

fn refresh(reference: u32) -> FrameOptions {
    FrameOptions { force_key: false, reference: Some(FrameId(reference)) }
}

fn one(encoder: &mut dyn Encoder, picture: &Picture, i: u32, options: FrameOptions) -> EncodedFrame {
    encoder.encode(picture, time(i), options).expect("encodes").remove(0)
}

#[test]
fn layers_come_in_their_pattern_and_name_the_frame_below_them() {
    let layers_of = |layers: u8| {
        let frames = encode(&mut *with_layers(layers, 300), &card(320, 180), 0..9, &[]);
        assert!(frames.iter().enumerate().all(|(i, f)| f.number == FrameId(i as u32)));
        let back = |f: &EncodedFrame| match f.dependency {
            Dependency::None => 0,
            Dependency::Back(n) => n,
        };
        frames.iter().map(|f| (f.temporal, back(f), f.discardable)).collect::<Vec<_>>()
    };
    let base = |back| (0, back, false);
    let top = |layer, back| (layer, back, true);
    assert_eq!(layers_of(1)[..4], [base(0), base(1), base(1), base(1)]);
    assert_eq!(layers_of(2)[..5], [base(0), top(1, 1), base(2), top(1, 1), base(2)]);
    let three = [base(0), top(2, 1), (1, 2, false), top(2, 1), base(4), top(2, 1), (1, 2, false)];
    assert_eq!(layers_of(3)[..7], three);
}

#[test]
fn without_the_upper_layers_the_pictures_are_the_same() {
    let paint = busy(320, 180);
    for layers in [2, 3] {
        let frames = encode(&mut *with_layers(layers, 400), &paint, 0..60, &[30]);
        for kept in 0..layers {
            let (mut all, mut some) = (Receiver::new(), Receiver::new());
            for frame in &frames {
                let whole = all.take(frame).expect("nothing was lost");
                if frame.temporal <= kept {
                    assert!(some.take(frame) == Some(whole), "{layers} layers, up to {kept}: {frame:?}");
                }
            }
        }
    }
}

#[test]
fn after_a_refresh_decoding_goes_on_from_the_reference() {
    let paint = busy(320, 180);
    for layers in [1, 2, 3] {
        for (at, reference) in [(20, 16), (21, 16), (20, 13), (24, 6), (22, 19), (23, 22)] {
            let mut encoder = with_layers(layers, 400);
            let mut frames = encode(&mut *encoder, &paint, 0..at, &[]);
            frames.push(one(&mut *encoder, &paint(at), at, refresh(reference)));
            frames.extend(encode(&mut *encoder, &paint, at + 1..at + 40, &[]));
            let refreshed = &frames[at as usize];
            assert!(!refreshed.is_key() && refreshed.temporal == 0 && !refreshed.discardable);
            let (mut all, mut lossy) = (Receiver::new(), Receiver::new());
            for (i, frame) in frames.iter().enumerate() {
                let whole = all.take(frame).expect("nothing was lost");
                if i as u32 <= reference || i as u32 >= at {
                    assert!(
                        lossy.take(frame) == Some(whole),
                        "{layers} layers, {reference} to {at}: frame {i}"
                    );
                }
            }
        }
    }
}

/// The camera's picture changes and then stands still: an encoder that looks for changes in what the camera shows finds
/// none, but the frame it predicts from shows something else.
#[test]
fn a_refresh_does_not_bring_back_what_was_before() {
    for (width, height) in [(320, 180), (640, 360), (1280, 720)] {
        let (card, busy) = (card(width, height), busy(width, height));
        for (before, after) in [(card(0), busy(1)), (busy(1), card(0)), (card(0), card(40))] {
            let mut encoder = open(Kind::Aom, settings(width, height, 2000));
            let mut receiver = Receiver::new();
            let mut show = |i: u32, picture: &Picture, options: FrameOptions| {
                let frame = one(&mut *encoder, picture, i, options);
                assert_eq!(frame.is_key(), i == 0);
                psnr(&receiver.take(&frame).expect("nothing was lost"), picture)
            };
            for i in 0..10 {
                show(i, &before, FrameOptions::default());
            }
            let settled = (10..30).map(|i| show(i, &after, FrameOptions::default())).fold(0.0, f64::max);
            let refreshed = show(30, &after, refresh(8));
            let later = (31..50).map(|i| show(i, &after, FrameOptions::default())).fold(f64::MAX, f64::min);
            let least = settled - 6.0;
            assert!(
                refreshed > least && later > least,
                "{width}: {settled:.1} dB, then {refreshed:.1}, {later:.1}"
            );
        }
    }
}

#[test]
fn a_reference_that_is_not_kept_gives_a_key_frame() {
    let paint = card(320, 180);
    let mut encoder = with_layers(2, 300);
    encode(&mut *encoder, &paint, 0..100, &[50]);
    for (i, reference, key) in [(100, 49, true), (101, 100, false), (102, 100, false), (103, 99, true)] {
        assert_eq!(
            one(&mut *encoder, &paint(i), i, refresh(reference)).is_key(),
            key,
            "{i} from {reference}"
        );
    }
}

#[test]
fn older_frames_are_kept_sparsely() {
    let paint = card(320, 180);
    let back = |reference: u32| {
        let mut encoder = with_layers(2, 300);
        encode(&mut *encoder, &paint, 0..100, &[]);
        match one(&mut *encoder, &paint(100), 100, refresh(reference)).dependency {
            Dependency::None => 0,
            Dependency::Back(n) => n,
        }
    };
    assert_eq!([99, 98, 97, 92, 90].map(back), [2, 2, 4, 8, 10], "the last ones each");
    for old in [85, 75, 70] {
        let n = u32::from(back(old));
        assert!((100 - old..100 - old + 17).contains(&n), "{old}: {n} frames back");
    }
    assert_eq!(back(40), 0, "too old");
}

/// Whatever is lost, asked for and changed: a receiver that keeps to the dependencies sees what the encoder saw.
#[test]
fn any_receiver_that_keeps_to_the_dependencies_sees_the_same() {
    let paint = busy(160, 96);
    let pictures: Vec<Picture> = (0..40).map(&paint).collect();
    for layers in [1, 2, 3] {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64 + u64::from(layers);
        let mut chance = |of: u64| xorshift(&mut random).is_multiple_of(of);
        let mut encoder = open(Kind::Aom, Settings { layers, ..settings(160, 96, 200) });
        let mut whole = Receiver::new();
        let mut lossy = [Receiver::new(), Receiver::new(), Receiver::new()];
        let (mut shown, mut keys) = (0, 0);
        for i in 0..600_u32 {
            let mut options = FrameOptions { force_key: i > 0 && chance(150), reference: None };
            let newest = lossy.iter().map(|r| r.has.last().copied().unwrap_or(FrameId(0)));
            let oldest = newest.min_by_key(|id| id.since(FrameId(0)));
            options.reference = oldest.filter(|_| i > 0 && chance(8));
            if chance(60) {
                encoder
                    .set_rate(Bitrate::from_kbps(100 + u64::from(i) % 200), FPS >> (i % 2))
                    .expect("takes the rate");
            }
            let frame = one(&mut *encoder, &pictures[i as usize % 40], i, options);
            keys += u32::from(frame.is_key());
            let right = whole.take(&frame).expect("nothing was lost");
            for receiver in &mut lossy {
                if !chance(10)
                    && let Some(picture) = receiver.take(&frame)
                {
                    assert!(picture == right, "{layers} layers, frame {i}");
                    shown += 1;
                }
            }
        }
        assert!(shown > 900 && keys < 40, "{layers} layers: {shown} pictures, {keys} key frames");
    }
}

#[test]
fn half_the_frame_rate_leaves_base_frames_only_at_the_same_bitrate() {
    let paint = busy(640, 360);
    let mut encoder = open(Kind::Aom, settings(640, 360, 400));
    encode(&mut *encoder, &paint, 0..60, &[]);
    encoder.set_rate(Bitrate::from_kbps(400), FPS / 2).expect("takes the rate");
    let mut frames = Vec::new();
    for i in (60..180).step_by(2) {
        frames.push(one(&mut *encoder, &paint(i), i, FrameOptions::default()));
    }
    assert!(frames.iter().all(|f| f.temporal == 0 && !f.discardable && !f.is_key()));
    let reached = kbps(&frames[15..]) / 2.0;
    assert!((reached / 400.0 - 1.0).abs() < 0.1, "{reached:.0} kb/s");
    encoder.set_rate(Bitrate::from_kbps(400), FPS).expect("takes the rate");
    let frames = encode(&mut *encoder, &paint, 180..270, &[]);
    assert!(frames.iter().any(|f| f.discardable) && frames.iter().all(|f| !f.is_key()));
    let reached = kbps(&frames[30..]);
    assert!((reached / 400.0 - 1.0).abs() < 0.1, "{reached:.0} kb/s");
}

#[test]
fn every_second_keeps_to_the_bitrate() {
    let paint = busy(640, 360);
    for (layers, wanted, tolerance) in [(1, 300, 0.1), (2, 300, 0.1), (2, 650, 0.1), (3, 300, 0.2)] {
        let mut encoder = open(Kind::Aom, Settings { layers, ..settings(640, 360, wanted) });
        let frames = encode(&mut *encoder, &paint, 0..240, &[]);
        for second in frames.chunks(FPS as usize).skip(3) {
            let reached = kbps(second) / wanted as f64;
            assert!((reached - 1.0).abs() < tolerance, "{layers} layers: {reached:.2} of {wanted} kb/s");
        }
    }
}

#[test]
fn rav1e_answers_a_reference_with_a_key_frame() {
    let paint = card(320, 180);
    let mut encoder = open(Kind::Rav1e, settings(320, 180, 300));
    let mut frames = encode(&mut *encoder, &paint, 0..10, &[]);
    frames.extend(encoder.encode(&paint(10), time(10), refresh(5)).expect("encodes"));
    frames.extend(encode(&mut *encoder, &paint, 11..20, &[]));
    let keys: Vec<u32> = frames.iter().filter(|f| f.is_key()).map(index_of).collect();
    assert_eq!(keys, [0, 10]);
    assert!(frames.iter().enumerate().all(|(i, f)| f.number == FrameId(i as u32) && !f.discardable));
}
