//! Real windows on displays of their own, watched and used as a person would.

use std::time::{Duration, Instant};

use anyhow::bail;
use vchat_client::clock::MediaClock;
use vchat_client::video::barcode::{self, Stamp};
use vchat_tests::harness::{Call, DEADLINE, Image, Process, Window, Xvfb, keys};

#[test]
fn two_windows_show_the_other_side_and_obey_the_keyboard() -> anyhow::Result<()> {
    let call = Call::start()?;
    let (anns, bobs) = (Xvfb::start(1280, 800)?, Xvfb::start(1280, 800)?);
    let start = |name, display: &Xvfb, options| {
        Process::spawn(call.client(name, options)?.env("DISPLAY", display.display()))
    };
    let mut ann = start("ann", &anns, "--display window --camera test --mic tone")?;
    let mut bob = start("bob", &bobs, "--display window --camera test --fps 15")?;
    let mut eve = call.join("eve", "")?;
    let anns_window = anns.wait_for_window("lobby")?;
    let bobs_window = bobs.wait_for_window("lobby")?;
    for process in [&mut ann, &mut bob] {
        process.wait_for_event_named("first-frame")?;
    }

    // One's own picture is a mirror, so the one that can be read is the other's: it is of now, and it moves.
    for (display, window) in [(&anns, &anns_window), (&bobs, &bobs_window)] {
        let first = wait_for_picture(display, window, None)?;
        let clock = MediaClock::new().now();
        assert!(clock.micros_since(first.captured) < 1_000_000 + SLOW_US, "{first:?} at {clock:?}");
        wait_for_picture(display, window, Some(first))?;
    }

    // What Ann types in her window appears with Eve, and in Bob's window.
    let before = messages(&bobs, &bobs_window)?;
    anns.focus(&anns_window)?;
    anns.press(&[keys::RETURN])?;
    anns.type_text("Hi all?")?;
    anns.press(&[keys::RETURN])?;
    eve.wait_for_event("Ann's line", |e| {
        e["event"] == "chat" && e["text"] == "Hi all?" && e["name"] == "ann"
    })?;
    wait_until("Bob's window shows the line", || Ok(messages(&bobs, &bobs_window)? != before))?;

    // M mutes, and unmutes. Escape leaves the line that is being written.
    anns.press(&[keys::ESCAPE])?;
    let sound = |process: &mut Process, on: bool| -> anyhow::Result<()> {
        process.forget_lines();
        let of_ann = |e: &serde_json::Value| {
            let peers = e["peers"].as_array()?;
            peers.iter().find(|p| p["name"] == "ann")?["audio"]["kbps"].as_u64()
        };
        let what = if on { "sound of Ann" } else { "silence of Ann" };
        process.wait_for_event(what, |e| of_ann(e).is_some_and(|kbps| (kbps > 5) == on))?;
        Ok(())
    };
    sound(&mut eve, true)?;
    anns.type_text("m")?;
    sound(&mut eve, false)?;
    anns.type_text("m")?;
    sound(&mut eve, true)?;

    // A window of another size goes on showing pictures.
    bobs.resize(&bobs_window, 700, 500)?;
    wait_until("the new size", || {
        let image = bobs.screenshot_of(&bobs_window)?;
        Ok((image.width, image.height) == (700, 500) && stamps(&image).len() == 1)
    })?;

    anns.type_text("q")?;
    assert_eq!(ann.wait()?.code(), Some(0), "Q leaves");
    bob.wait_for_event("Ann's end", |e| e["event"] == "peer-left" && e["name"] == "ann")?;
    assert!(bob.terminate()?.success() && eve.terminate()?.success());
    Ok(())
}

