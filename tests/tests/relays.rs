//! Relays that restart, lie, are not there, or meet clients that misbehave.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use vchat_certs::identity::Identity;
use vchat_certs::tls::{Purpose, ServerTrust, client_config};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::framing::frame;
use vchat_proto::wire::{STREAM_CONTROL, pb};
use vchat_tests::harness::{Call, Process, bin};
use vchat_tests::netem::Random;

fn chats(process: &Process) -> Vec<String> {
    let line = |e: &Value| (e["event"] == "chat").then(|| e["text"].as_str().unwrap_or_default().to_owned());
    process.events().iter().filter_map(line).collect()
}

fn wait_for_chat(process: &mut Process, text: &str) -> anyhow::Result<()> {
    process.wait_for_event(&format!("the line {text:?}"), |e| e["event"] == "chat" && e["text"] == text)?;
    Ok(())
}

#[test]
fn a_relay_that_restarts_gets_its_people_back_and_every_line_once() -> anyhow::Result<()> {
    let mut call = Call::start()?;
    let mut ann = call.join("ann", "--camera test --size 320x180")?;
    let mut bob = call.join("bob", "")?;
    bob.wait_for_event_named("first-frame")?;
    ann.send_line("before")?;
    for process in [&mut ann, &mut bob] {
        wait_for_chat(process, "before")?;
        process.forget_lines();
    }
    assert!(call.relay.terminate()?.success());
    ann.wait_for_event_named("reconnecting")?;
    bob.wait_for_event_named("reconnecting")?;
    for n in 0..3 {
        ann.send_line(&format!("meanwhile {n}"))?;
        bob.send_line(&format!("also {n}"))?;
    }
    call.relay.restart()?;
    for process in [&mut ann, &mut bob] {
        process.wait_for_event_named("reconnected")?;
    }
    bob.wait_for_event_named("first-frame")?;
    ann.send_line("after")?;
    for process in [&mut ann, &mut bob] {
        for last in ["meanwhile 2", "also 2", "after"] {
            wait_for_chat(process, last)?;
        }
    }
    let (anns, bobs) = (chats(&ann), chats(&bob));
    let lines = |who: &str| (0..3).map(|n| format!("{who} {n}")).collect::<Vec<_>>();
    for said in [lines("meanwhile"), lines("also")] {
        let heard: Vec<_> = anns.iter().filter(|l| said.contains(l)).cloned().collect();
        assert_eq!(heard, said, "each once and in the order said");
    }
    assert_eq!(anns.len(), 7, "{anns:?}");
    assert_eq!(anns, bobs, "one order for both");

    // Another key under the same name is a hard stop, with both fingerprints.
    let known = std::fs::read_to_string(call.path("bob").join("known_relays"))?;
    assert!(call.relay.terminate()?.success() && bob.terminate()?.success() && ann.terminate()?.success());
    std::fs::remove_file(call.relay.state().join("identity.pem"))?;
    call.relay.restart()?;
    let theirs = Identity::load_or_create(call.relay.state())?.pin().to_string();
    let mut bob = call.join("bob", "")?;
    assert_eq!(bob.wait()?.code(), Some(4));
    let text = bob.stderr_lines().join("\n");
    let pinned = known.split_whitespace().find(|word| word.len() == theirs.len()).unwrap_or("none");
    assert!(text.contains(&theirs) && text.contains(pinned), "{text}\nknown: {known}");
    Ok(())
}

#[test]
fn what_cannot_work_is_said_in_one_line_with_its_own_exit_code() -> anyhow::Result<()> {
    let call = Call::start()?;
    let closed = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let wrong = call.path("wrong.toml");
    std::fs::write(&wrong, "listne = ['127.0.0.1:0']\n")?;
    let exposed = call.path("exposed");
    Identity::load_or_create(&exposed)?;
    std::fs::set_permissions(exposed.join("identity.pem"), std::fs::Permissions::from_mode(0o644))?;
    let exposed = format!("--config-dir {}", exposed.display());
    let daemon = |arguments: &[&str]| -> anyhow::Result<Command> {
        let mut command = Command::new(bin("vchatd")?);
        command.args(arguments);
        Ok(command)
    };
    let wrong = wrong.to_str().unwrap_or_default();
    let cases: [(Command, i32, &str, bool); 8] = [
        (call.client("ann", &format!("--relay {closed}"))?, 3, &closed, true),
        (call.client("ann", "--relay nowhere.invalid")?, 3, "nowhere.invalid", true),
        (call.client("ann", "--display window")?, 5, "display", true),
        (call.client("ann", &exposed)?, 1, "chmod 600", true),
        (call.client("ann", "--size 1x")?, 2, "1x", false),
        (call.client("ann", "--camera file:/nonexistent.y4m")?, 5, "/nonexistent.y4m", true),
        (daemon(&["--config", wrong])?, 2, "listne", true),
        (daemon(&["--listen", "nonsense"])?, 2, "nonsense", false),
    ];
    for (mut command, code, part, one_line) in cases {
        let mut process = Process::spawn(&mut command)?;
        let status = process.wait()?;
        let lines = process.stderr_lines();
        assert_eq!(status.code(), Some(code), "{command:?}: {lines:?}");
        assert!(lines.iter().any(|l| l.contains(part)), "{command:?}: {lines:?}");
        assert!(!one_line || lines.len() == 1, "{command:?}: {lines:?}");
    }
    Ok(())
}

