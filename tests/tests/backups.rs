//! Copies of a relay that runs, and what becomes of them elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use serde_json::Value;
use vchat_tests::harness::{Call, Process, bin, relay_command};

#[test]
fn what_was_acknowledged_before_a_backup_began_is_in_it_and_nobody_pairs_again() -> anyhow::Result<()> {
    let mut call = Call::start()?;
    call.relay.operate(&["key", "rotate"])?;
    let mut ann = call.join("ann", "")?;
    ann.wait_for_event_named("joined")?;
    let dir = call.path("backups");
    // She writes all the time, and one copy is made after the other.
    let stop = AtomicBool::new(false);
    let backups = std::thread::scope(|scope| -> anyhow::Result<Vec<(u64, PathBuf)>> {
        let (relay, stop) = (&call.relay, &stop);
        let (acknowledged, told) = std::sync::mpsc::channel();
        let writer = scope.spawn(move || -> anyhow::Result<()> {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) && last < 40 {
                last += 1;
                ann.send_line(&format!("line {last}"))?;
                ann.wait_for_event("its receipt", |e| e["event"] == "chat-sent" && e["seq"] == last)?;
                acknowledged.send(last)?;
            }
            Ok(())
        });
        let mut made = Vec::new();
        for _ in 0..3 {
            let before = told.recv()?.max(told.try_iter().last().unwrap_or(0));
            let answer = relay.ask(&["backup", &dir.to_string_lossy(), "--keep", "2"])?;
            made.push((before, PathBuf::from(answer["path"].as_str().context("a path")?)));
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        Ok(made)
    })?;
    ensure!(!backups[0].1.exists() && backups[1].1.exists(), "the newest two are kept");
    let fingerprint = call.relay.ask(&["key"])?["pin"].clone();
    call.relay.terminate()?;

    let (acknowledged, backup) = &backups[2];
    let state = call.path("elsewhere");
    copy(backup, &state)?;
    let mut relay =
        Process::spawn(relay_command(([127, 0, 0, 1], 0).into(), &state)?.args(["--mdns", "off"]))?;
    let address = relay.wait_for_address()?;
    let ask = |arguments: &[&str]| -> anyhow::Result<Value> {
        let mut command = Command::new(bin("vchatd")?);
        let output = command.args(arguments).arg("--json").arg("--state-dir").arg(&state).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let key = ask(&["key"])?;
    ensure!(key["pin"] == fingerprint && key["next"].is_object(), "{key}");
    ensure!(ask(&["devices"])?[0]["name"] == "ann");

    // She calls it by its new address, and comes in as who she was.
    let home = call.path("ann").to_string_lossy().into_owned();
    let mut ann = Process::spawn(Command::new(bin("vchat-client")?).args([
        "--relay",
        &address.to_string(),
        "--name",
        "ann",
        "--camera",
        "none",
        "--mic",
        "none",
        "--display",
        "none",
        "--speaker",
        "none",
        "--events",
        "json",
        "--config-dir",
        &home,
        "--state-dir",
        &home,
    ]))?;
    ann.wait_for_event("the last line that was acknowledged", |e| {
        e["event"] == "chat" && e["seq"] == *acknowledged && e["text"] == format!("line {acknowledged}")
    })?;
    // The chat goes on where the copy ends.
    let lines = ask(&["history", "lobby"])?;
    let last = lines.as_array().and_then(|lines| lines.last()?["seq"].as_u64()).context("lines")?;
    ann.send_line("here again")?;
    let sent = ann.wait_for_event_named("chat-sent")?;
    ensure!(sent["seq"] == last + 1, "{sent} after {last}");
    Ok(())
}

#[test]
fn half_a_backup_is_refused_and_says_what_is_missing() -> anyhow::Result<()> {
    let mut call = Call::start()?;
    call.write_lines(1)?;
    // Without a directory: where the service may write.
    let path = call.relay.operate(&["backup"])?;
    ensure!(Path::new(&path).parent() == Some(&call.relay.state().join("backups")), "{path}");
    call.relay.terminate()?;
    let state = call.path("elsewhere");
    copy(Path::new(&path), &state)?;
    fs::remove_file(state.join("identity.pem"))?;
    for _ in 0..2 {
        let output = relay_command(([127, 0, 0, 1], 0).into(), &state)?.output()?;
        let why = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1) && why.lines().count() == 1, "{why}");
        ensure!(why.contains("identity.pem is missing") && why.contains("copy it again"), "{why}");
        ensure!(!state.join("identity.pem").exists(), "no new key is made in its place");
    }
    fs::copy(Path::new(&path).join("identity.pem"), state.join("identity.pem"))?;
    Process::spawn(&mut relay_command(([127, 0, 0, 1], 0).into(), &state)?)?.wait_for_address()?;
    Ok(())
}

#[test]
fn a_backup_that_cannot_be_written_fails_in_one_line_and_the_relay_goes_on() -> anyhow::Result<()> {
    let call = Call::start()?;
    let file = call.path("file");
    fs::write(&file, "")?;
    let why = call.relay.operate(&["backup", &file.to_string_lossy()]).expect_err("no directory").to_string();
    ensure!(why.contains(&*file.to_string_lossy()) && why.lines().count() == 1, "{why}");
    let why = call.relay.operate(&["backup", "/proc/here"]).expect_err("nobody can write there").to_string();
    ensure!(why.contains("/proc/here") && why.lines().count() == 1, "{why}");
    call.relay.operate(&["backup"]).map(drop)
}

/// As `cp -r` does.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        fs::copy(&path, to.join(path.file_name().context("a name")?))?;
    }
    Ok(())
}
