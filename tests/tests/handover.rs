//! A relay that another process takes over from while people talk.

use anyhow::ensure;
use serde_json::Value;
use vchat_tests::harness::{Call, Process};

/// What happened to a client of the kind that nobody should notice.
fn breaks(client: &Process) -> Vec<Value> {
    let noticed = ["reconnecting", "reconnected", "peer-left", "error"];
    client.events().into_iter().filter(|e| noticed.iter().any(|name| e["event"] == *name)).collect()
}

#[test]
fn people_who_talk_do_not_notice_that_another_process_takes_over() -> anyhow::Result<()> {
    let mut call = Call::start()?;
    let mut people =
        ["ann", "bob", "eve"].map(|name| call.join(name, "--mic tone --camera test --size 320x180"));
    let mut ids = Vec::new();
    for person in &mut people {
        let person = person.as_mut().map_err(|e| anyhow::anyhow!("{e:#}"))?;
        ids.push(person.wait_for_event_named("joined")?["participant"].clone());
    }
    let mut people: Vec<Process> = people.into_iter().collect::<anyhow::Result<_>>()?;
    for person in &mut people {
        // Everybody sees both others.
        let mut seen = 0;
        person.wait_for_event("two first pictures", |e| {
            seen += u32::from(e["event"] == "first-frame");
            seen == 2
        })?;
    }
    people[0].send_line("before")?;
    people[0].wait_for_event_named("chat-sent")?;

    call.relay.hand_over()?;
    // At the very moment when nobody stores anything.
    people.iter_mut().try_for_each(|person| person.send_line("meanwhile"))?;
    for (person, id) in people.iter_mut().zip(&ids) {
        let moved = person.wait_for_event_named("moved")?;
        ensure!(moved["participant"] == *id, "{moved}: somebody else than {id}");
        person.wait_for_event("the fourth line", |e| e["event"] == "chat" && e["seq"] == 4)?;
    }
    for person in &mut people {
        let before = person.events().iter().filter(|e| e["event"] == "stats").count();
        let mut seen = 0;
        // By then nothing comes over the connections of before any more.
        let stats = person.wait_for_event("statistics of four seconds", |e| {
            seen += usize::from(e["event"] == "stats");
            seen == before + 5
        })?;
        ensure!(stats["peers"].as_array().map(Vec::len) == Some(2), "{stats}");
        for peer in stats["peers"].as_array().into_iter().flatten() {
            ensure!(peer["video"]["fps"].as_f64() > Some(0.0), "no pictures: {stats}");
            ensure!(peer["audio"]["kbps"].as_u64() > Some(0), "no sound: {stats}");
        }
        ensure!(breaks(person).is_empty(), "noticed: {:?}", breaks(person));
    }
    // The process before has gone by itself when nobody was left, and the new one is the relay.
    call.relay.process().wait_for_stderr("that the first one stops", |line| line.contains("stopping"))?;
    let lines = call.relay.ask(&["history", "lobby"])?;
    ensure!(lines.as_array().map(Vec::len) == Some(4), "{lines}");
    let mut late = call.join("dan", "")?;
    late.wait_for_event("the fourth line", |e| e["event"] == "chat" && e["seq"] == 4)?;
    Ok(())
}

#[test]
fn a_program_that_cannot_take_over_changes_nothing() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("vchatd.toml");
    std::fs::write(&file, "public = 'localhost'\n")?;
    let mut call = Call::start_with(&["--mdns", "off", "--config", &file.to_string_lossy()])?;
    let mut ann = call.join("ann", "")?;
    ann.wait_for_event_named("joined")?;
    std::fs::write(&file, "public = 'a b'\n")?;
    let why = call.relay.hand_over().expect_err("its settings are wrong").to_string();
    ensure!(why.contains("nothing has changed"), "{why}");
    ann.send_line("still here")?;
    ann.wait_for_event_named("chat-sent")?;
    ensure!(breaks(&ann).is_empty(), "{:?}", breaks(&ann));

    std::fs::write(&file, "public = 'localhost'\n")?;
    call.relay.hand_over()?;
    ann.wait_for_event_named("moved")?;
    let soon = call.relay.hand_over().expect_err("people are still moving").to_string();
    ensure!(soon.contains("try again"), "{soon}");
    ann.send_line("here")?;
    ann.wait_for_event("the second line", |e| e["event"] == "chat-sent" && e["seq"] == 2)?;
    Ok(())
}
