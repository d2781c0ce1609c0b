//! Real relay, real clients, no window: what they see, hear and write.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;
use vchat_client::audio::tone;
use vchat_client::video::barcode;
use vchat_client::video::y4m;
use vchat_tests::harness::{Call, Process, PulseServer, SAMPLE_RATE};

/// The statistics of somebody in a `stats` event.
fn about<'a>(stats: &'a Value, name: &str) -> &'a Value {
    let peers = stats["peers"].as_array();
    peers.and_then(|peers| peers.iter().find(|p| p["name"] == name)).unwrap_or(&Value::Null)
}

/// Waits until this many pictures of somebody, and some sound, were taken in.
fn wait_for_media(process: &mut Process, name: &str, frames: u64) -> anyhow::Result<Value> {
    process.wait_for_event(&format!("{frames} pictures and sound of {name}"), |e| {
        let p = about(e, name);
        e["event"] == "stats"
            && p["video"]["frames"].as_u64() >= Some(frames)
            && p["audio"]["kbps"].as_u64() > Some(0)
    })
}

fn chat(process: &mut Process, text: &str) -> anyhow::Result<Value> {
    process.wait_for_event(&format!("the line {text:?}"), |e| e["event"] == "chat" && e["text"] == text)
}

#[test]
fn people_see_hear_and_write_to_each_other() -> anyhow::Result<()> {
    let call = Call::start()?;
    let media = "--camera test --mic tone --size 320x180";
    let mut ann = call.join("ann", media)?;
    let joined = ann.wait_for_event_named("joined")?;
    assert_eq!((&joined["room"], &joined["name"]), (&"lobby".into(), &"ann".into()));
    let mut bob = call.join("bob", &format!("{media} --encoder rav1e"))?;
    let me = bob.wait_for_event_named("joined")?["participant"].clone();
    let peer = ann.wait_for_event_named("peer-joined")?;
    assert_eq!((&peer["participant"], &peer["name"]), (&me, &"bob".into()));
    for (process, other) in [(&mut ann, "bob"), (&mut bob, "ann")] {
        process.wait_for_event_named("first-frame")?;
        let stats = wait_for_media(process, other, 15)?;
        let peer = about(&stats, other);
        assert_eq!(
            (peer["video"]["width"].as_u64(), peer["video"]["height"].as_u64()),
            (Some(320), Some(180))
        );
        assert!(peer["video"]["latency_ms"]["p50"].as_f64() > Some(0.0), "{peer}");
    }

    ann.send_line("hello bob")?;
    let heard = chat(&mut bob, "hello bob")?;
    let stored = ann.wait_for_event_named("chat-sent")?;
    assert_eq!((&heard["id"], &heard["seq"], &heard["name"]), (&stored["id"], &stored["seq"], &"ann".into()));
    chat(&mut ann, "hello bob")?;

    // Who comes late reads what was said and sees everybody.
    let mut eve = call.join("eve", "")?;
    chat(&mut eve, "hello bob")?;
    let mut seen = vec![eve.wait_for_event_named("first-frame")?["participant"].clone()];
    let other = |e: &Value| e["event"] == "first-frame" && e["participant"] != seen[0];
    let second = eve.wait_for_event("the other's picture", other)?["participant"].clone();
    seen.push(second);
    assert_eq!(seen.len(), 2);

    // Who leaves is gone at once, ends well, and says so.
    assert!(bob.terminate()?.success());
    assert_eq!(bob.events().last().map(|e| e["event"].clone()), Some("bye".into()));
    let left = ann.wait_for_event_named("peer-left")?;
    assert_eq!(left["name"], "bob");
    // Who is killed is missed after the idle timeout.
    eve.kill()?;
    ann.wait_for_event("eve's end", |e| e["event"] == "peer-left" && e["name"] == "eve")?;
    assert!(call_ends_well(&mut ann)?);
    Ok(())
}

fn call_ends_well(process: &mut Process) -> anyhow::Result<bool> {
    Ok(process.terminate()?.success())
}