#[test]
fn chat_is_scrolled_back_to_its_beginning() -> anyhow::Result<()> {
    let call = Call::start()?;
    call.write_lines(LINES)?;
    let anns = Xvfb::start(1280, 800)?;
    let mut ann = Process::spawn(call.client("ann", "--display window")?.env("DISPLAY", anns.display()))?;
    let window = anns.wait_for_window("lobby")?;
    ann.wait_for_event("the last line", |e| e["event"] == "chat" && e["seq"] == LINES)?;
    anns.focus(&window)?;
    let newest = messages(&anns, &window)?;
    let pages = |ann: &Process| -> Vec<serde_json::Value> {
        ann.events().into_iter().filter(|e| e["event"] == "chat-page").collect()
    };
    wait_until("the first line", || {
        anns.press(&[keys::PAGE_UP])?;
        Ok(pages(&ann).last().is_some_and(|page| page["more"] == false))
    })?;
    // What the relay had at hand came by itself; before that each line comes once and in order.
    let seqs = |e: &serde_json::Value| -> Vec<u64> {
        e["lines"].as_array().into_iter().flatten().filter_map(|l| l["seq"].as_u64()).collect()
    };
    let read: Vec<u64> = pages(&ann).iter().rev().flat_map(seqs).collect();
    let at_hand = ann.events().iter().filter(|e| e["event"] == "chat").count() as u64;
    assert_eq!(read, (1..=LINES - at_hand).collect::<Vec<_>>());

    // To the very top, where nothing moves any more, not even by what others write.
    let top = |anns: &Xvfb| anns.press(&[keys::PAGE_UP; 5]).and_then(|()| messages(anns, &window));
    let (mut shown, mut same) = (top(&anns)?, 0);
    // A window that is slow to draw shows the same for a moment, too.
    wait_until("the top", || {
        let last = std::mem::replace(&mut shown, top(&anns)?);
        same = if shown == last && shown != newest { same + 1 } else { 0 };
        Ok(same == 5)
    })?;
    if let Some(path) = std::env::var_os("VCHAT_SCREENSHOT") {
        anns.screenshot_of(&window)?.save_png(std::path::Path::new(&path))?;
    }
    let mut bob = call.join("bob", "")?;
    bob.send_line("something new")?;
    ann.wait_for_event("Bob's line", |e| e["event"] == "chat" && e["text"] == "something new")?;
    anns.press(&[keys::PAGE_UP])?;
    assert!(messages(&anns, &window)? == shown, "what is being read moved");
    anns.type_text("q")?;
    assert_eq!(ann.wait()?.code(), Some(0));
    Ok(())
}

/// Waits until a window shows a picture with a stamp that can be read, of another moment than the one given.
fn wait_for_picture(display: &Xvfb, window: &Window, other_than: Option<Stamp>) -> anyhow::Result<Stamp> {
    let mut seen = Vec::new();
    let shown = wait_until("a picture that can be read", || {
        seen = stamps(&display.screenshot_of(window)?);
        Ok(seen.len() == 1 && other_than != Some(seen[0]))
    });
    if let Err(e) = shown {
        let path = std::env::temp_dir().join(format!("vchat-window-{}.png", std::process::id()));
        display.screenshot_of(window)?.save_png(&path)?;
        bail!("{e}: {seen:?}, see {}", path.display())
    }
    Ok(seen[0])
}

fn wait_until(what: &str, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !done()? {
        anyhow::ensure!(Instant::now() < deadline, "waited for {what}");
        // A display tells nobody that its pixels changed.
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The part of a window in which chat is shown and nothing else moves: the panel on the right below one's own picture.
fn messages(display: &Xvfb, window: &Window) -> anyhow::Result<Image> {
    let image = display.screenshot_of(window)?;
    let (width, height) = (image.width, image.height);
    Ok(image.crop(width * 3 / 4, height / 2, width / 4, height / 4))
}

/// The stamps of all test cards in a picture: they begin in a corner of their first, white bar.
fn stamps(image: &Image) -> Vec<Stamp> {
    let luma: Vec<u8> =
        image.rgb.chunks_exact(3).map(|p| (p.iter().map(|v| u32::from(*v)).sum::<u32>() / 3) as u8).collect();
    let light = |x: usize, y: usize| luma.get(y * image.width + x).is_some_and(|l| *l >= LIGHT);
    let mut found = Vec::new();
    for y in 1..image.height.saturating_sub(MIN_SIDE) {
        for x in 1..image.width.saturating_sub(MIN_SIDE) {
            let corner = !light(x - 1, y + 4)
                && !light(x + 4, y - 1)
                && (0..8).all(|i| light(x + i, y + 4) && light(x + 4, y + i));
            if corner
                && let Some(stamp) = stamp_at(image.width, &luma, (x, y))
                && !found.contains(&stamp)
            {
                found.push(stamp);
            }
        }
    }
    found
}

/// Tries all sizes of about 16:9 that a picture with this corner may have.
fn stamp_at(stride: usize, luma: &[u8], (x, y): (usize, usize)) -> Option<Stamp> {
    let part = &luma[y * stride + x..];
    (MIN_SIDE..=stride - x).rev().find_map(|width| {
        let tall = width * 9 / 16;
        (tall - 2..=tall + 2).find_map(|height| barcode::read_luma(part, stride, width, height))
    })
}

/// More than a relay has at hand.
const LINES: u64 = 1150;
/// The first bar of the test card is this light or lighter; nothing else of the window that has a corner is.
const LIGHT: u8 = 150;
/// Narrower pictures cannot be read.
const MIN_SIDE: usize = 120;
/// A machine that is busy with other tests may be this late.
const SLOW_US: i64 = 20_000_000;
