//! Pairing and trust with the real programs, as people and operators use them.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context;
use serde_json::Value;
use vchat_certs::identity::Identity;
use vchat_certs::pake;
use vchat_certs::pin::peer_pin;
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::pb;
use vchat_tests::harness::{Call, DEADLINE, Process, bin};

/// Runs a client's command that ends by itself.
fn client(arguments: &[&str], home: &std::path::Path) -> anyhow::Result<Output> {
    let mut command = Command::new(bin("vchat-client")?);
    command.args(arguments).arg("--config-dir").arg(home).arg("--state-dir").arg(home);
    command.output().context("cannot start vchat-client")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Joins as a device that is paired or pairs on its way, and leaves again.
fn visit(call: &Call, name: &str, options: &str) -> anyhow::Result<Value> {
    let mut process = Process::spawn(&mut call.stranger(name, options)?)?;
    let joined = process.wait_for_event_named("joined")?;
    assert!(process.terminate()?.success());
    Ok(joined)
}

/// Fails to join: the exit code and the only line of stderr.
fn refused(call: &Call, name: &str, options: &str) -> anyhow::Result<(Option<i32>, String)> {
    let mut process = Process::spawn(&mut call.stranger(name, options)?)?;
    let status = process.wait()?;
    let lines = process.stderr_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    Ok((status.code(), lines[0].clone()))
}

#[test]
fn the_first_person_comes_in_by_the_link_that_the_first_start_prints() -> anyhow::Result<()> {
    let mut call = Call::start()?;
    let link = call.relay.process().wait_for("the first invite", |line| {
        line.split_whitespace().find(|word| word.starts_with("vchat://")).map(str::to_owned)
    })?;
    assert!(link.starts_with(&format!("vchat://{}/#", call.relay.address())), "{link}");
    let joined = visit(&call, "ann", &link)?;
    assert_eq!(joined["room"], "lobby");
    let device = &call.relay_devices()?[0];
    assert_eq!((&device["role"], &device["name"]), (&"admin".into(), &"ann".into()));
    // The link was good for one.
    let (code, why) = refused(&call, "bob", &link)?;
    assert!(code == Some(4) && why.contains("has been used"), "{why}");
    // For ever after: without the link, also after the relay has restarted, which prints no further invite.
    visit(&call, "ann", "")?;
    assert!(call.relay.terminate()?.success());
    call.relay.restart()?;
    visit(&call, "ann", "")?;
    assert!(call.relay.terminate()?.success());
    let (printed, logged) = (call.relay.process().lines(), call.relay.process().stderr_lines());
    assert!(!printed.iter().any(|line| line.contains("vchat://")), "{printed:?}");
    assert!(!logged.iter().any(|line| line.contains("vchat://")), "{logged:?}");
    Ok(())
}

#[test]
fn who_is_not_paired_is_told_how_to() -> anyhow::Result<()> {
    let call = Call::start()?;
    let pin = Identity::load_or_create(call.relay.state())?.pin().to_string();
    let (code, why) = refused(&call, "eve", "")?;
    assert_eq!(code, Some(4));
    for part in ["not paired", "vchatd invite", "vchat-client vchat://", "pair --relay", "--code", &pin] {
        assert!(why.contains(part), "no {part:?} in: {why}");
    }
    // Trusting the relay on first use does not make the relay trust us.
    let (code, why) = refused(&call, "eve", "--trust-on-first-use")?;
    assert!(code == Some(4) && why.contains("not paired") && why.contains("vchatd invite"), "{why}");
    assert!(!call.path("eve").join("known_relays").exists(), "nothing is remembered of a relay that refused");
    Ok(())
}

#[test]
fn a_code_pairs_and_a_room_in_an_invite_binds() -> anyhow::Result<()> {
    let call = Call::start()?;
    let relay = call.relay.address().to_string();
    let invite = call.relay.ask(&["invite", "--code", "--room", "team"])?;
    assert_eq!(invite["link"], Value::Null);
    let code = invite["code"].as_str().context("no code")?;
    let pair =
        |code: &str| client(&["pair", "--relay", &relay, "--code", code, "--name", "Ann"], &call.path("ann"));
    let wrong = format!("{}{}", &code[..code.len() - 1], if code.ends_with('7') { '8' } else { '7' });
    let output = pair(&wrong)?;
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("code is wrong"), "{}", said(&output));
    let output = pair(code)?;
    assert!(output.status.success(), "{}", said(&output));
    let pin = Identity::load_or_create(call.relay.state())?.pin().to_string();
    assert!(said(&output).contains(&pin) && said(&output).contains("team"), "{}", said(&output));

    assert_eq!(visit(&call, "ann", "")?["room"], "team", "the room of the invite");
    let (code, why) = refused(&call, "ann", "--room lobby")?;
    assert!(code == Some(4) && why.contains("other rooms"), "{why}");
    let devices = call.relay_devices()?;
    assert_eq!((&devices[0]["rooms"][0], &devices[0]["role"]), (&"team".into(), &"member".into()));
    Ok(())
}

