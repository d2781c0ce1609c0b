//! What happens in the windows when nobody sits in front of them.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::stage::{Stage, Theatre};
use super::stop::Stop;
use crate::harness::{Process, Window, Xvfb, keys};

/// Lets Ann and Bob write to each other with the keyboard, waits until the call has gone on for [`TIME`], and saves
/// pictures of both windows as `ann.png` and `bob.png`.
///
/// Returns whether each got the other's words.
pub(super) fn play(stage: &mut Stage, theatre: &Theatre, stop: &Stop, photos: &Path) -> anyhow::Result<bool> {
    let began = Instant::now();
    let Theatre { display, windows } = theatre;
    display.place(&windows[0], 0, 0)?;
    display.place(&windows[1], BOB_X, 0)?;
    stage.ann.wait_for_event_named("first-frame")?;
    stage.bob.wait_for_event_named("first-frame")?;

    write(display, &windows[0], FROM_ANN)?;
    let to_bob = arrives(&mut stage.bob, FROM_ANN);
    write(display, &windows[1], FROM_BOB)?;
    let to_ann = arrives(&mut stage.ann, FROM_BOB);
    while began.elapsed() < TIME && !stop.is_asked() && !stage.is_over()? {
        thread::sleep(LOOK);
    }

    std::fs::create_dir_all(photos).with_context(|| format!("cannot create {}", photos.display()))?;
    for (window, file) in windows.iter().zip(["ann.png", "bob.png"]) {
        display.screenshot_of(window)?.save_png(&photos.join(file))?;
    }
    Ok(to_bob && to_ann)
}

/// Types a message as a person would: Enter opens the line, Enter sends it.
fn write(display: &Xvfb, window: &Window, text: &str) -> anyhow::Result<()> {
    display.focus(window)?;
    display.press(&[keys::RETURN])?;
    display.type_text(text)?;
    display.press(&[keys::RETURN])
}

fn arrives(reader: &mut Process, text: &str) -> bool {
    let is_it = |event: &serde_json::Value| event["event"] == "chat" && event["text"] == text;
    reader.wait_for_event(&format!("the message {text:?}"), is_it).is_ok()
}

const FROM_ANN: &str = "Hello Bob, can you see me?";
const FROM_BOB: &str = "Yes, and I hear you well.";
/// Long enough to measure delays of some hundred pictures.
const TIME: Duration = Duration::from_secs(10);
/// Ctrl-C is noticed this soon.
const LOOK: Duration = Duration::from_millis(50);
/// Right of Ann's window.
const BOB_X: i32 = 1120;
