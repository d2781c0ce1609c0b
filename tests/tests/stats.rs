//! What a relay tells its operator: status, metrics, health.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, ensure};
use prometheus_parse::{Scrape, Value};
use vchat_tests::harness::{Call, DEADLINE, Process, Reply, relay_command};

/// A relay with metrics on a TCP address.
fn start() -> anyhow::Result<(Call, SocketAddr)> {
    let mut call = Call::start_with(&["--mdns", "off", "--metrics", "127.0.0.1:0"])?;
    let address = call.relay.process().wait_for("where the metrics are", |line| {
        line.strip_prefix("metrics on http://")?.strip_suffix("/metrics")?.parse().ok()
    })?;
    Ok((call, address))
}

/// One reading of the metrics.
struct Reading {
    text: String,
    scrape: Scrape,
}

impl Reading {
    fn at(address: SocketAddr) -> anyhow::Result<Self> {
        let reply = Reply::at(address, "GET", "/metrics")?;
        ensure!(reply.status == 200 && reply.head.contains("text/plain; version=0.0.4"), "{}", reply.head);
        let scrape = Scrape::parse(reply.body.lines().map(|line| Ok(line.to_owned())))?;
        Ok(Self { text: reply.body, scrape })
    }

    /// All samples of a metric with these labels, added up.
    fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.scrape.samples.iter().filter(|s| s.metric == metric);
        let samples = samples.filter(|s| labels.iter().all(|(key, value)| s.labels.get(key) == Some(value)));
        samples.map(|s| if let Value::Counter(v) | Value::Gauge(v) = s.value { v } else { f64::NAN }).sum()
    }

    /// The names of all series.
    fn names(&self) -> BTreeSet<&str> {
        let lines = self.text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split(['{', ' ']).next()).collect()
    }
}

fn two_people(call: &Call) -> anyhow::Result<(Process, Process)> {
    let ann = call.join("annabella", "--room hideaway --camera test --mic tone --size 320x180")?;
    let mut bob = call.join("bobby", "--room hideaway --mic tone")?;
    bob.wait_for_event_named("first-frame")?;
    Ok((ann, bob))
}

/// Waits until the relay has sampled itself once more, and then some.
fn wait_a_second(process: &mut Process) -> anyhow::Result<()> {
    process.forget_lines();
    process.wait_for_event_named("stats")?;
    process.forget_lines();
    process.wait_for_event_named("stats").map(drop)
}

