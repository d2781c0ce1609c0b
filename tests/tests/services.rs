//! The relay as a service: what it tells its service manager, and what it takes from it.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use vchat_tests::harness::{Call, DEADLINE, Process, Reply, bin, relay_command};

/// The end of a service manager's socket.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { socket, path })
    }

    /// Waits until this is told.
    fn wait_for(&self, news: &str) -> anyhow::Result<()> {
        let mut told = [0; 1000];
        loop {
            let len = self.socket.recv(&mut told).with_context(|| format!("{news} was not told"))?;
            if String::from_utf8_lossy(&told[..len]).lines().any(|line| line == news) {
                return Ok(());
            }
        }
    }
}

fn relay(state: &Path) -> anyhow::Result<Command> {
    let mut command = relay_command(([127, 0, 0, 1], 0).into(), state)?;
    command.args(["--mdns", "off"]);
    Ok(command)
}

#[test]
fn the_service_manager_hears_when_the_relay_is_ready_works_and_stops() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let manager = Manager::new(dir.path())?;
    let mut command = relay(&dir.path().join("state"))?;
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "3000000");
    let mut relay = Process::spawn(&mut command)?;
    manager.wait_for("READY=1")?;
    // The relay has called itself.
    manager.wait_for("WATCHDOG=1")?;
    manager.wait_for("WATCHDOG=1")?;
    relay.signal(Signal::HUP)?;
    manager.wait_for("RELOADING=1")?;
    manager.wait_for("READY=1")?;
    relay.signal(Signal::TERM)?;
    manager.wait_for("STOPPING=1")?;
    assert!(relay.wait()?.success());
    Ok(())
}

#[test]
fn a_relay_that_cannot_be_called_is_not_said_to_work() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let manager = Manager::new(dir.path())?;
    // Its packets to itself go to somebody else, who says nothing.
    let other = UdpSocket::bind("127.0.0.1:0")?;
    let taken = UdpSocket::bind("127.0.0.1:0")?;
    taken.connect(other.local_addr()?)?;
    let mut command = on_sockets(&dir.path().join("state"), None)?;
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "600000");
    let mut relay = Process::spawn_with_stdin(&mut command, OwnedFd::from(taken).into())?;
    manager.wait_for("READY=1")?;
    relay.wait_for_stderr("why it does not work", |line| line.contains("the relay does not"))?;
    let health = Reply::on(&dir.path().join("state/control.sock"), "GET", "/health")?;
    ensure!(health.status == 503 && health.body.contains("the relay does not"), "{health:?}");
    manager.socket.set_nonblocking(true)?;
    let mut told = [0; 1000];
    let told = manager.socket.recv(&mut told).map(|len| String::from_utf8_lossy(&told[..len]).into_owned());
    assert!(told.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "{told:?}");
    Ok(())
}

/// A relay that is given the socket on its stdin, and perhaps one for metrics, as systemd gives them.
fn on_sockets(state: &Path, metrics: Option<&TcpListener>) -> anyhow::Result<Command> {
    let inner = relay(state)?;
    let mut command = Command::new("sh");
    let (more, count) = match metrics {
        Some(listener) => {
            rustix::io::fcntl_setfd(listener, rustix::io::FdFlags::empty())?;
            (format!(" 4<&{}", listener.as_raw_fd()), 2)
        }
        None => (String::new(), 1),
    };
    let script = format!(r#"exec 3<&0{more} </dev/null; LISTEN_FDS={count} LISTEN_PID=$$ exec "$0" "$@""#);
    command.args(["-c", &script]);
    command.arg(inner.get_program()).args(inner.get_args());
    for (variable, _) in inner.get_envs() {
        command.env_remove(variable);
    }
    Ok(command)
}

#[test]
fn a_relay_serves_on_the_sockets_that_it_is_given() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    let metrics = TcpListener::bind("127.0.0.1:0")?;
    let mut command = on_sockets(&dir.path().join("state"), Some(&metrics))?;
    let mut relay = Process::spawn_with_stdin(&mut command, OwnedFd::from(socket).into())?;
    assert_eq!(relay.wait_for_address()?, address);
    let at = metrics.local_addr()?;
    let line = format!("metrics on http://{at}/metrics");
    relay.wait_for("where the metrics are", |said| (said == line).then_some(()))?;
    let health = Reply::at(at, "GET", "/health")?;
    ensure!(health.status == 200 && health.body.starts_with("ok\n"), "{health:?}");
    let link = relay
        .wait_for("the first invite", |line| Some(line.trim().strip_prefix("vchat-client ")?.to_owned()))?;
    let home = dir.path().join("ann");
    let mut client = Command::new(bin("vchat-client")?);
    client.args([
        &link,
        "--camera",
        "none",
        "--mic",
        "none",
        "--speaker",
        "none",
        "--display",
        "none",
        "--events",
        "json",
    ]);
    client.arg("--config-dir").arg(&home).arg("--state-dir").arg(&home);
    Process::spawn(&mut client)?.wait_for_event_named("joined")?;
    Ok(())
}

