//! Calls while something goes wrong: a client that stands still, routers that forget, many who come and go, a full disk, a clock
//! that jumps.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;
use vchat_tests::bench::short_connections;
use vchat_tests::harness::{Call, Clock, Process, Relay};
use vchat_tests::netem::{Proxy, Script};

const MEDIA: &str = "--camera test --mic tone --size 320x180";

/// Names of the three in a call.
const PEOPLE: [&str; 3] = ["ann", "bob", "eve"];

#[test]
fn a_client_that_is_stopped_is_missed_by_the_others_alone_and_comes_back_by_itself() -> anyhow::Result<()> {
    let call = Call::start()?;
    let [mut ann, mut bob, mut eve] = three(&call, MEDIA)?;
    eve.signal(Signal::STOP)?;
    let stopped = Instant::now();
    ann.forget_lines();
    bob.forget_lines();
    for (process, other) in [(&mut ann, "bob"), (&mut bob, "ann")] {
        process.wait_for_event("eve's end", |e| e["event"] == "peer-left" && e["name"] == "eve")?;
        let seconds: Vec<Value> = process.events().into_iter().filter(|e| e["event"] == "stats").collect();
        let good = seconds.iter().filter(|stats| is_there(stats, other)).count();
        // All of these eight seconds; some may be bad ones on a busy machine.
        ensure!(good >= 4, "{other} was seen and heard in {good} seconds: {seconds:?}");
        ensure!(!lost_somebody(process), "{:?}", process.events());
    }
    let missed_after = stopped.elapsed();
    // The idle timeout, and what a busy machine takes.
    ensure!((6..20).contains(&missed_after.as_secs()), "missed after {missed_after:?}");

    eve.forget_lines();
    eve.signal(Signal::CONT)?;
    eve.wait_for_event_named("reconnecting")?;
    eve.wait_for_event_named("reconnected")?;
    for process in [&mut ann, &mut bob] {
        process.wait_for_event("eve again", |e| e["event"] == "peer-joined" && e["name"] == "eve")?;
        process.forget_lines();
        wait_for_media(process, "eve")?;
    }
    wait_for_media(&mut eve, "ann")?;
    wait_for_media(&mut eve, "bob")?;
    Ok(())
}

#[test]
fn nobody_has_to_connect_again_when_all_come_from_other_ports_at_once() -> anyhow::Result<()> {
    let call = Call::start()?;
    let proxy = Proxy::bind(([127, 0, 0, 1], 0).into(), call.relay.address())?.spawn()?;
    let mut people = three(&call, &format!("{MEDIA} --relay {}", proxy.address()))?;
    for turn in 0..3 {
        proxy.follow(Script::parse("0s rebind")?, Instant::now());
        for (process, name) in people.iter_mut().zip(PEOPLE) {
            process.forget_lines();
            for other in PEOPLE.into_iter().filter(|other| *other != name) {
                wait_for_media(process, other)?;
            }
        }
        people[turn].send_line(&format!("turn {turn}"))?;
        for process in &mut people {
            wait_for_line(process, &format!("turn {turn}"))?;
            ensure!(!lost_somebody(process), "{:?}", process.events());
        }
    }
    ensure!(proxy.report()?.clients == 3, "each came to the proxy from one port");
    Ok(())
}

#[test]
fn three_thousand_short_connections_leave_nothing_behind_and_cost_a_call_nothing() -> anyhow::Result<()> {
    let short = short_connections(60)?;
    ensure!(short.connections == 3000, "{short:?}");
    ensure!(short.sound > 0 && short.lost == 0, "{short:?}");
    // The second half came to a relay that had served as many before.
    let (before, after) = short.resident;
    ensure!(after < before + (4 << 20), "memory has grown: {short:?}");
    ensure!(short.descriptors.0 == short.descriptors.1, "files are left open: {short:?}");
    ensure!(short.newcomer < Duration::from_secs(5), "{short:?}");
    Ok(())
}