#[test]
fn a_revoked_device_is_cut_off_in_the_middle_of_its_call() -> anyhow::Result<()> {
    let call = Call::start()?;
    let (mut ann, mut bob) = (call.join("ann", "")?, call.join("bob", "")?);
    ann.wait_for_event_named("joined")?;
    bob.wait_for_event_named("joined")?;
    ann.wait_for_event_named("peer-joined")?;
    call.relay.operate(&["devices", "rename", "bob", "Bob, stolen laptop"])?;
    let revoked = call.relay.ask(&["devices", "revoke", "Bob, stolen laptop"])?;
    assert_eq!(revoked["cut"], 1);
    assert_eq!(bob.wait()?.code(), Some(4));
    let lines = bob.stderr_lines().join("\n");
    assert!(lines.contains("revoked this device"), "{lines}");
    let error = bob.wait_for_event_named("error")?;
    assert_eq!(error["code"], "refused");
    ann.wait_for_event_named("peer-left")?;
    assert_eq!(refused(&call, "bob", "")?.0, Some(4));
    assert!(ann.terminate()?.success());
    // A new invite lets it in again; one that it still had would not.
    let link = call.relay.invite(&[])?;
    visit(&call, "bob", &link)?;
    Ok(())
}

#[test]
fn clients_follow_the_relay_to_its_next_key_and_to_a_new_certificate() -> anyhow::Result<()> {
    let mut call = Call::start()?;
    let first = Identity::load_or_create(call.relay.state())?.pin().to_string();
    let (mut ann, mut bob) = (call.join("ann", "")?, call.join("bob", "")?);
    ann.wait_for_event_named("joined")?;
    bob.wait_for_event_named("joined")?;
    call.relay.operate(&["invites", "cancel"])?;
    let begun = call.relay.ask(&["key", "rotate"])?;
    assert_eq!(begun["pin"], first.as_str());
    let next = begun["next"]["pin"].as_str().context("no next key")?.to_owned();
    // Both write it down and say so; then it takes over, and the calls go on.
    let deadline = Instant::now() + DEADLINE;
    let key = loop {
        let key = call.relay.ask(&["key"])?;
        if key["next"].is_null() {
            break key;
        }
        assert!(Instant::now() < deadline, "the next key does not take over: {key}");
    };
    assert_eq!(key["pin"], next.as_str());
    assert!(ann.try_wait()?.is_none() && bob.try_wait()?.is_none());
    ann.send_line("still here")?;
    bob.wait_for_event("Ann's words", |e| e["event"] == "chat" && e["text"] == "still here")?;
    assert!(ann.terminate()?.success() && bob.terminate()?.success());
    let mut again = Process::spawn(&mut call.stranger("ann", "")?)?;
    again
        .wait_for_event("the change", |e| e["event"] == "relay-key-changed" && e["relay"] == next.as_str())?;
    assert!(again.terminate()?.success());
    let known = std::fs::read_to_string(call.path("ann").join("known_relays"))?;
    assert!(known.contains(&next) && !known.contains(&first), "the old key is good no more: {known}");

    // The same key in another certificate is the same relay.
    assert!(call.relay.terminate()?.success());
    let path = call.relay.state().join("identity.pem");
    let pem = std::fs::read_to_string(&path)?;
    let key = &pem[pem.find("-----BEGIN PRIVATE KEY").context("a key")?..];
    let pair = rcgen::KeyPair::from_pem(key)?;
    let certificate = rcgen::CertificateParams::new(vec!["reissued.example".into()])?.self_signed(&pair)?;
    assert!(!pem.contains(certificate.pem().trim()), "another certificate");
    std::fs::write(&path, format!("{}{key}", certificate.pem()))?;
    call.relay.restart()?;
    visit(&call, "bob", "")?;
    Ok(())
}

