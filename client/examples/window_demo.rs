//! Shows the call's window with people who are not there: moving pictures, a chat, and everything the keys do.
//!
//! `cargo run --release --example window_demo -- [TILES] [SECONDS] [SIZE]`, for example `5 60 1280x720`. Once a second
//! it tells on stderr how long painting and presenting took. With `BANNER` in the environment there is a notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vchat_client::picture::Picture;
use vchat_client::window::{Action, ChatLine, Me, Scene, Tile, Window};
use vchat_proto::id::ChatId;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let tiles = args.next().map_or(Ok(4), |a| a.parse())?;
    let seconds = args.next().map_or(Ok(60), |a| a.parse())?;
    let size = args.next().unwrap_or_else(|| "1280x720".into());
    let (width, height) = size.split_once('x').ok_or("the size is like 1280x720")?;

    let start = Instant::now();
    let mut window = Window::open("vchat: demo", width.parse()?, height.parse()?)?;
    eprintln!("opened after {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let mut scene =
        Scene { room: "lobby".into(), tiles: people(tiles), chat: talk().into(), ..Scene::default() };
    let mut first = true;
    let mut times: Vec<f64> = Vec::new();
    let mut told = start;
    let mut next = start;
    while start.elapsed() < Duration::from_secs(seconds) {
        if Instant::now() >= next {
            next += Duration::from_millis(33);
            move_on(&mut scene.tiles, start.elapsed());
        }
        if std::env::var_os("BANNER").is_some() {
            scene.banner = Some("Connection lost. Reconnecting…".into());
        }
        let begin = Instant::now();
        let shown = window.show(&scene)?;
        if shown.presented {
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            if std::mem::take(&mut first) {
                eprintln!("first picture presented after {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            }
        }
        for action in shown.actions {
            eprintln!("{action:?}");
            match action {
                Action::Quit => return Ok(()),
                other => act(&mut scene, other),
            }
        }
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            times.sort_by(f64::total_cmp);
            let at = |p: usize| times.get(times.len() * p / 100).copied().unwrap_or_default();
            eprintln!("{} presents: paint + present p50 {:.2} ms, p95 {:.2} ms", times.len(), at(50), at(95));
            times.clear();
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}

fn people(count: usize) -> Vec<Tile> {
    let names = [
        "Ann Lee",
        "Björn Ångström",
        "日本 太郎",
        "Maximiliane von und zu Hohenstein-Unterberg the Third",
        "שרה כהן",
        "Eve",
        "Олег",
        "Grace Hopper",
        "مريم",
        "Ivan",
        "J",
        "Katherine Johnson 🚀",
        "Linus",
    ];
    let tile = |i: usize| Tile {
        id: i as u64,
        name: names[i % names.len()].into(),
        picture: None,
        version: 0,
        muted: i % 3 == 1,
        camera_off: i % 5 == 2,
        speaking: i == 0,
        me: i + 1 == count,
    };
    (0..count).map(tile).collect()
}

/// A gradient that moves, with a moving box on it and a bright rim that shows whether the whole picture is visible.
fn move_on(tiles: &mut [Tile], at: Duration) {
    let t = at.as_millis() as usize / 12;
    for (i, tile) in tiles.iter_mut().enumerate() {
        let (w, h) = if i % 4 == 3 { (480, 360) } else { (640, 360) };
        let mut picture = Picture::black(w, h);
        let cw = picture.chroma_width();
        let [y, u, v] = picture.planes_mut();
        let left = (t + i * 50) % (w - 80);
        for (row, line) in y.chunks_exact_mut(w).enumerate() {
            for (column, luma) in line.iter_mut().enumerate() {
                let rim = row < 2 || column < 2 || row >= h - 2 || column >= w - 2;
                let square = (left..left + 80).contains(&column) && (140..220).contains(&row);
                *luma = if rim || square { 220 } else { (50 + (row + column + t) / 8 % 110) as u8 };
            }
        }
        u.iter_mut().enumerate().for_each(|(n, s)| *s = (90 + n % cw / 4 + i * 17 % 60) as u8);
        v.iter_mut().enumerate().for_each(|(n, s)| *s = (100 + n / cw / 4 + i * 29 % 50) as u8);
        tile.picture = Some(Arc::new(picture));
        tile.version += 1;
    }
}

fn talk() -> Vec<ChatLine> {
    let lines = [
        ("Ann Lee", "Good morning! Does everyone see me?"),
        ("Björn Ångström", "Yes, picture and sound are fine."),
        (
            "Björn Ångström",
            "Your slides are at https://files.example.org/a/very/long/path/that/does/not/end/before/the/line/does.pdf",
        ),
        ("日本 太郎", "おはようございます。音声もはっきり聞こえます 🎉"),
        ("שרה כהן", "שלום לכולם, אני כאן (finally)"),
        ("مريم", "مرحبا بالجميع"),
        ("Eve", "Emoji: 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ and combining: e\u{301} n\u{303}"),
        (
            "Ann Lee",
            "Then let us begin. First the numbers of last week, then the plan for the next one, and at the end questions.",
        ),
        ("Олег", "Отлично, начинаем."),
        ("Eve", "ok"),
    ];
    let line = |i: usize| {
        let (name, text) = lines[i % lines.len()];
        ChatLine {
            id: ChatId([i as u8; 16]),
            name: name.into(),
            text: text.into(),
            time_ms: 1_795_334_400_000 + i as u64 * 100_000,
            mine: false,
            pending: false,
        }
    };
    (0..3 * lines.len()).map(line).collect()
}

fn act(scene: &mut Scene, action: Action) {
    let Me { muted, camera_off } = scene.me;
    match action {
        Action::ToggleMute => scene.me.muted = !muted,
        Action::ToggleCamera => scene.me.camera_off = !camera_off,
        Action::ToggleStatistics => {
            let lines = "Round trip\t12.4 ms\nUp\t648 kb/s, 30.0 fps\nLoss\t0.2 %\n\nAnn Lee\nVideo\t640x360, 29.9 fps\nDelay\t31 ms\nAudio buffer\t48 ms";
            scene.statistics = if scene.statistics.is_none() { Some(lines.into()) } else { None };
        }
        Action::Say(text) => {
            let mut chat = scene.chat.to_vec();
            let id = ChatId([chat.len() as u8; 16]);
            let time_ms = chat.last().map_or(0, |l| l.time_ms + 1000);
            chat.push(ChatLine {
                id,
                name: "Me".into(),
                text,
                time_ms,
                mine: true,
                pending: chat.len().is_multiple_of(2),
            });
            scene.chat = chat.into();
        }
        Action::ReadBack | Action::Quit => {}
    }
    if let Some(me) = scene.tiles.iter_mut().find(|t| t.me) {
        (me.muted, me.camera_off) = (scene.me.muted, scene.me.camera_off);
    }
}
