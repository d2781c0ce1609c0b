//! The codecs and the stamp together: what is painted, encoded, decoded and scaled can be read and looks alike.

mod layers;

use std::time::Duration;

use vchat_proto::id::FrameId;
use vchat_proto::units::{Bitrate, MediaTime};

use super::barcode::{self, Stamp};
use super::encoder::{self, EncodedFrame, Encoder, Encoding, FrameOptions, Kind, Settings};
use super::test_card::TestCard;
use super::{Decoder, scale};
use crate::clock::MediaClock;
use crate::picture::Picture;

const FPS: u32 = 30;

fn settings(width: usize, height: usize, kbps: u64) -> Settings {
    Settings {
        encoding: Encoding::Full,
        width,
        height,
        fps: FPS,
        bitrate: Bitrate::from_kbps(kbps),
        threads: 1,
        layers: 2,
    }
}

fn open(kind: Kind, settings: Settings) -> Box<dyn Encoder> {
    encoder::open(kind, settings, FrameId(0)).expect("an encoder")
}

fn time(frame: u32) -> MediaTime {
    MediaTime::from_micros(1_000_000) + Duration::from_secs(1) * frame / FPS
}

/// The test card's pictures, stamped with [`time`].
fn card(width: usize, height: usize) -> impl Fn(u32) -> Picture {
    let card = TestCard::new(width, height, FPS, MediaClock::new());
    move |frame| card.paint(frame, time(frame))
}

/// Pictures that no encoder gets small: a texture that moves, and camera noise.
fn busy(width: usize, height: usize) -> impl Fn(u32) -> Picture {
    move |frame| {
        let mut picture = Picture::black(width, height);
        let t = frame as f32;
        let mut noise = u64::from(frame) + 1;
        for (i, luma) in picture.planes_mut()[0].iter_mut().enumerate() {
            let (x, y) = ((i % width) as f32, (i / width) as f32);
            let wave = ((x + 3.0 * t) / 5.0).sin() * ((y - 2.0 * t) / 7.0).cos();
            *luma = (128.0 + 60.0 * wave) as u8 ^ (xorshift(&mut noise) & 7) as u8;
        }
        picture
    }
}

/// Marsaglia's generator: the same numbers in every run.
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Encodes pictures `range`; those in `keys` as key frames.
fn encode(
    encoder: &mut dyn Encoder,
    paint: &impl Fn(u32) -> Picture,
    range: std::ops::Range<u32>,
    keys: &[u32],
) -> Vec<EncodedFrame> {
    let options = |i| FrameOptions { force_key: keys.contains(&i), reference: None };
    range.flat_map(|i| encoder.encode(&paint(i), time(i), options(i)).expect("encodes")).collect()
}

fn decode(decoder: &mut Decoder, frame: &EncodedFrame) -> Picture {
    decoder.decode(&frame.data).expect("decodes").expect("a picture")
}

/// Peak signal to noise ratio of luma in dB.
fn psnr(a: &Picture, b: &Picture) -> f64 {
    let (a, b) = (&a.planes()[0], &b.planes()[0]);
    assert_eq!(a.len(), b.len());
    let error: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    10.0 * (255.0 * 255.0 * a.len() as f64 / (error as f64).max(1.0)).log10()
}

fn kbps(frames: &[EncodedFrame]) -> f64 {
    let bytes: usize = frames.iter().map(|f| f.data.len()).sum();
    bytes as f64 * 8.0 / 1000.0 / (frames.len() as f64 / f64::from(FPS))
}

fn index_of(frame: &EncodedFrame) -> u32 {
    (0..1000).find(|i| time(*i) == frame.captured).expect("the capture time of a picture")
}

fn pictures_survive(kind: Kind, (width, height): (usize, usize), min_frames: usize) {
    let paint = card(width, height);
    let mut encoder = open(kind, settings(width, height, 600));
    let frames = encode(&mut *encoder, &paint, 0..20, &[]);
    assert!(frames.len() >= min_frames, "{} frames", frames.len());
    assert!(frames[0].is_key() && frames[1..].iter().all(|f| !f.is_key()), "only the first is a key frame");
    let mut decoder = Decoder::new().expect("a decoder");
    for (i, frame) in frames.iter().enumerate() {
        assert_eq!(index_of(frame), i as u32, "in order, none missing");
        let quality = psnr(&decode(&mut decoder, frame), &paint(i as u32));
        assert!(quality > 30.0, "{kind} {width}x{height} frame {i}: {quality:.1} dB");
    }
}

#[test]
fn pictures_survive_aom() {
    pictures_survive(Kind::Aom, (640, 360), 20);
    pictures_survive(Kind::Aom, (322, 182), 20);
    pictures_survive(Kind::Aom, (321, 181), 20);
}