#[test]
fn a_relay_that_poses_as_another_is_refused_by_its_key() -> anyhow::Result<()> {
    let (real, fake) = (Call::start()?, Call::start()?);
    // The link of one relay, led to another.
    let link = real.relay.invite(&[])?;
    let (code, why) = refused(&real, "ann", &format!("{link} --relay {}", fake.relay.address()))?;
    let (ours, theirs) = (
        Identity::load_or_create(real.relay.state())?.pin(),
        Identity::load_or_create(fake.relay.state())?.pin(),
    );
    assert_eq!(code, Some(4));
    assert!(why.contains(&ours.to_string()) && why.contains(&theirs.to_string()), "{why}");
    visit(&real, "ann", &link)?;
    // A code of one, at another that was never told it.
    let invite = real.relay.ask(&["invite", "--code"])?;
    let code = invite["code"].as_str().context("no code")?;
    let output =
        client(&["pair", "--relay", &fake.relay.address().to_string(), "--code", code], &real.path("bob"))?;
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(!real.path("bob").join("known_relays").exists());
    Ok(())
}

/// A relay that says it has any code, and lets nobody know how often it was asked but us.
struct Liar {
    address: std::net::SocketAddr,
    proofs: Arc<AtomicUsize>,
}

/// What it answers to the client's first message, and to the proof.
type Lie = (Option<pb::pair_down::Body>, pb::pair_down::Body);

impl Liar {
    fn start(runtime: &tokio::runtime::Runtime, lie: Lie) -> anyhow::Result<Self> {
        let _guard = runtime.enter();
        let home = tempfile::tempdir()?;
        let identity = Identity::load_or_create(home.path())?;
        let secrets = vchat_quic::RelaySecrets::new(&[7; 32]);
        let config = vchat_quic::relay_config(vchat_certs::tls::server_config(&identity)?, &secrets)?;
        let socket = vchat_quic::relay_socket("127.0.0.1:0".parse()?)?;
        let socket = vchat_quic::RelaySocket::new(socket, &secrets, true)?;
        let endpoint = vchat_quic::relay_endpoint(socket, config, &secrets)?;
        let (address, proofs) = (endpoint.local_addr()?, Arc::<AtomicUsize>::default());
        let counted = proofs.clone();
        runtime.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                // A client that hangs up is no reason to stop lying to the next.
                drop(Self::lie(incoming, &identity, &lie, &counted).await);
            }
        });
        Ok(Self { address, proofs })
    }

    async fn lie(
        incoming: quinn::Incoming,
        identity: &Identity,
        (first, second): &Lie,
        proofs: &AtomicUsize,
    ) -> anyhow::Result<()> {
        let connection = incoming.await?;
        let (mut send, mut receive) = connection.accept_bi().await?;
        let mut deframer = Deframer::new(1 << 16);
        let mut next = async || -> anyhow::Result<pb::pair_up::Body> {
            loop {
                if let Some(message) = deframer.pop::<pb::PairUp>()? {
                    return message.body.context("empty");
                }
                let chunk = receive.read_chunk(1 << 16, true).await?.context("the end")?;
                deframer.push(&chunk.bytes);
            }
        };
        let pb::pair_up::Body::Code(code) = next().await? else { anyhow::bail!("no code") };
        // An honest share, for a guess at the code.
        let guess = format!("{}-0000-0000", code.nameplate).parse()?;
        let client = peer_pin(connection.peer_identity()).context("no key")?;
        let mut exporter = [0; 32];
        let exported = connection.export_keying_material(&mut exporter, pake::EXPORTER_LABEL, &[]);
        exported.map_err(|_| anyhow::anyhow!("no exporter"))?;
        let (_, share) = pake::Relay::answer(&guess, client, identity.pin(), &code.share, &exporter)?;
        let share = pb::pair_down::Body::Share(pb::PairShare { share });
        let answer = |body: &pb::pair_down::Body| frame(&pb::PairDown { body: Some(body.clone()) });
        send.write_all(&answer(first.as_ref().unwrap_or(&share))).await?;
        next().await?;
        proofs.fetch_add(1, Ordering::SeqCst);
        send.write_all(&answer(second)).await?;
        connection.closed().await;
        Ok(())
    }
}

#[test]
fn a_relay_that_does_not_have_the_code_is_not_trusted_whatever_it_says() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let home = tempfile::tempdir()?;
    let paired = |proof: Vec<u8>| pb::pair_down::Body::Paired(pb::Paired { proof, ..pb::Paired::default() });
    let busy = pb::pair_down::Body::Refused(pb::PairRefused { why: pb::PairRefusal::Busy.into() });
    for (what, lie, proofs) in [
        ("no proof", (None, paired(vec![])), 1),
        ("a made-up proof", (None, paired(vec![7; 32])), 1),
        ("paired without an exchange", (Some(paired(vec![7; 32])), paired(vec![])), 0),
        ("busy, once it has something to test guesses with", (None, busy), 1),
    ] {
        let liar = Liar::start(&runtime, lie)?;
        let address = liar.address.to_string();
        let output = client(&["pair", "--relay", &address, "--code", "4-1234-5678"], home.path())?;
        assert_eq!(output.status.code(), Some(4), "{what}: {}", said(&output));
        assert!(said(&output).contains("does not have this code"), "{what}: {}", said(&output));
        assert!(!home.path().join("known_relays").exists(), "{what}: it is remembered");
        assert_eq!(liar.proofs.load(Ordering::SeqCst), proofs, "{what}: guesses");
    }
    Ok(())
}