#[test]
fn settings_are_read_again_while_people_talk_and_wrong_ones_are_not_taken() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("vchatd.toml");
    std::fs::write(&file, "public = 'localhost'\n")?;
    let mut call = Call::start_with(&["--mdns", "off", "--config", &file.to_string_lossy()])?;
    let mut ann = call.join("ann", "")?;
    ann.wait_for_event_named("joined")?;
    ensure!(call.relay.invite(&[])?.starts_with("vchat://localhost:"), "as the file says");

    std::fs::write(&file, "public = 'after.example'\nchat-days = 7\n")?;
    call.relay.process().signal(Signal::HUP)?;
    call.relay
        .process()
        .wait_for_stderr("that it was read", |line| line.contains("the settings were read again"))?;
    ensure!(call.relay.invite(&[])?.starts_with("vchat://after.example:"), "as the file says now");

    std::fs::write(&file, "public = 'worse.example'\nchat-days = 0\n")?;
    call.relay.process().signal(Signal::HUP)?;
    let why = call
        .relay
        .process()
        .wait_for_stderr("that it is wrong", |line| line.contains("the settings stay"))?;
    ensure!(why.contains("line 2") && why.contains("chat-days is 0"), "{why}");
    ensure!(call.relay.invite(&[])?.starts_with("vchat://after.example:"), "as before");

    ann.send_line("still here")?;
    ann.wait_for_event_named("chat-sent")?;
    ensure!(ann.events().iter().all(|e| e["event"] != "reconnecting"), "somebody was interrupted");
    Ok(())
}

#[test]
fn a_configuration_can_be_checked_without_running_it() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("vchatd.toml");
    let check = |text: &str| -> anyhow::Result<(Option<i32>, String, String)> {
        std::fs::write(&file, text)?;
        let output = Command::new(bin("vchatd")?).arg("check-config").arg("--config").arg(&file).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    };
    let (code, shown, _) = check("chat-days = 9\n")?;
    ensure!(
        code == Some(0) && shown.contains("chat-days = 9\n") && shown.contains("chat-lines = 100000"),
        "{shown}"
    );
    let (code, shown, why) = check("# settings\n\nlisten = ['[::]']\n")?;
    ensure!(code == Some(2) && shown.is_empty() && why.contains("line 3"), "{code:?} {why}");
    // What it shows is a configuration, and the packaged one is right.
    let (_, shown, _) = check(include_str!("../../daemon/systemd/vchatd.toml"))?;
    ensure!(check(&shown)?.1 == shown, "{shown}");
    Ok(())
}

#[test]
fn the_units_leave_a_relay_little_to_reach() -> anyhow::Result<()> {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/systemd");
    for (unit, most) in [("vchatd.service", "1.1"), ("vchatd-sealed.service", "0.2")] {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager"]).arg(units.join(unit));
        let Ok(output) = command.output() else {
            eprintln!("not tested: there is no systemd-analyze here");
            return Ok(());
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let level =
            said.lines().find_map(|line| line.split("exposure level for ").nth(1)).context("no level")?;
        let level = level.split_whitespace().nth(1).context("no number")?;
        let (level, most): (f64, f64) = (level.parse()?, most.parse()?);
        ensure!(level <= most, "{unit}: exposure {level}, at most {most}\n{said}");
    }
    Ok(())
}