#[test]
fn status_and_metrics_agree_with_what_happened() -> anyhow::Result<()> {
    let (call, address) = start()?;
    let (mut ann, mut bob) = two_people(&call)?;
    for line in ["one", "two"] {
        ann.send_line(line)?;
    }
    ann.wait_for_event("the second line", |e| e["event"] == "chat-sent" && e["seq"] == 2)?;
    let first = Reading::at(address)?;
    wait_a_second(&mut bob)?;
    let status = call.relay.ask(&["status"])?;
    let second = Reading::at(address)?;

    for (what, expected) in [("participants", 2), ("rooms", 1), ("connections", 2), ("devices", 2)] {
        assert_eq!(status[what], expected, "{what}: {status}");
    }
    let room = &status["by_room"][0];
    assert_eq!((&room["room"], &room["participants"]), (&1.into(), &2.into()), "{status}");
    let ids: Vec<&serde_json::Value> = (0..2).map(|n| &room["clients"][n]["participant"]).collect();
    assert_eq!(ids, [1, 2], "{status}");
    let sends_video = &room["clients"][0];
    assert!(sends_video["received_kbps"].as_u64() > Some(50), "{status}");
    assert!(room["clients"][1]["sent_kbps"].as_u64() > Some(50), "{status}");
    assert!(sends_video["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0 && rtt < 1000.0), "{status}");
    assert!(status["datagrams"]["sent_per_s"].as_f64() > Some(50.0), "{status}");
    assert!(status["load"]["memory_bytes"].as_u64() > Some(1 << 20), "{status}");
    assert!(status["load"]["cores"].as_f64().is_some_and(|c| c > 0.0 && c < 2.0), "{status}");
    assert_eq!(status["chat"]["lines"], 2, "{status}");
    assert!(status["chat"]["stored_ms"]["p50"].as_f64() > Some(0.0), "{status}");
    let page = call.relay.operate(&["status"])?;
    assert!(page.contains("2, rooms: 1, connections: 2") && page.lines().count() > 8, "{page}");

    for (metric, value) in [
        ("vchatd_participants", 2.0),
        ("vchatd_rooms", 1.0),
        ("vchatd_room_participants", 2.0),
        ("vchatd_joins_total", 2.0),
        ("vchatd_leaves_total", 0.0),
        ("vchatd_chat_broken", 0.0),
    ] {
        assert_eq!(second.sum(metric, &[]), value, "{metric}");
    }
    assert_eq!(second.sum("vchatd_chat_lines_total", &[("result", "stored")]), 2.0);
    let traffic = ["received_datagrams", "received_bytes", "sent_datagrams", "sent_bytes"];
    for name in traffic {
        let metric = format!("vchatd_{name}_total");
        assert!(second.sum(&metric, &[]) > first.sum(&metric, &[]), "{metric} has grown");
        for of in ["room", "client"] {
            let part = second.sum(&format!("vchatd_{of}_{name}_total"), &[]);
            assert_eq!(part, second.sum(&metric, &[]), "{metric} is that of each {of}");
        }
        let client = [("room", "1"), ("participant", "2")];
        assert!(second.sum(&format!("vchatd_client_{name}_total"), &client) > 0.0, "{name}");
    }

    // Who leaves takes nothing along.
    assert!(bob.terminate()?.success());
    ann.wait_for_event_named("peer-left")?;
    let third = Reading::at(address)?;
    for name in traffic {
        let metric = format!("vchatd_{name}_total");
        assert!(third.sum(&metric, &[]) >= second.sum(&metric, &[]), "{metric} has not gone back");
        let room = third.sum(&format!("vchatd_room_{name}_total"), &[("room", "1")]);
        assert_eq!(room, third.sum(&metric, &[]), "{metric} of the one room");
        assert_eq!(third.sum(&format!("vchatd_client_{name}_total"), &[("participant", "2")]), 0.0);
    }
    assert_eq!(third.sum("vchatd_participants", &[]), 1.0);
    assert_eq!(third.sum("vchatd_leaves_total", &[("reason", "goodbye")]), 1.0);
    Ok(())
}

#[test]
fn strangers_are_counted_by_why_they_were_turned_away() -> anyhow::Result<()> {
    let (call, address) = start()?;
    // It has met the relay but the relay not it.
    call.relay.pair("eve", &call.path("eve"))?;
    std::fs::remove_file(call.path("eve").join("identity.pem"))?;
    let mut eve = Process::spawn(&mut call.stranger("eve", "")?)?;
    assert_eq!(eve.wait()?.code(), Some(4), "{:?}", eve.stderr_lines());
    let reading = Reading::at(address)?;
    assert!(reading.sum("vchatd_refusals_total", &[("code", "8")]) >= 1.0, "{}", reading.text);
    assert!(reading.sum("vchatd_connection_attempts_total", &[("verdict", "accept")]) >= 2.0);
    assert_eq!(reading.sum("vchatd_joins_total", &[]), 0.0);
    Ok(())
}

#[test]
fn metrics_are_described_and_say_of_nobody_who_he_is() -> anyhow::Result<()> {
    let (call, address) = start()?;
    let (_ann, _bob) = two_people(&call)?;
    let Reading { text, scrape } = Reading::at(address)?;
    let described = |what: &str| -> BTreeSet<&str> {
        let line = |line: &'_ str| Some(line.strip_prefix(what)?.split(' ').next()?.to_owned());
        text.lines().filter_map(|l| line(l).map(|name| &l[what.len()..what.len() + name.len()])).collect()
    };
    let (helped, typed) = (described("# HELP "), described("# TYPE "));
    assert_eq!(helped, typed);
    for sample in &scrape.samples {
        let base = ["_sum", "_count"].iter().find_map(|end| sample.metric.strip_suffix(end));
        let name = base.filter(|base| typed.contains(base)).unwrap_or(&sample.metric);
        assert!(typed.contains(name), "{name} has no type");
        let counts = matches!(sample.value, Value::Counter(_));
        assert_eq!(counts, sample.metric.ends_with("_total"), "{name}: {:?}", sample.value);
        let start = ["vchatd_", "process_"].iter().any(|start| name.starts_with(start));
        assert!(start, "{name}");
    }

    let devices = call.relay_devices()?;
    let pins = devices.iter().map(|device| device["pin"].as_str().context("a pin"));
    let mut private = vec!["annabella", "bobby", "hideaway", "127.0.0.1"];
    private.extend(pins.collect::<Result<Vec<_>, _>>()?);
    private.extend(devices[0]["pin"].as_str().context("a pin")?.split('-').filter(|part| part.len() > 3));
    let status = call.relay.ask(&["status"])?.to_string();
    for word in private {
        assert!(!text.contains(word), "{word} is in the metrics");
        assert!(!status.contains(word), "{word} is in the status");
    }
    Ok(())
}

#[test]
fn the_dashboard_asks_for_what_the_relay_tells() -> anyhow::Result<()> {
    let (call, address) = start()?;
    let (_ann, _bob) = two_people(&call)?;
    let reading = Reading::at(address)?;
    let names = reading.names();
    let dashboard = include_str!("../../daemon/grafana/vchatd.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut asked: Vec<&str> = targets.filter_map(|target| target["expr"].as_str()).collect();
    let variables = dashboard["templating"]["list"].as_array().context("variables")?;
    asked.extend(variables.iter().filter_map(|variable| variable["query"]["query"].as_str()));
    assert!(asked.len() > 30, "{asked:?}");
    for query in asked {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics: Vec<&str> =
            words.filter(|w| w.starts_with("vchatd_") || w.starts_with("process_")).collect();
        assert!(!metrics.is_empty(), "{query}");
        for metric in metrics {
            assert!(names.contains(metric), "{metric} of {query:?} is not told");
        }
    }
    Ok(())
}

#[test]
fn both_sockets_answer_what_may_be_asked_and_nothing_else() -> anyhow::Result<()> {
    let (call, address) = start()?;
    let control = call.relay.control();
    let ask = |method: &str, path: &str| -> anyhow::Result<[Reply; 2]> {
        Ok([Reply::at(address, method, path)?, Reply::on(&control, method, path)?])
    };
    for (method, path, status, says) in [
        ("GET", "/metrics", 200, "vchatd_build_info"),
        ("HEAD", "/metrics", 200, ""),
        ("GET", "/health", 200, "ok\n"),
        ("HEAD", "/health", 200, ""),
        ("GET", "/health?verbose", 200, "ok\n"),
        ("GET", "/", 404, "/metrics and /health"),
        ("POST", "/", 404, ""),
        ("POST", "/metrics", 405, "can be read"),
        ("DELETE", "/health", 405, "can be read"),
    ] {
        for reply in ask(method, path)? {
            assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
            assert!(reply.body.contains(says), "{method} {path}: {reply:?}");
            assert_eq!(reply.body.is_empty(), method == "HEAD", "{method} {path}: {reply:?}");
            assert_eq!(reply.head.contains("allow: GET, HEAD"), status == 405, "{reply:?}");
        }
    }

    // Commands go to the control socket alone.
    let request = b"{\"request\":\"devices\"}\n";
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(DEADLINE))?;
    tcp.write_all(request)?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut unix = UnixStream::connect(&control)?;
    unix.write_all(request)?;
    let mut answer = String::new();
    unix.read_to_string(&mut answer)?;
    assert!(answer.starts_with("{\"done\":["), "{answer}");

    // Those who connect and say nothing keep nobody off the control socket, and go in the end.
    let silent = (0..20).map(|_| TcpStream::connect(address)).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(Reply::on(&control, "GET", "/health")?.status, 200);
    assert_eq!(Reply::at(address, "GET", "/health")?.status, 200, "after they were dropped");
    drop(silent);
    Ok(())
}

#[test]
fn a_device_is_logged_from_its_next_connection_and_nobody_else_is() -> anyhow::Result<()> {
    let call = Call::start()?;
    for name in ["annabella", "bobby"] {
        let mut process = call.join(name, "")?;
        process.wait_for_event_named("joined")?;
        assert!(process.terminate()?.success());
    }
    let asked = call.relay.ask(&["qlog", "bobby", "--for", "10m"])?;
    let dir = Path::new(asked["directory"].as_str().context("a directory")?);
    assert_eq!(dir, call.relay.state().join("qlog"), "{asked}");
    let mut ann = call.join("annabella", "--mic tone")?;
    ann.wait_for_event_named("joined")?;
    assert_eq!(dir.read_dir()?.count(), 0, "what was logged of her is gone");
    let mut bob = call.join("bobby", "--mic tone")?;
    bob.wait_for_event_named("joined")?;
    wait_a_second(&mut bob)?;

    let logs = dir.read_dir()?.collect::<Result<Vec<_>, _>>()?;
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert_eq!(logs[0].metadata()?.permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(logs[0].path())?;
    let mut records = text.split('\x1e').skip(1).map(serde_json::from_str::<serde_json::Value>);
    let head = records.next().context("a head")??;
    assert!(head["qlog_version"].is_string() && head["qlog_format"] == "JSON-SEQ", "{head}");
    let events = records.collect::<Result<Vec<_>, _>>()?;
    for name in ["packet_sent", "packet_received", "metrics_updated"] {
        let of_name = |e: &&serde_json::Value| e["name"].as_str().is_some_and(|n| n.ends_with(name));
        assert!(events.iter().filter(of_name).count() > 1, "{name}: {} events", events.len());
    }
    let why = call.relay.ask(&["qlog", "nobody"]).expect_err("no such device").to_string();
    assert!(why.contains("nobody"), "{why}");
    Ok(())
}

#[test]
fn metrics_that_cannot_be_served_are_said_so() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    let file = dir.path().join("vchatd.toml");
    std::fs::write(&file, "mdns = 'off'\nmetrics = 'nonsense'\n")?;
    let file = file.to_string_lossy();
    for (options, code, said) in [
        (["--metrics", &taken], 1, vec!["cannot serve the metrics on", &taken]),
        (["--metrics", "nonsense"], 2, vec!["--metrics", "nonsense"]),
        (["--config", &file], 2, vec!["vchatd.toml", "line 2"]),
    ] {
        let mut command = relay_command(([127, 0, 0, 1], 0).into(), dir.path())?;
        let mut relay = Process::spawn(command.args(options))?;
        assert_eq!(relay.wait()?.code(), Some(code), "{options:?}");
        let lines = relay.stderr_lines().join("\n");
        assert!(said.iter().all(|word| lines.contains(word)), "{options:?}: {lines}");
    }
    Ok(())
}