#[test]
fn a_link_opened_again_after_a_change_of_the_key_still_comes_in() -> anyhow::Result<()> {
    let call = Call::start()?;
    let link = call.relay.invite(&[])?;
    visit(&call, "ann", &link)?;
    call.relay.operate(&["invites", "cancel"])?;
    let mut ann = Process::spawn(&mut call.stranger("ann", "")?)?;
    ann.wait_for_event_named("joined")?;
    call.relay.operate(&["key", "rotate"])?;
    let deadline = Instant::now() + DEADLINE;
    while !call.relay.ask(&["key"])?["next"].is_null() {
        assert!(Instant::now() < deadline, "the next key does not take over");
    }
    assert!(ann.terminate()?.success());
    visit(&call, "ann", "")?;
    visit(&call, "ann", &link)?;
    // Who was not told, as by a change in a hurry, meets the hard stop, and no invite is spent on it.
    call.relay.pair("bob", &call.path("bob"))?;
    call.relay.operate(&["key", "rotate", "--now"])?;
    let fresh = call.relay.invite(&[])?;
    let output = client(&["pair", &fresh], &call.path("bob"))?;
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(
        said(&output).contains("has changed") && said(&output).contains("known_relays:2"),
        "{}",
        said(&output)
    );
    std::fs::remove_file(call.path("bob").join("known_relays"))?;
    visit(&call, "bob", &fresh)?;
    Ok(())
}

#[test]
fn an_administrator_of_one_room_invites_to_that_room_only() -> anyhow::Result<()> {
    let call = Call::start()?;
    let relay = call.relay.address().to_string();
    visit(&call, "ann", &call.relay.invite(&["--admin", "--room", "team"])?)?;
    let invite =
        |more: &[&str]| client(&[&["invite", "--relay", &relay, "--json"], more].concat(), &call.path("ann"));
    let output = invite(&["--room", "lobby"])?;
    assert!(!output.status.success() && said(&output).contains("its own rooms"), "{}", said(&output));
    let made: Value = serde_json::from_slice(&invite(&["--admin"])?.stdout)?;
    visit(&call, "bob", made["link"].as_str().context("no link")?)?;
    assert_eq!(refused(&call, "bob", "--room lobby")?.0, Some(4));
    // What it made ends with it.
    let made: Value = serde_json::from_slice(&invite(&[])?.stdout)?;
    call.relay.operate(&["devices", "revoke", "ann"])?;
    let (code, why) = refused(&call, "eve", made["link"].as_str().context("no link")?)?;
    assert!(code == Some(4) && why.contains("taken back"), "{why}");
    Ok(())
}

#[test]
fn commands_reach_the_relay_that_is_named_and_no_secret_is_repeated() -> anyhow::Result<()> {
    let call = Call::start()?;
    let link = call.relay.invite(&["--host", "relay.example"])?;
    let port = call.relay.address().port();
    assert!(link.starts_with(&format!("vchat://relay.example:{port}/#")), "the port that is bound: {link}");
    let damaged = &link[..link.len() - 2];
    for arguments in
        [&[damaged][..], &["pair", damaged], &["pair", "--relay", "h", "--code", "1234-9876-55x"]]
    {
        let output = client(arguments, &call.path("ann"))?;
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(
            !said(&output).contains(&damaged[damaged.len() - 20..]) && !said(&output).contains("9876"),
            "{}",
            said(&output)
        );
    }
    // A file that is no socket is not removed for one.
    let precious = call.path("precious");
    std::fs::write(&precious, "text")?;
    let mut command = Command::new(bin("vchatd")?);
    command.args(["--listen", "127.0.0.1:0", "--mdns", "off", "--state-dir"]).arg(call.path("other"));
    let output = command.arg("--control").arg(&precious).output()?;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("precious") && std::fs::read_to_string(&precious)? == "text");
    Ok(())
}

