//! Clients whose address changes in a call, as behind a router that has forgotten a mapping.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use vchat_tests::harness::{Call, Process};
use vchat_tests::netem::{Proxy, Running, Script, Settings};

/// One way between the client that roams and the relay.
const DELAY: Duration = Duration::from_millis(25);

#[test]
fn a_call_goes_on_when_a_clients_address_changes() -> anyhow::Result<()> {
    let call = Call::start()?;
    let seen = call.path("seen");
    let mut ann =
        call.join("ann", &format!("--camera test --size 320x180 --display y4m:{}", seen.display()))?;
    ann.wait_for_event_named("joined")?;
    let proxy = proxy(&call)?;
    let through = format!("--camera test --size 320x180 --relay {}", proxy.address());
    let mut bob = call.join("bob", &through)?;
    bob.wait_for_event_named("first-frame")?;
    wait_for_pictures(&mut ann)?;
    let before = proxy.report()?;

    proxy.follow(Script::parse("0s rebind\n1s rebind")?, Instant::now());
    // Beyond the second change, and each has pictures of the other all the time.
    for process in [&mut ann, &mut bob] {
        process.forget_lines();
        for _ in 0..3 {
            wait_for_pictures(process)?;
            process.forget_lines();
        }
    }
    bob.send_line("still here")?;
    ann.wait_for_event("the line", |e| e["event"] == "chat" && e["text"] == "still here")?;
    for process in [&ann, &bob] {
        let ended = |e: &Value| e["event"] == "reconnecting" || e["event"] == "peer-left";
        ensure!(!process.events().iter().any(ended), "the connection was kept: {:?}", process.events());
    }
    let after = proxy.report()?;
    ensure!(after.clients == before.clients && after.up.arrived > before.up.arrived, "{before}\n{after}");
    ensure!(ann.terminate()?.success() && bob.terminate()?.success());

    let gap = longest_gap(&std::fs::read_to_string(seen.join("bob.csv"))?)?;
    // Two round trips, 50 ms, and the time between two pictures; the rest is for a machine that is busy with other tests.
    let limit = 4 * DELAY + Duration::from_millis(50 + 33) + Duration::from_millis(500);
    ensure!(gap < limit, "nothing was shown for {gap:?}");
    Ok(())
}

/// A line of [`DELAY`] before the call's relay.
fn proxy(call: &Call) -> anyhow::Result<Running> {
    let settings = Settings { delay: DELAY, ..Settings::default() };
    let proxy = Proxy::bind(([127, 0, 0, 1], 0).into(), call.relay.address())?;
    Ok(proxy.with_settings(&settings).spawn()?)
}

/// Waits for a second in which pictures were taken in.
fn wait_for_pictures(process: &mut Process) -> anyhow::Result<()> {
    process.wait_for_event("pictures", |e| {
        e["event"] == "stats" && e["peers"][0]["video"]["fps"].as_f64() > Some(0.0)
    })?;
    Ok(())
}

/// The longest time between two pictures of a file that tells when each was shown, in microseconds, in its first column.
fn longest_gap(csv: &str) -> anyhow::Result<Duration> {
    let times = csv.lines().skip(1).map(|line| line.split(',').next()?.parse().ok());
    let times: Vec<u64> = times.collect::<Option<_>>().context("a time in each line")?;
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().map(Duration::from_micros).context("two pictures")
}
