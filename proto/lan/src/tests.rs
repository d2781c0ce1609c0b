//! Real mDNS on the loopback interface, next to whatever else speaks it there: each test looks for its own pins only.

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, stdin};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use mdns_sd::{MDNS_PORT, ServiceInfo};
use vchat_certs::pin::Pin;

use crate::browse::browse_on;
use crate::found::plain;
use crate::mdns::Daemon;
use crate::{Advertisement, Found, LanError, SERVICE_TYPE};

/// A pin that nobody else has, not even another run of these tests.
pub(crate) fn a_pin() -> Pin {
    let mut pin = Pin([0; 32]);
    // The beginning is in the names on the wire, so it must be random too.
    pin.0
        .chunks_mut(8)
        .for_each(|bytes| bytes.copy_from_slice(&RandomState::new().hash_one(0).to_be_bytes()));
    pin
}

fn loopback(enough: impl FnMut(&[Found]) -> bool) -> Vec<Found> {
    browse_on(MDNS_PORT, |ip| ip.is_loopback(), PATIENCE, enough).expect("browsing")
}

fn of(found: &[Found], pin: Pin) -> Option<&Found> {
    found.iter().find(|found| found.pin == pin)
}

pub(crate) fn addrs<const N: usize>(texts: [&str; N]) -> [SocketAddr; N] {
    texts.map(|text| text.parse().expect("an address"))
}

#[test]
fn a_relay_is_found_until_it_is_dropped() {
    let pin = a_pin();
    let name = "Ann's attic, 2nd floor. \u{65e5}\u{672c} \\o/";
    let mut relay = Some(Advertisement::start(name, &addrs(["127.0.0.1:4433"]), pin).expect("advertising"));
    let mut seen = None;
    let last = loopback(|found| {
        if let Some(found) = of(found, pin) {
            seen = Some(found.clone());
            relay = None;
        }
        seen.is_some() && of(found, pin).is_none()
    });
    let expected = Found { name: name.into(), addrs: addrs(["127.0.0.1:4433"]).into(), pin };
    assert_eq!(seen, Some(expected));
    assert_eq!(of(&last, pin), None, "it said goodbye");
}

#[test]
fn a_relay_of_another_process_is_found_until_that_ends() {
    let pin = a_pin();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "tests::another_process", "--ignored"])
        .env(CHILD_PIN, pin.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("another process");
    let mut seen = false;
    let last = loopback(|found| {
        let there = of(found, pin).is_some();
        seen |= there;
        if there {
            child.stdin = None;
        }
        seen && !there
    });
    drop(child.stdin.take());
    child.wait().expect("the end of the process");
    assert!(seen, "found");
    assert_eq!(of(&last, pin), None, "it said goodbye");
}

#[test]
#[ignore = "a process of the test above"]
fn another_process() {
    let pin = std::env::var(CHILD_PIN).expect("a pin").parse().expect("a pin");
    let _relay = Advertisement::start("", &addrs(["127.0.0.1:1"]), pin).expect("advertising");
    stdin().read_to_end(&mut Vec::new()).expect("the end of input");
}

#[test]
fn two_relays_of_one_name_with_several_addresses_stay_apart() {
    let (pin, other) = (a_pin(), a_pin());
    let listen = addrs(["127.0.0.1:44330", "127.0.0.1:443", "127.0.0.1:0"]);
    // So long that it is cut; a label of more than 63 bytes would not be sent at all.
    let name = "\u{e9}".repeat(40);
    let _relay = Advertisement::start(&name, &listen, pin).expect("advertising");
    let _other = Advertisement::start(&name, &addrs(["127.0.0.1:4433"]), other).expect("advertising");
    let complete =
        |found: &[Found]| of(found, pin).is_some_and(|f| f.addrs.len() == 2) && of(found, other).is_some();
    let found = loopback(complete);
    assert!(complete(&found), "{found:?}");
    assert_eq!(of(&found, pin).expect("found").addrs, addrs(["127.0.0.1:443", "127.0.0.1:44330"]));
    assert_eq!(of(&found, other).expect("found").addrs, addrs(["127.0.0.1:4433"]));
    assert_eq!(of(&found, pin).expect("found").name, "\u{e9}".repeat(22));
}

#[test]
fn another_pin_takes_the_place_of_the_old_one() {
    let (old, new) = (a_pin(), a_pin());
    let mut relay = Advertisement::start("rotating", &addrs(["127.0.0.1:4433"]), old).expect("advertising");
    let mut rotated = false;
    let found = loopback(|found| {
        if of(found, old).is_some() && !rotated {
            relay.set_pin(new);
            rotated = true;
        }
        of(found, old).is_none() && of(found, new).is_some()
    });
    assert!(rotated && of(&found, old).is_none() && of(&found, new).is_some(), "{found:?}");
}

#[test]
fn a_wrong_pin_is_not_listed_and_a_nasty_name_is_tamed() {
    let (pin, tag) = (a_pin(), plain(&a_pin()));
    let daemon = Daemon::start(MDNS_PORT, |ip, _| ip.is_loopback()).expect("mDNS");
    let announce = |label: &str, pin: &str| {
        let txt = [("v", "1"), ("pin", pin)];
        let host = format!("{}.local.", &tag[..20]);
        let mut service =
            ServiceInfo::new(SERVICE_TYPE, label, &host, "127.0.0.1", 1, &txt[..]).expect("a service");
        service.set_requires_probe(false);
        daemon.register(service).expect("registering");
    };
    // The good one is last, and one packet holds all answers: when it is there, the others have been looked at.
    announce(&format!("wrong {}", &tag[..20]), &plain(&pin)[1..]);
    announce(&format!("none {}", &tag[..20]), "");
    announce(&format!("\u{202e}nasty\r\n\x1b[2J {}", &tag[..20]), &plain(&pin));
    let found = loopback(|found| of(found, pin).is_some());
    let ours: Vec<_> = found.iter().filter(|found| found.name.contains(&tag[..20])).collect();
    let [only] = ours[..] else { panic!("{ours:?}") };
    assert_eq!((only.name.as_str(), only.pin), (&*format!("nasty [2J {}", &tag[..20]), pin));
}

#[test]
fn nowhere_to_listen_is_an_error() {
    for listen in [&[][..], &addrs(["[::]:0"])] {
        assert!(matches!(Advertisement::start("x", listen, a_pin()), Err(LanError::NoAddress)));
    }
}

#[test]
fn a_look_at_nothing_ends_in_time() {
    let nobody = |_: IpAddr| false;
    let found = browse_on(MDNS_PORT, nobody, Duration::from_millis(50), |_| false).expect("browsing");
    assert_eq!(found, []);
}

/// Longer than any answer takes on a busy machine. No test waits for it unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const CHILD_PIN: &str = "VCHAT_LAN_TEST_PIN";