#[tokio::test]
async fn nobody_is_harmed_by_garbage() -> anyhow::Result<()> {
    let mut call = Call::start()?;
    let mut ann = call.join("ann", "--camera test --mic tone --size 320x180")?;
    let mut bob = call.join("bob", "")?;
    bob.wait_for_event_named("first-frame")?;
    let mut random = Random::new(1, 0);
    let mut bytes = |n: usize| (0..n).map(|_| random.bits() as u8).collect::<Vec<u8>>();

    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for n in 0..500 {
        socket.send_to(&bytes(n * 3 % 1400), call.relay.address())?;
    }
    type Attack = (&'static str, Vec<u8>, Vec<Vec<u8>>);
    let hello = pb::ClientControl {
        body: Some(pb::client_control::Body::Hello(pb::Hello {
            room: "lobby".into(),
            name: "mallory".into(),
            publish: vec![pb::TrackKind::Camera.into()],
            ..pb::Hello::default()
        })),
    };
    let good = [&[STREAM_CONTROL][..], &frame(&hello)].concat();
    let huge = [&[STREAM_CONTROL][..], &[0xff; 64]].concat();
    let unknown = [&[9][..], &bytes(100)].concat();
    let not_first = pb::ClientControl { body: Some(pb::client_control::Body::Goodbye(pb::Goodbye {})) };
    let not_first = [&[STREAM_CONTROL][..], &frame(&not_first)].concat();
    let malformed = [&[STREAM_CONTROL, 5][..], &[0xff; 5]].concat();
    let twice = [&good[..], &frame(&hello)].concat();
    let after = [&good[..], &[0xff; 64]].concat();
    let mut datagram = vec![0, 0, 1];
    datagram.extend([0xff; 40]);
    let attacks: [Attack; 8] = [
        ("a length without end", huge, vec![]),
        ("an unknown stream", unknown, vec![]),
        ("no hello", not_first, vec![]),
        ("a malformed hello", malformed, vec![]),
        ("two hellos", twice, vec![]),
        ("garbage after the hello", after, vec![]),
        ("garbage datagrams", good.clone(), vec![datagram]),
        ("a short datagram", good, vec![vec![1]]),
    ];
    for (what, stream, datagrams) in attacks {
        call.relay.pair("mallory", &call.path("mallory"))?;
        let identity = Identity::load_or_create(&call.path("mallory"))?;
        let (tls, _) = client_config(&identity, ServerTrust::FirstUse, Purpose::Call)?;
        let endpoint = vchat_quic::client_endpoint(call.relay.address(), tls)?;
        let connection = endpoint.connect(call.relay.address(), "vchat")?.await?;
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(&stream).await?;
        if !datagrams.is_empty() {
            // Datagrams count once the room has taken us in: the welcome says so.
            let mut welcome = [0];
            receive.read_exact(&mut welcome).await?;
        }
        for datagram in datagrams {
            connection.send_datagram(datagram.into())?;
        }
        let closed = tokio::time::timeout(vchat_tests::harness::DEADLINE, connection.closed()).await?;
        assert_eq!(vchat_quic::close_code(&closed), Some(CloseCode::Protocol), "{what}: {closed}");
    }
    // A client that says nothing is not waited for.
    call.relay.pair("silent", &call.path("silent"))?;
    let identity = Identity::load_or_create(&call.path("silent"))?;
    let (tls, _) = client_config(&identity, ServerTrust::FirstUse, Purpose::Call)?;
    let endpoint = vchat_quic::client_endpoint(call.relay.address(), tls)?;
    let connection = endpoint.connect(call.relay.address(), "vchat")?.await?;
    let closed = tokio::time::timeout(Duration::from_secs(60), connection.closed()).await?;
    assert_eq!(vchat_quic::close_code(&closed), Some(CloseCode::HelloTimeout), "{closed}");

    // The call has gone on.
    bob.forget_lines();
    let frames = |e: &Value| e["peers"][0]["video"]["frames"].as_u64().unwrap_or(0);
    let before = frames(&bob.wait_for_event_named("stats")?);
    bob.wait_for_event("more pictures", |e| e["event"] == "stats" && frames(e) > before + 15)?;
    ann.send_line("still here")?;
    wait_for_chat(&mut bob, "still here")?;
    assert!(ann.terminate()?.success() && bob.terminate()?.success());
    assert!(call.relay.terminate()?.success());
    Ok(())
}