#[test]
fn files_are_sources_and_sinks() -> anyhow::Result<()> {
    let call = Call::start()?;
    // A second of sound and half a second of pictures, which play again and again.
    let sound = call.path("sound.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(&sound, spec)?;
    for n in 0..u64::from(SAMPLE_RATE) {
        let time = vchat_proto::units::MediaTime::from_micros(n * 1_000_000 / u64::from(SAMPLE_RATE));
        wav.write_sample((tone::sample_at(time) * 32_000.0) as i16)?;
    }
    wav.finalize()?;
    let pictures = call.path("pictures.y4m");
    let mut video = y4m::Writer::create(pictures.clone(), 320, 180, 30)?;
    for frame in 0..15 {
        let mut picture = vchat_client::picture::Picture::black(320, 180);
        let captured = vchat_proto::units::MediaTime::from_micros(u64::from(frame) * 1000);
        barcode::paint(&mut picture, barcode::Stamp { frame, captured });
        video.write(&picture)?;
    }
    video.flush()?;
    drop(video);

    let (seen, heard) = (call.path("seen"), call.path("heard"));
    let sinks = format!("--display y4m:{} --speaker wav:{}", seen.display(), heard.display());
    let mut bob = call.join("bob", &sinks)?;
    bob.wait_for_event_named("joined")?;
    let sources = format!("--camera file:{} --mic file:{}", pictures.display(), sound.display());
    let mut ann = call.join("ann", &sources)?;
    wait_for_media(&mut bob, "ann", 60).context("longer than the files")?;
    // A stop by signal leaves files that are whole.
    assert!(bob.terminate()?.success());
    assert!(ann.terminate()?.success());

    let shown = frames_of(&seen.join("ann.y4m"))?;
    let csv = std::fs::read_to_string(seen.join("ann.csv"))?;
    assert_eq!(csv.lines().next(), Some("shown_us,capture_us,frame"));
    assert_eq!(csv.lines().count(), shown.len() + 1, "a line for each picture");
    let numbers: Vec<u32> = shown.iter().flatten().map(|stamp| stamp.frame).collect();
    assert!(numbers.len() * 10 >= shown.len() * 9, "{} of {} can be read", numbers.len(), shown.len());
    let rounds = numbers.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(rounds >= 2, "it loops: {numbers:?}");
    let mut times: Vec<u64> = Vec::new();
    for line in csv.lines().skip(1) {
        times.push(line.split(',').next().context("a column")?.parse()?);
    }
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "in order");

    for file in ["ann.wav", "mix.wav"] {
        let mut reader = hound::WavReader::open(heard.join(file))?;
        assert_eq!(
            (
                reader.spec().sample_rate,
                reader.len() == reader.duration() * u32::from(reader.spec().channels)
            ),
            (SAMPLE_RATE, true)
        );
        let pcm: Vec<f32> =
            reader.samples::<i16>().map(|s| s.map(|s| f32::from(s) / 32768.0)).collect::<Result<_, _>>()?;
        let chirps = tone::find_chirps(&pcm);
        assert!(!chirps.is_empty(), "{file}: {} samples", pcm.len());
        // It loops without a seam: a chirp each second, give or take what the playout buffer stretches.
        let apart =
            |pair: &[usize]| (pair[1] - pair[0]).abs_diff(SAMPLE_RATE as usize) < SAMPLE_RATE as usize / 10;
        assert!(chirps.windows(2).all(apart), "{file}: {chirps:?}");
    }
    Ok(())
}

/// The stamps of all pictures of a file; the file must end with a whole picture.
fn frames_of(path: &Path) -> anyhow::Result<Vec<Option<barcode::Stamp>>> {
    let bytes = std::fs::read(path)?;
    let head = bytes.iter().position(|b| *b == b'\n').context("a header")?;
    let header = std::str::from_utf8(&bytes[..head])?;
    let number = |key: char| -> anyhow::Result<usize> {
        let field = header.split(' ').find_map(|f| f.strip_prefix(key)).context("a size")?;
        Ok(field.parse()?)
    };
    anyhow::ensure!(header.starts_with("YUV4MPEG2 "), "{header}");
    let (width, height) = (number('W')?, number('H')?);
    let size = b"FRAME\n".len() + width * height * 3 / 2;
    let pictures = &bytes[head + 1..];
    anyhow::ensure!(pictures.len() % size == 0, "{} bytes too many", pictures.len() % size);
    let stamp = |p: &[u8]| {
        assert_eq!(&p[..6], b"FRAME\n");
        barcode::read_luma(&p[6..], width, width, height)
    };
    Ok(pictures.chunks(size).map(stamp).collect())
}

#[test]
fn sound_passes_from_a_microphone_to_a_speaker_without_gaps() -> anyhow::Result<()> {
    let pulse = PulseServer::start(&["speaker"], &[])?;
    let call = Call::start()?;
    let mut bob = Process::spawn(call.client("bob", "--speaker speaker")?.envs(pulse.env()))?;
    bob.wait_for_event_named("joined")?;
    let mut ann = call.join("ann", "--mic tone")?;
    bob.wait_for_event("sound", |e| about(e, "ann")["audio"]["kbps"].as_u64() > Some(0))?;
    let recording = pulse.record("speaker.monitor")?;
    let enough = |pcm: &[f32]| tone::find_chirps(pcm).len() >= 3;
    let pcm = recording.wait_until(enough)?;
    let chirps = tone::find_chirps(&pcm);
    let second = SAMPLE_RATE as usize;
    for pair in chirps.windows(2) {
        assert!((pair[1] - pair[0]).abs_diff(second) < second / 10, "{chirps:?}");
    }
    // Between the chirps there is a soft tone: nowhere 50 ms of silence.
    let between = &pcm[chirps[0]..chirps[chirps.len() - 1]];
    let silent = between.chunks(second / 20).filter(|c| c.iter().all(|s| s.abs() < 1e-4)).count();
    assert_eq!(silent, 0);
    let concealed = about(bob.events().iter().rfind(|e| e["event"] == "stats").context("stats")?, "ann")["audio"]["concealed_ms"].clone();
    assert!(concealed.as_u64() <= Some(500), "{concealed} ms invented");
    assert!(ann.terminate()?.success() && bob.terminate()?.success());

    let mut list = Process::spawn(call.client("devices", "")?.envs(pulse.env()))?;
    list.kill()?;
    let mut command = std::process::Command::new(vchat_tests::harness::bin("vchat-client")?);
    let mut list = Process::spawn(command.args(["devices", "--json"]).envs(pulse.env()))?;
    assert!(list.wait()?.success());
    let devices: Value = serde_json::from_str(&list.lines().join("\n"))?;
    let speakers = devices["speakers"].as_array().context("speakers")?;
    assert!(speakers.iter().any(|s| s.to_string().contains("speaker")), "{devices}");
    Ok(())
}