#[test]
fn on_a_full_disk_lines_are_refused_and_the_call_goes_on_until_there_is_room_again() -> anyhow::Result<()> {
    let mount = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=4m none {state} && exec \"$@\"", "sh"];
    let Ok(relay) = Relay::start_under(&mount, &["--mdns", "off"]) else {
        writeln!(std::io::stderr(), "skipped: no file system can be mounted here")?;
        return Ok(());
    };
    let filler = relay.state().join("filler");
    let fill = |_: &Relay| fill(&filler);
    let empty = |_: &Relay| Ok(std::fs::remove_file(&filler)?);
    while_nothing_can_be_stored(relay, fill, empty)
}

#[test]
fn the_same_where_files_may_grow_no_further() -> anyhow::Result<()> {
    // Whoever writes beyond is sent a signal that ends a program, unless it is ignored.
    let ignoring = ["sh", "-c", "trap '' XFSZ && exec \"$@\"", "sh"];
    let relay = Relay::start_under(&ignoring, &["--mdns", "off"])?;
    let limit = |relay: &Relay, bytes: Option<u64>| -> anyhow::Result<()> {
        let relay = i32::try_from(relay.id()).ok().and_then(Pid::from_raw).context("a process")?;
        prlimit(Some(relay), Resource::Fsize, Rlimit { current: bytes, maximum: None })?;
        Ok(())
    };
    let stop = |relay: &Relay| limit(relay, Some(relay.state().join("chat.db-wal").metadata()?.len()));
    while_nothing_can_be_stored(relay, stop, |relay| limit(relay, None))
}

/// A call whose relay can write nothing more for a while.
fn while_nothing_can_be_stored(
    relay: Relay,
    stop: impl FnOnce(&Relay) -> anyhow::Result<()>,
    go_on: impl FnOnce(&Relay) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut call = Call::with(relay)?;
    let [mut ann, mut bob, mut eve] = three(&call, MEDIA)?;
    ann.send_line("before")?;
    ann.wait_for_event("its answer", |e| e["event"] == "chat-sent" && e["seq"] == 1)?;
    wait_for_line(&mut bob, "before")?;

    stop(&call.relay)?;
    for text in ["lost", "lost, too"] {
        ann.forget_lines();
        ann.send_line(text)?;
        let error = ann.wait_for_event("a refusal", |e| e["event"] == "error")?;
        let message = error["message"].as_str().unwrap_or_default();
        ensure!(error["code"] == "chat" && message.contains("cannot store"), "{error}");
    }
    call.relay.process().wait_for_stderr("a word in the log", |l| l.contains("chat cannot be stored"))?;
    for (process, other) in [(&mut ann, "bob"), (&mut bob, "ann")] {
        process.forget_lines();
        wait_for_media(process, other)?;
    }
    // Who is known comes in all the same.
    ensure!(eve.terminate()?.success());
    let mut eve = call.join("eve", MEDIA)?;
    wait_for_media(&mut eve, "ann")?;

    go_on(&call.relay)?;
    ann.send_line("after")?;
    ann.wait_for_event("its answer", |e| e["event"] == "chat-sent" && e["seq"] == 2)?;
    for process in [&mut bob, &mut eve] {
        wait_for_line(process, "after")?;
    }
    call.relay.process().wait_for_stderr("a word in the log", |l| l.contains("chat is stored again"))?;
    let kept = call.relay.ask(&["history", "lobby"])?;
    let kept: Vec<_> = kept.as_array().into_iter().flatten().map(|line| &line["text"]).collect();
    ensure!(kept == ["before", "after"], "{kept:?}");
    ensure!(!lost_somebody(&ann), "{:?}", ann.events());
    Ok(())
}

