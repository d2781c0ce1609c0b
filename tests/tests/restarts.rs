//! Relays that are killed.

use vchat_tests::bench::chat_while_killed;
use vchat_tests::harness::Call;

#[test]
fn no_line_that_was_acknowledged_is_lost_doubled_or_moved_when_the_relay_is_killed() -> anyhow::Result<()> {
    chat_while_killed(100, 1).map(drop)
}

#[test]
fn who_was_in_a_call_with_a_relay_that_was_killed_knows_as_soon_as_it_is_there_again() -> anyhow::Result<()> {
    let mut call = Call::start()?;
    let mut ann = call.join("ann", "--mic tone")?;
    let joined = ann.wait_for_event_named("joined")?;
    call.relay.process().kill()?;
    call.relay.restart()?;
    let lost = ann.wait_for_event_named("reconnecting")?;
    // By a stateless reset. Who gets none waits for the idle timeout and says so.
    assert_eq!(lost["reason"], "reset by peer", "{joined}");
    ann.wait_for_event_named("reconnected")?;
    Ok(())
}

#[test]
fn chat_is_there_when_everybody_has_left_and_the_relay_was_started_anew() -> anyhow::Result<()> {
    let mut call = Call::start()?;
    let mut ann = call.join("ann", "")?;
    ann.wait_for_event_named("joined")?;
    for text in ["one", "two", "three"] {
        ann.send_line(text)?;
    }
    ann.wait_for_event("the last line", |e| e["event"] == "chat-sent" && e["seq"] == 3)?;
    ann.terminate()?;
    assert!(call.relay.terminate()?.success());
    call.relay.restart()?;

    let mut bob = call.join("bob", "")?;
    let last = bob.wait_for_event("the last line", |e| e["event"] == "chat" && e["seq"] == 3)?;
    assert_eq!((&last["text"], &last["name"]), (&"three".into(), &"ann".into()));
    let lines = call.relay.ask(&["history", "lobby", "--before", "3", "--limit", "1"])?;
    assert_eq!((&lines[0]["seq"], &lines[0]["text"]), (&2.into(), &"two".into()), "{lines}");
    let shown = call.relay.operate(&["history", "lobby"])?;
    assert!(shown.lines().count() == 3 && shown.ends_with("ann: three"), "{shown}");
    Ok(())
}
