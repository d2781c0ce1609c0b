//! What the operator lets the relay use, and what people hear when that is used up.

use anyhow::{Context, ensure};
use serde_json::Value;
use vchat_tests::harness::{Call, Process};

fn call(limits: &[&str]) -> anyhow::Result<Call> {
    Call::start_with(&[&["--mdns", "off"], limits].concat())
}

/// Somebody who is in the call.
fn member(call: &Call, name: &str, options: &str) -> anyhow::Result<Process> {
    let mut process = call.join(name, options)?;
    process.wait_for_event_named("joined")?;
    Ok(process)
}

/// What somebody hears who is not taken in.
fn refusal(call: &Call, name: &str, options: &str) -> anyhow::Result<String> {
    let mut process = call.join(name, options)?;
    let error = process.wait_for_event_named("error")?;
    ensure!(error["code"] == "refused", "{error}");
    let status = process.wait()?;
    ensure!(status.code() == Some(4), "{status}");
    Ok(error["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_room_takes_no_more_people_than_it_may() -> anyhow::Result<()> {
    let call = call(&["--max-participants", "2"])?;
    let (_ann, _bob) = (member(&call, "ann", "")?, member(&call, "bob", "")?);
    let why = refusal(&call, "eve", "")?;
    ensure!(why.contains("the room is full"), "{why}");
    member(&call, "dan", "--room other")?;
    Ok(())
}

#[test]
fn a_relay_takes_no_more_people_and_rooms_than_it_may() -> anyhow::Result<()> {
    let call = call(&["--max-clients", "3", "--max-rooms", "1"])?;
    let mut ann = member(&call, "ann", "--room one")?;
    let why = refusal(&call, "bob", "--room two")?;
    ensure!(why.contains("as many people or rooms"), "{why}");
    let mut eve = member(&call, "eve", "--room one")?;
    let _dan = member(&call, "dan", "--room one")?;
    let why = refusal(&call, "bob", "--room one")?;
    ensure!(why.contains("as many people or rooms"), "{why}");
    let metrics = call.relay.ask(&["status"])?;
    ensure!(metrics["participants"] == 3, "{metrics}");
    // A place that is free again is for the next.
    eve.terminate()?;
    ann.wait_for_event("that eve left", |e| e["event"] == "peer-left" && e["name"] == "eve")?;
    member(&call, "bob", "--room one")?;
    Ok(())
}

#[test]
fn a_relay_that_has_no_memory_for_more_says_so() -> anyhow::Result<()> {
    let mut call = call(&["--max-memory-mib", "8"])?;
    call.relay
        .process()
        .wait_for_stderr("that it is full", |line| line.contains("max-memory-mib is reached"))?;
    let why = refusal(&call, "ann", "")?;
    ensure!(why.contains("no memory or bandwidth"), "{why}");
    Ok(())
}

/// Statistics number `count` of a client.
fn statistics(client: &mut Process, count: usize) -> anyhow::Result<Value> {
    let mut seen = 0;
    client.wait_for_event("statistics", |e| {
        seen += usize::from(e["event"] == "stats");
        seen == count
    })
}

#[test]
fn a_client_sends_no_more_than_it_may() -> anyhow::Result<()> {
    let call = call(&["--max-client-kbps", "300"])?;
    let camera = "--camera test --size 640x360 --mic tone";
    let (mut ann, mut bob) = (member(&call, "ann", camera)?, member(&call, "bob", camera)?);
    for client in [&mut ann, &mut bob] {
        let stats = statistics(client, 6)?;
        let target = stats["up"]["target_kbps"].as_f64().context("a number")?;
        ensure!((50.0..=225.0).contains(&target), "video of {target} kb/s: {stats}");
    }
    let status = call.relay.ask(&["status"])?;
    for client in status["by_room"][0]["clients"].as_array().context("clients")? {
        let kbps = client["received_kbps"].as_f64().context("a number")?;
        ensure!(kbps <= 300.0 * 1.2, "{client}");
    }
    Ok(())
}

#[test]
fn a_relay_sends_no_more_than_it_may_and_sound_stays_whole() -> anyhow::Result<()> {
    let call = call(&["--max-mbps", "1"])?;
    let camera = "--camera test --size 640x360 --mic tone";
    let names = ["ann", "bob", "eve"];
    let mut people =
        names.map(|name| member(&call, name, camera)).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for person in &mut people {
        // Without a limit it would be four times as much.
        let stats = statistics(person, 18)?;
        for peer in stats["peers"].as_array().context("peers")? {
            ensure!(peer["audio"]["kbps"].as_u64() > Some(20), "no sound: {stats}");
        }
    }
    let status = call.relay.ask(&["status"])?;
    let mbps = status["bytes"]["sent_per_s"].as_f64().context("a number")? * 8.0 / 1e6;
    ensure!((0.2..=1.1).contains(&mbps), "{mbps} Mb/s: {status}");
    Ok(())
}