#[test]
fn when_the_clock_jumps_a_call_goes_on_and_chat_and_invites_are_kept() -> anyhow::Result<()> {
    let mut clock = Clock::new()?;
    let words = clock.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut call = Call::with(Relay::start_under(&words, &["--mdns", "off"])?)?;
    let [mut ann, mut bob, _eve] = three(&call, MEDIA)?;
    let invite = call.relay.invite(&["--ttl", "2h"])?;

    let mut stamps = Vec::new();
    let day = 24 * 3600;
    for (n, wrong_by) in (1_u64..).zip([0, day, -day, 0, 400 * day, 0]) {
        clock.be_wrong_by(wrong_by)?;
        let text = format!("line {n}");
        ann.send_line(&text)?;
        ann.wait_for_event("its answer", |e| e["event"] == "chat-sent" && e["seq"] == n)?;
        let line = wait_for_line(&mut bob, &text)?;
        ensure!(line["seq"] == n, "{line}");
        stamps.push(line["sent_ms"].as_i64().context("a time")? - wrong_by * 1000);
        for (process, other) in [(&mut ann, "bob"), (&mut bob, "ann")] {
            ensure!(!lost_somebody(process), "{wrong_by} s: {:?}", process.events());
            process.forget_lines();
            wait_for_media(process, other)?;
        }
    }
    // The relay's clock did jump: without the jumps, all was said within a minute.
    let (first, last) = (stamps.iter().min().context("a line")?, stamps.iter().max().context("a line")?);
    ensure!(last - first < 60_000, "{stamps:?}");

    // A relay that starts with a wrong clock forgets nothing, and what is open stays open.
    clock.be_wrong_by(400 * day)?;
    ensure!(call.relay.terminate()?.success());
    call.relay.restart()?;
    ann.wait_for_event_named("reconnected")?;
    wait_for_line_of(&mut ann, &call)?;
    clock.be_wrong_by(0)?;
    let kept = call.relay.ask(&["history", "lobby"])?;
    ensure!(kept.as_array().map(Vec::len) == Some(7), "{kept}");
    let mut guest = std::process::Command::new(vchat_tests::harness::bin("vchat-client")?);
    let home = call.path("guest");
    guest
        .args(["pair", &invite, "--name", "guest"])
        .arg("--config-dir")
        .arg(&home)
        .arg("--state-dir")
        .arg(&home);
    let paired = guest.output()?;
    ensure!(paired.status.success(), "{}", String::from_utf8_lossy(&paired.stderr));
    Ok(())
}

/// Writes a line that is stored, and with it all that the archive had to do before.
fn wait_for_line_of(process: &mut Process, call: &Call) -> anyhow::Result<()> {
    process.send_line("a line after the start")?;
    process.wait_for_event("its answer", |e| e["event"] == "chat-sent" && e["seq"] == 7)?;
    call.relay.ask(&["history", "lobby"]).map(drop)
}

/// Three people in a call, each of whom sees and hears both others.
fn three(call: &Call, options: &str) -> anyhow::Result<[Process; 3]> {
    let [ann, bob, eve] = PEOPLE;
    let mut people = [call.join(ann, options)?, call.join(bob, options)?, call.join(eve, options)?];
    for (process, name) in people.iter_mut().zip(PEOPLE) {
        for other in PEOPLE.into_iter().filter(|other| *other != name) {
            wait_for_media(process, other)?;
        }
    }
    Ok(people)
}

/// Waits for a second in which pictures and sound of somebody were taken in.
fn wait_for_media(process: &mut Process, name: &str) -> anyhow::Result<()> {
    let is_it = |e: &Value| e["event"] == "stats" && is_there(e, name);
    process.wait_for_event(&format!("pictures and sound of {name}"), is_it)?;
    Ok(())
}

/// Whether statistics of a second tell of pictures and sound of somebody.
fn is_there(stats: &Value, name: &str) -> bool {
    let peers = stats["peers"].as_array();
    peers.into_iter().flatten().any(|p| {
        p["name"] == name && p["video"]["fps"].as_f64() > Some(0.0) && p["audio"]["kbps"].as_f64() > Some(0.0)
    })
}

fn wait_for_line(process: &mut Process, text: &str) -> anyhow::Result<Value> {
    process.wait_for_event(&format!("the line {text:?}"), |e| e["event"] == "chat" && e["text"] == text)
}

/// Whether a connection broke, one's own or another's.
fn lost_somebody(process: &Process) -> bool {
    process
        .events()
        .iter()
        .any(|e| e["event"] == "reconnecting" || (e["event"] == "peer-left" && e["name"] != "eve"))
}

/// Takes all the room that there is on a disk.
fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    loop {
        match file.write(&[0; 4096]) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(e) => return Err(e).context("cannot fill the disk"),
        }
    }
}