#[test]
fn pictures_survive_rav1e() {
    pictures_survive(Kind::Rav1e, (320, 180), 16);
    pictures_survive(Kind::Rav1e, (321, 181), 16);
}

fn a_forced_key_frame_starts_a_new_decoder(kind: Kind) {
    let paint = card(320, 180);
    let mut encoder = open(kind, settings(320, 180, 400));
    let frames = encode(&mut *encoder, &paint, 0..20, &[8]);
    let keys: Vec<u32> = frames.iter().filter(|f| f.is_key()).map(index_of).collect();
    assert_eq!(keys, [0, 8]);
    let mut decoder = Decoder::new().expect("a decoder");
    for frame in &frames[8..] {
        let quality = psnr(&decode(&mut decoder, frame), &paint(index_of(frame)));
        assert!(quality > 28.0, "{quality:.1} dB");
    }
}

#[test]
fn a_forced_key_frame_starts_a_new_decoder_aom() {
    a_forced_key_frame_starts_a_new_decoder(Kind::Aom);
}

#[test]
fn a_forced_key_frame_starts_a_new_decoder_rav1e() {
    a_forced_key_frame_starts_a_new_decoder(Kind::Rav1e);
}

#[test]
fn aom_follows_the_bitrate_without_a_key_frame() {
    let paint = busy(640, 360);
    let mut encoder = open(Kind::Aom, settings(640, 360, 800));
    let mut from = 0;
    for kbps_wanted in [800_u64, 400, 1000] {
        encoder.set_rate(Bitrate::from_kbps(kbps_wanted), FPS).expect("takes the rate");
        // A second to settle, then three to measure.
        let settle = encode(&mut *encoder, &paint, from..from + 30, &[]);
        let frames = encode(&mut *encoder, &paint, from + 30..from + 120, &[]);
        let reached = kbps(&frames);
        let wanted = kbps_wanted as f64;
        assert!((reached / wanted - 1.0).abs() < 0.2, "{reached:.0} kb/s instead of {wanted}");
        assert!(frames.iter().chain(settle.iter().skip(1)).all(|f| !f.is_key()));
        from += 120;
    }
}

#[test]
fn rav1e_keeps_its_bitrate() {
    let paint = busy(320, 180);
    let mut encoder = open(Kind::Rav1e, settings(320, 180, 200));
    let frames = encode(&mut *encoder, &paint, 0..90, &[]);
    let reached = kbps(&frames[30..]);
    assert!((reached / 200.0 - 1.0).abs() < 0.2, "{reached:.0} kb/s instead of 200");
}

#[test]
fn rav1e_changes_its_bitrate_with_a_key_frame() {
    let paint = card(320, 180);
    let mut encoder = open(Kind::Rav1e, settings(320, 180, 250));
    let mut frames = encode(&mut *encoder, &paint, 0..40, &[]);
    encoder.set_rate(Bitrate::from_kbps(240), FPS).expect("takes the rate");
    frames.extend(encode(&mut *encoder, &paint, 40..50, &[]));
    encoder.set_rate(Bitrate::from_kbps(120), FPS).expect("takes the rate");
    frames.extend(encode(&mut *encoder, &paint, 50..120, &[]));

    let order: Vec<u32> = frames.iter().map(index_of).collect();
    assert_eq!(order, (0..116).collect::<Vec<_>>(), "nothing lost at the change");
    let keys: Vec<u32> = frames.iter().filter(|f| f.is_key()).map(index_of).collect();
    assert_eq!(keys, [0, 50], "one key frame, for the large change");
    let (before, after) = (kbps(&frames[10..50]), kbps(&frames[80..]));
    assert!(after < 120.0 * 1.2 && after < before, "{before:.0} kb/s, then {after:.0}");
    let mut decoder = Decoder::new().expect("a decoder");
    for frame in &frames {
        // Right after a key frame that took all the bits rav1e repeats a picture; it never shows a wrong one.
        let (picture, index) = (decode(&mut decoder, frame), index_of(frame));
        let recent = (index.saturating_sub(4)..=index).map(|i| psnr(&picture, &paint(i)));
        let quality = recent.fold(0.0, f64::max);
        assert!(quality > 22.0, "{index}: {quality:.1} dB");
    }
}

