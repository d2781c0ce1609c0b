//! Opens a camera, takes some pictures, says how they came and keeps the last one.
//!
//! `cargo run --release --example camera -- SPEC [COUNT] [WxH] [FPS] [OUT.y4m|OUT.ppm]`; SPEC as for `--camera`; without
//! one, lists the cameras.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vchat_client::clock::MediaClock;
use vchat_client::picture::Picture;
use vchat_client::video::source::{self, SourceError};
use vchat_client::video::{CameraSpec, barcode, camera, scale, y4m};

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let Some(spec) = arguments.next() else {
        for camera in camera::list() {
            println!("{} {} ({})", camera.index, camera.name, camera.formats.join(", "));
        }
        return Ok(());
    };
    let spec: CameraSpec = spec.parse()?;
    let (mut count, mut size, mut fps, mut out) = (60, None, None, None);
    let mut numbers = 0;
    for argument in arguments {
        if argument.contains('.') {
            out = Some(argument);
        } else if let Some((w, h)) = argument.split_once('x') {
            size = Some((w.parse()?, h.parse()?));
        } else if numbers == 0 {
            (count, numbers) = (argument.parse()?, 1);
        } else {
            fps = Some(argument.parse()?);
        }
    }

    let clock = MediaClock::new();
    let opening = Instant::now();
    let Some(mut opened) = source::open(&spec, size, fps, clock)? else { bail!("no camera") };
    println!("{}, opened in {} ms", opened.source.describe(), opening.elapsed().as_millis());
    let (mut lost, mut ages, mut times, mut last) = (0, Vec::new(), Vec::new(), None);
    while times.len() < count {
        match opened.source.next_frame() {
            Ok(got) => {
                ages.push(clock.now().micros_since(got.captured));
                times.push((got.frame, got.captured));
                last = Some(got.picture);
            }
            Err(error @ SourceError::Lost { .. }) => {
                lost += 1;
                println!("{error}");
            }
            Err(error) => {
                println!("after {} pictures: {error}", times.len());
                break;
            }
        }
    }
    let last = last.context("no picture came")?;
    let (first, end) = (times[0], times[times.len() - 1]);
    let took = end.1.micros_since(first.1) as f64 / 1e6;
    ages.sort_unstable();
    println!(
        "{} pictures of {}x{}, {:.2} fps by capture times, {lost} lost, {} skipped, age p50 {} us, max {} us",
        times.len(),
        last.width(),
        last.height(),
        (times.len() - 1) as f64 / took.max(1e-6),
        (end.0 - first.0) as usize + 1 - times.len(),
        ages[ages.len() / 2],
        ages[ages.len() - 1]
    );
    println!("stamp of the last: {:?}", barcode::read(&last));
    let luma = &last.planes()[0];
    println!("mean luma {}", luma.iter().map(|y| u64::from(*y)).sum::<u64>() / luma.len() as u64);
    if let Some(path) = out {
        save(&path, &last).with_context(|| format!("cannot write {path}"))?;
        println!("wrote {path}");
    }

    let closing = Instant::now();
    drop(opened);
    anyhow::ensure!(closing.elapsed() < Duration::from_secs(1), "closing took {:?}", closing.elapsed());
    let again = source::open(&spec, size, fps, clock).context("opening it again at once")?;
    println!("closed and opened again: {}", again.is_some());
    Ok(())
}

fn save(path: &str, picture: &Picture) -> Result<()> {
    let (width, height) = (picture.width(), picture.height());
    if path.ends_with(".y4m") {
        let mut writer = y4m::Writer::create(path, width, height, 30)?;
        writer.write(picture)?;
        return Ok(writer.flush()?);
    }
    let mut pixels = vec![0; width * height];
    scale::to_xrgb(picture, &mut pixels, width, width, height);
    let mut ppm = format!("P6 {width} {height} 255\n").into_bytes();
    ppm.extend(pixels.iter().flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8]));
    Ok(std::fs::write(path, ppm)?)
}
