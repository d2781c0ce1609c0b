//! Chat that is older than what a relay has at hand.

use std::process::{Command, Output};

use anyhow::{Context, ensure};
use serde_json::Value;
use vchat_tests::harness::{Call, bin};

/// More than a room keeps at hand.
const LINES: u64 = 1500;

#[test]
fn a_newcomer_reads_back_to_the_first_line() -> anyhow::Result<()> {
    let call = Call::start()?;
    call.write_lines(LINES)?;
    let ann = History { call: &call, name: "ann", room: "lobby" };
    call.relay.pair("ann", &call.path("ann"))?;

    let all = ann.lines(&["--limit", "100000"])?;
    let numbers: Vec<u64> = all.iter().filter_map(|l| l["seq"].as_u64()).collect();
    ensure!(numbers == (1..=LINES).collect::<Vec<_>>(), "in order, none doubled: {numbers:?}");
    ensure!(
        all.iter().all(|l| l["text"] == format!("line {}", l["seq"]) && l["name"] == "writer"),
        "{all:?}"
    );

    let some = ann.lines(&["--before", "1200", "--limit", "250"])?;
    ensure!(some == all[949..1199], "{:?}", some.first());
    ensure!(ann.lines(&["--before", "1"])?.is_empty());
    let other = History { room: "other", ..ann };
    ensure!(other.lines(&[])?.is_empty(), "nothing was written there");

    // What people read, and how it goes on.
    let output = ann.run(&["--before", "3", "--limit", "1"])?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(said.starts_with("     2  20") && said.ends_with("  writer: line 2\n"), "{said}");
    ensure!(String::from_utf8(output.stderr)?.contains("--before 2"));

    // Nobody has seen her come or go, and the relay has no room for it.
    let mut bob = call.join("bob", "")?;
    let joined = bob.wait_for_event_named("joined")?;
    let before = bob.events().len();
    ann.lines(&[])?;
    bob.send_line("hello")?;
    bob.wait_for_event_named("chat-sent")?;
    let news = |e: &Value| e["event"] == "peer-joined" || e["event"] == "peer-left";
    ensure!(!bob.events().iter().any(news), "{joined} {:?}", &bob.events()[before..]);
    Ok(())
}

#[test]
fn a_device_reads_only_what_is_written_in_its_own_rooms() -> anyhow::Result<()> {
    let call = Call::start()?;
    call.write_lines(3)?;
    let mut command = Command::new(bin("vchat-client")?);
    command.args(["pair", &call.relay.invite(&["--room", "team"])?]);
    command.arg("--config-dir").arg(call.path("eve")).arg("--state-dir").arg(call.path("eve"));
    ensure!(command.output()?.status.success());

    let eve = History { call: &call, name: "eve", room: "team" };
    ensure!(eve.lines(&[])?.is_empty());
    let refused = History { room: "lobby", ..eve }.run(&[])?;
    let why = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(4) && refused.stdout.is_empty(), "{why}");
    ensure!(why.contains("invited to other rooms") && why.lines().count() == 1, "{why}");

    let stranger = History { name: "stranger", room: "lobby", ..eve }.run(&[])?;
    ensure!(stranger.status.code() == Some(4), "{}", String::from_utf8_lossy(&stranger.stderr));
    Ok(())
}

/// `vchat-client history` of a device.
#[derive(Clone, Copy)]
struct History<'a> {
    call: &'a Call,
    name: &'a str,
    room: &'a str,
}

impl History<'_> {
    fn run(self, options: &[&str]) -> anyhow::Result<Output> {
        let home = self.call.path(self.name);
        let mut command = Command::new(bin("vchat-client")?);
        command.args(["history", "--relay", &self.call.relay.address().to_string(), "--room", self.room]);
        command.args(options).arg("--config-dir").arg(&home).arg("--state-dir").arg(&home);
        command.output().context("cannot start vchat-client")
    }

    fn lines(self, options: &[&str]) -> anyhow::Result<Vec<Value>> {
        let output = self.run(&[options, &["--json"]].concat())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
