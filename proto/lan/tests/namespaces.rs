//! Two machines on one cable: network namespaces joined by a veth pair, a relay in one, a client in the other.

use std::io::{BufRead, BufReader, Read, stdin};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vchat_certs::pin::Pin;
use vchat_lan::{Advertisement, browse};

/// A relay on `[::]` is found with every address of the other side of the cable, and is reached at each.
#[test]
fn a_relay_is_found_and_reached_over_a_cable() {
    let id = std::process::id();
    let Some(_cable) = Cable::lay(id) else {
        eprintln!("skipped: this test makes network namespaces, for which it must be root and have `ip`");
        return;
    };
    let _relay = role("relay", &format!("vchat{id}a"));
    let mut client = role("client", &format!("vchat{id}b"));
    let output = BufReader::new(client.0.stdout.take().expect("a pipe"));
    let reached: Vec<_> = output
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("reached ").map(str::to_owned))
        .collect();
    assert_eq!(reached, ["10.1.2.1", "fd00:1::1", "fe80::1%2"]);
}

#[test]
#[ignore = "a process of the test above"]
fn relay() {
    let socket = UdpSocket::bind("[::]:0").expect("a socket");
    let listen = socket.local_addr().expect("an address");
    let _relay = Advertisement::start("far end", &[listen], PIN).expect("advertising");
    std::thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 1]) {
            socket.send_to(&[1], from).expect("answering");
        }
    });
    stdin().read_to_end(&mut Vec::new()).expect("the end of input");
}

#[test]
#[ignore = "a process of the test above"]
fn client() {
    let complete = |found: &[vchat_lan::Found]| found.iter().any(|f| f.pin == PIN && f.addrs.len() >= 3);
    let found = browse(Duration::from_secs(30), complete).expect("browsing");
    let [relay] = &found[..] else { panic!("{found:?}") };
    assert_eq!(relay.name, "far end");
    for addr in &relay.addrs {
        assert!(answers(*addr), "{addr} is not reached");
        let scope = if let SocketAddr::V6(v6) = addr { v6.scope_id() } else { 0 };
        let scope = if scope == 0 { String::new() } else { format!("%{scope}") };
        // On a line of its own, whatever the test harness has printed.
        eprintln!("found {addr}");
        #[expect(clippy::print_stdout, reason = "this is how it answers")]
        {
            println!("\nreached {}{scope}", addr.ip());
        }
    }
}

fn answers(addr: SocketAddr) -> bool {
    let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket.connect(addr).and_then(|()| socket.send(&[0])).and_then(|_| socket.recv(&mut [0; 1])).is_ok()
}

/// A process in a namespace; it ends with this value.
struct Role(Child);

fn role(test: &str, namespace: &str) -> Role {
    let program = std::env::current_exe().expect("this program");
    let child = Command::new("ip")
        .args(["netns", "exec", namespace])
        .arg(program)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    Role(child)
}

impl Drop for Role {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

struct Cable(u32);

impl Cable {
    /// Interface 2 of one namespace to interface 2 of the other. The IPv6 addresses are usable at once: without a
    /// check for doubles, and the link-local ones not made by the kernel.
    fn lay(id: u32) -> Option<Self> {
        let (a, b) = (format!("vchat{id}a"), format!("vchat{id}b"));
        ip(&format!("netns add {a}"))?;
        let cable = Self(id);
        ip(&format!("netns add {b}"))?;
        ip(&format!("-n {a} link add wire index 2 type veth peer name wire index 2 netns {b}"))?;
        for (namespace, end) in [(&a, 1), (&b, 2)] {
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {namespace} link set wire addrgenmode none up"))?;
            ip(&format!("-n {namespace} addr add 10.1.2.{end}/24 dev wire"))?;
            ip(&format!("-n {namespace} addr add fd00:1::{end}/64 dev wire nodad"))?;
            ip(&format!("-n {namespace} addr add fe80::{end}/64 dev wire nodad"))?;
        }
        Some(cable)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for end in ["a", "b"] {
            ip(&format!("netns del vchat{}{end}", self.0));
        }
    }
}

fn ip(arguments: &str) -> Option<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().ok()?;
    output.status.success().then_some(())
}

const PIN: Pin = Pin([7; 32]);
