//! Times both encoders and the decoder on a y4m file (or the test card), one frame after the other.
//!
//! `cargo run --release --example codec_bench -- [test|FILE.y4m] [WxH] [KBPS] [THREADS] [FRAMES] [LAYERS]`
//!
//! Any raw 4:2:0 clip of a talking head suits; `ffmpeg -i CLIP -pix_fmt yuv420p FILE.y4m` makes one.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use vchat_client::clock::MediaClock;
use vchat_client::picture::Picture;
use vchat_client::video::encoder::{self, Encoding, FrameOptions, Kind, Settings};
use vchat_client::video::test_card::TestCard;
use vchat_client::video::{Decoder, scale, y4m};
use vchat_proto::id::FrameId;
use vchat_proto::units::{Bitrate, MediaTime};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let input = arguments.next().unwrap_or_else(|| "test".to_owned());
    let size = arguments.next().unwrap_or_else(|| "640x360".to_owned());
    let (width, height) = size.split_once('x').context("the size is WxH")?;
    let (width, height) = (width.parse()?, height.parse()?);
    let kbps = arguments.next().map_or(Ok(650), |n| n.parse())?;
    let threads = arguments.next().map_or(Ok(1), |n| n.parse())?;
    let frames = arguments.next().map_or(Ok(300), |n| n.parse())?;
    let layers = arguments.next().map_or(Ok(2), |n| n.parse())?;
    let pictures = load(&input, width, height, frames)?;
    println!(
        "{input} {width}x{height} at 30 fps, {kbps} kb/s, {threads} thread(s), {layers} layer(s), {} frames",
        pictures.len()
    );
    println!(
        "encoder  encode ms p50   p95   max   cpu  decode ms p50   p95   kb/s  first key B  key B  median B  PSNR-Y dB  delay"
    );
    for kind in [Kind::Aom, Kind::Rav1e] {
        let settings = Settings {
            encoding: Encoding::Full,
            width,
            height,
            fps: 30,
            bitrate: Bitrate::from_kbps(kbps),
            threads,
            layers,
        };
        run(kind, settings, &pictures)?;
    }
    display(&pictures[0]);
    Ok(())
}

fn load(input: &str, width: usize, height: usize, frames: usize) -> Result<Vec<Picture>> {
    if input == "test" {
        let card = TestCard::new(width, height, 30, MediaClock::new());
        return Ok((0..frames as u32).map(|i| card.paint(i, time(i as usize))).collect());
    }
    let mut reader = y4m::Reader::open(input)?;
    let mut pictures = Vec::new();
    while pictures.len() < frames {
        let Some(picture) = reader.read()? else { break };
        pictures.push(scale::scale_owned(picture, width, height));
    }
    anyhow::ensure!(!pictures.is_empty(), "{input} has no picture");
    Ok(pictures)
}

fn time(frame: usize) -> MediaTime {
    MediaTime::from_micros(frame as u64 * 1_000_000 / 30)
}

fn run(kind: Kind, settings: Settings, pictures: &[Picture]) -> Result<()> {
    let mut encoder = encoder::open(kind, settings, FrameId(0))?;
    let mut decoder = Decoder::new()?;
    let (mut encode, mut decode, mut sizes, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut error, mut delay, mut count, mut spent) = (0.0, 0, 0, Duration::ZERO);
    for (i, picture) in pictures.iter().enumerate() {
        // A key frame on demand in the middle.
        let options = FrameOptions { force_key: i == pictures.len() / 2, reference: None };
        let (start, busy) = (Instant::now(), cpu());
        let out = encoder.encode(picture, time(i), options)?;
        encode.push(start.elapsed());
        spent += cpu() - busy;
        for frame in out {
            let start = Instant::now();
            let shown = decoder.decode(&frame.data)?.context("no picture")?;
            decode.push(start.elapsed());
            delay = delay.max(i - count);
            error += squared_error(&shown, &pictures[count]);
            count += 1;
            if frame.is_key() {
                keys.push(frame.data.len());
            }
            sizes.push(frame.data.len());
        }
    }
    let bits: usize = sizes.iter().sum::<usize>() * 8;
    let kbps = bits as f64 / 1000.0 / (count as f64 / 30.0);
    let samples = (count * settings.width * settings.height) as f64;
    sizes.sort_unstable();
    println!(
        "{:<8} {:>13.1} {:>5.1} {:>5.1} {:>5.1} {:>14.2} {:>5.2} {:>6.0} {:>12} {:>6} {:>9} {:>10.2}  {delay} frames",
        kind.to_string(),
        percentile(&mut encode, 50),
        percentile(&mut encode, 95),
        percentile(&mut encode, 100),
        spent.as_secs_f64() * 1000.0 / pictures.len() as f64,
        percentile(&mut decode, 50),
        percentile(&mut decode, 95),
        kbps,
        keys[0],
        keys.last().unwrap_or(&0),
        sizes[sizes.len() / 2],
        10.0 * (255.0 * 255.0 * samples / error.max(1.0)).log10(),
    );
    Ok(())
}

/// Processor time of all threads: unlike the clock on the wall, comparable on a machine that has more to do.
fn cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// How long a picture takes to a window of 1280x720, and to half its size.
fn display(picture: &Picture) {
    let mut pixels = vec![0; 1280 * 720];
    for (width, height) in
        [(1280, 720), (picture.width(), picture.height()), (picture.width() / 2, picture.height() / 2)]
    {
        let mut times = Vec::new();
        for _ in 0..50 {
            let start = Instant::now();
            scale::to_xrgb(picture, &mut pixels, 1280, width.min(1280), height.min(720));
            times.push(start.elapsed());
        }
        let ms = percentile(&mut times, 50);
        println!("to XRGB {}x{} -> {width}x{height}: {ms:.2} ms", picture.width(), picture.height());
    }
    let mut times = Vec::new();
    let card = TestCard::new(picture.width(), picture.height(), 30, MediaClock::new());
    for i in 0..50 {
        let start = Instant::now();
        std::hint::black_box(card.paint(i, time(i as usize)));
        times.push(start.elapsed());
    }
    println!("test card: {:.2} ms", percentile(&mut times, 50));
}

fn squared_error(a: &Picture, b: &Picture) -> f64 {
    let pairs = a.planes()[0].iter().zip(&b.planes()[0]);
    pairs.map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum::<u64>() as f64
}

/// In milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1000.0
}