#[test]
fn a_relay_that_trusts_on_first_use_lets_in_whoever_trusts_it() -> anyhow::Result<()> {
    let call = Call::start_with(&["--mdns", "off", "--trust-on-first-use"])?;
    let (code, why) = refused(&call, "eve", "")?;
    assert!(code == Some(4) && why.contains("not paired"), "{why}");
    visit(&call, "ann", "--trust-on-first-use")?;
    visit(&call, "ann", "")?;
    let device = &call.relay_devices()?[0];
    assert_eq!((&device["name"], &device["role"]), (&"ann".into(), &"member".into()));
    // It can be shown the door like any other.
    call.relay.operate(&["devices", "revoke", "ann"])?;
    let (code, why) = refused(&call, "ann", "")?;
    assert!(code == Some(4) && why.contains("revoked"), "{why}");
    Ok(())
}

#[test]
fn a_relay_is_found_on_the_local_network_by_its_key() -> anyhow::Result<()> {
    let call = Call::start_with(&["--mdns", "on"])?;
    // Found, but not paired; or, where other relays answer too, one of several that are not.
    let (code, why) = refused(&call, "ann", "--relay auto")?;
    if why.contains("cannot look around") {
        eprintln!("skipped: this machine has no multicast ({why})");
        return Ok(());
    }
    assert!(code == Some(4) && why.contains("none of the relays on this network"), "{why}");
    assert!(why.contains(&call.relay.address().port().to_string()), "{why}");
    let link = call.relay.invite(&[])?;
    let output = client(&["pair", &link, "--relay", "auto"], &call.path("ann"))?;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(visit(&call, "ann", "--relay auto")?["room"], "lobby");
    Ok(())
}

#[test]
fn an_administrator_invites_from_afar_and_nobody_else_does() -> anyhow::Result<()> {
    let call = Call::start()?;
    let relay = call.relay.address().to_string();
    let invite = |name: &str, more: &[&str]| {
        client(&[&["invite", "--relay", &relay, "--json"], more].concat(), &call.path(name))
    };
    visit(&call, "ann", &call.relay.invite(&["--admin"])?)?;
    let output = invite("ann", &["--room", "team"])?;
    assert!(output.status.success(), "{}", said(&output));
    let made: Value = serde_json::from_slice(&output.stdout)?;
    let link = made["link"].as_str().context("no link")?;
    assert!(link.starts_with(&format!("vchat://{relay}/#")) && made["code"].is_null(), "{made}");
    assert_eq!(visit(&call, "bob", link)?["room"], "team");

    let output = invite("ann", &["--code"])?;
    let made: Value = serde_json::from_slice(&output.stdout)?;
    let code = made["code"].as_str().context("no code")?;
    let output = client(&["pair", "--relay", &relay, "--code", code], &call.path("cat"))?;
    assert!(output.status.success(), "{}", said(&output));

    for (name, part) in [("bob", "only from administrators"), ("eve", "not paired")] {
        let output = invite(name, &[])?;
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains(part), "{}", said(&output));
    }
    let output = invite("ann", &["--uses", "100000"])?;
    assert!(output.status.code() == Some(1) && said(&output).contains("1 to 1000"), "{}", said(&output));
    assert_eq!(call.relay_devices()?.len(), 3);
    Ok(())
}

#[test]
fn operators_hear_what_is_wrong() -> anyhow::Result<()> {
    let call = Call::start()?;
    let fails =
        |arguments: &[&str]| call.relay.operate(arguments).err().map(|e| e.to_string()).unwrap_or_default();
    for (arguments, part) in [
        (&["devices", "revoke", "nobody"][..], "no device is called"),
        (&["devices", "rename", "nobody", "x"], "no device is called"),
    ] {
        let why = fails(arguments);
        assert!(why.contains(part) && why.contains("exit status: 1"), "{arguments:?}: {why}");
    }
    for arguments in [
        &["invite", "--ttl", "soon"][..],
        &["invite", "--ttl", "1s"],
        &["invite", "--uses", "0"],
        &["invite", "--room", " "],
        &["invite", "--code", "--uses", "2"],
    ] {
        assert!(fails(arguments).contains("exit status: 2"), "{arguments:?}");
    }
    let nowhere = call.path("nowhere");
    let mut command = Command::new(bin("vchatd")?);
    let output = command.args(["devices", "--state-dir"]).arg(&nowhere).output()?;
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("is it running") && !nowhere.exists(), "{}", said(&output));
    // A second relay with the same state would spoil it.
    let mut command = Command::new(bin("vchatd")?);
    let output = command.args(["--listen", "127.0.0.1:0", "--state-dir"]).arg(call.relay.state()).output()?;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("another vchatd"), "{}", said(&output));
    Ok(())
}