#[test]
fn encoders_refuse_what_they_cannot_do() {
    for kind in [Kind::Aom, Kind::Rav1e] {
        assert!(encoder::open(kind, settings(8, 8, 400), FrameId(0)).is_err());
        assert!(encoder::open(kind, settings(320, 180, 0), FrameId(0)).is_err());
        assert!(encoder::open(kind, Settings { fps: 0, ..settings(320, 180, 400) }, FrameId(0)).is_err());
        assert!(encoder::open(kind, Settings { threads: 0, ..settings(320, 180, 400) }, FrameId(0)).is_err());
        let mut encoder = open(kind, settings(320, 180, 400));
        let error = encoder
            .encode(&Picture::black(322, 180), time(0), FrameOptions::default())
            .expect_err("wrong size");
        assert!(error.to_string().contains("322x180"), "{error}");
        assert!(encoder.set_rate(Bitrate::from_bps(0), FPS).is_err());
        encoder.encode(&Picture::black(320, 180), time(0), FrameOptions::default()).expect("still works");
    }
}

#[test]
fn the_decoder_survives_damage_and_goes_on_at_the_next_key_frame() {
    let paint = card(320, 180);
    let mut encoder = open(Kind::Aom, settings(320, 180, 300));
    let frames = encode(&mut *encoder, &paint, 0..12, &[6]);
    let mut decoder = Decoder::new().expect("a decoder");
    let fresh = |decoder: &mut Decoder| {
        assert!(decoder.decode(&frames[7].data).is_err(), "no picture before a key frame");
        assert!(psnr(&decode(decoder, &frames[6]), &paint(6)) > 28.0);
        assert!(psnr(&decode(decoder, &frames[7]), &paint(7)) > 28.0);
    };
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = || xorshift(&mut random);
    assert!(decoder.decode(&[]).is_err());
    fresh(&mut decoder);
    for length in [1, 2, 3, 10, 100, 1000, 10_000] {
        let garbage: Vec<u8> = (0..length).map(|_| noise() as u8).collect();
        if decoder.decode(&garbage).is_err() {
            fresh(&mut decoder);
        }
    }
    for cut in (1..frames[0].data.len()).step_by(37) {
        let mut decoder = Decoder::new().expect("a decoder");
        // A cut between two units of a frame is not always an error, but it never ends in anything else.
        if decoder.decode(&frames[0].data[..cut]).is_err() {
            fresh(&mut decoder);
        }
    }
    for _ in 0..100 {
        let mut damaged = frames[0].data.to_vec();
        let at = noise() as usize % damaged.len();
        damaged[at] ^= 1 << (noise() % 8);
        if decoder.decode(&damaged).is_err() {
            fresh(&mut decoder);
        }
    }
}

#[test]
fn the_decoder_refuses_oversized_pictures_and_follows_a_change_of_size() {
    let mut decoder = Decoder::new().expect("a decoder");
    let mut huge = open(Kind::Aom, settings(4096, 4096, 4000));
    let frame = huge
        .encode(&Picture::black(4096, 4096), time(0), FrameOptions::default())
        .expect("encodes")
        .remove(0);
    let error = decoder.decode(&frame.data).expect_err("too large");
    assert!(error.to_string().contains("ask for a key frame"), "{error}");
    for (width, height) in [(320, 180), (640, 360), (160, 90)] {
        let paint = card(width, height);
        let mut encoder = open(Kind::Aom, settings(width, height, 500));
        let picture = decode(&mut decoder, &encode(&mut *encoder, &paint, 0..1, &[])[0]);
        assert_eq!((picture.width(), picture.height()), (width, height));
    }
}

fn the_stamp_survives(kind: Kind) {
    let paint = card(640, 360);
    let mut encoder = open(kind, settings(640, 360, 300));
    let frames = encode(&mut *encoder, &paint, 0..40, &[20]);
    let mut decoder = Decoder::new().expect("a decoder");
    for frame in &frames {
        let picture = decode(&mut decoder, frame);
        let stamp = Stamp { frame: index_of(frame), captured: frame.captured };
        assert_eq!(barcode::read(&picture), Some(stamp));
        for (width, height) in [(320, 180), (960, 540), (1280, 720), (517, 291)] {
            assert_eq!(
                barcode::read(&scale::scale(&picture, width, height)),
                Some(stamp),
                "{width}x{height}"
            );
        }
        let mut pixels = vec![0; 800 * 450];
        scale::to_xrgb(&picture, &mut pixels, 800, 800, 450);
        let green: Vec<u8> = pixels.iter().map(|p| (p >> 8) as u8).collect();
        assert_eq!(barcode::read_luma(&green, 800, 800, 450), Some(stamp), "from a screenshot");
    }
}

#[test]
fn the_stamp_survives_aom() {
    the_stamp_survives(Kind::Aom);
}

#[test]
fn the_stamp_survives_rav1e() {
    the_stamp_survives(Kind::Rav1e);
}
