//! What was found: reading what others announce, within limits.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use mdns_sd::{InterfaceId, ResolvedService, ScopedIp};
use vchat_certs::pin::Pin;
use vchat_proto::id::{MAX_NAME_BYTES, misleads};

use crate::{SERVICE_TYPE, TXT_VERSION};

/// A relay that says it is on the local network. It is a hint: see the [crate's documentation](crate).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What the relay calls itself, made harmless to show: 1 to 64 bytes that
    /// [`DisplayName`](vchat_proto::id::DisplayName) would take.
    pub name: String,
    /// Where it says it listens: 1 to [`MAX_ADDRS`] addresses, loopback first, link-local last. An IPv6 link-local
    /// address has the scope of the interface it was heard on.
    pub addrs: Vec<SocketAddr>,
    /// The key it says it has. The caller demands it in the TLS handshake.
    pub pin: Pin,
}

/// Most relays kept while browsing. Who answers after that is not listed.
pub const MAX_RELAYS: usize = 64;

/// Most addresses kept of one relay. Those that come later in the order of [`Found::addrs`] are dropped.
pub const MAX_ADDRS: usize = 16;

/// The instances that answered so far, by their full names; at most [`MAX_RELAYS`].
#[derive(Default)]
pub(crate) struct Listing(BTreeMap<String, Found>);

impl Listing {
    /// Takes an answer; one that is no relay of ours removes what the instance said before. Says whether that
    /// changes anything.
    pub(crate) fn update(&mut self, service: &ResolvedService) -> bool {
        let Some(found) = read(service) else {
            return self.remove(&service.fullname);
        };
        if self.0.get(&service.fullname) == Some(&found)
            || (self.0.len() >= MAX_RELAYS && !self.0.contains_key(&service.fullname))
        {
            return false;
        }
        self.0.insert(service.fullname.clone(), found);
        true
    }

    /// Forgets an instance that took its leave. Says whether it was there.
    pub(crate) fn remove(&mut self, fullname: &str) -> bool {
        self.0.remove(fullname).is_some()
    }

    /// One entry for each pin, in the order of the names. Of several names the shortest is taken.
    pub(crate) fn relays(&self) -> Vec<Found> {
        let mut by_pin: BTreeMap<Pin, Found> = BTreeMap::new();
        for found in self.0.values() {
            by_pin
                .entry(found.pin)
                .and_modify(|known| {
                    known.addrs = ordered(known.addrs.iter().chain(&found.addrs).copied());
                    if (found.name.len(), &found.name) < (known.name.len(), &known.name) {
                        known.name.clone_from(&found.name);
                    }
                })
                .or_insert_with(|| found.clone());
        }
        let mut relays: Vec<_> = by_pin.into_values().collect();
        relays.sort_by(|a, b| (&a.name, a.pin).cmp(&(&b.name, b.pin)));
        relays
    }
}

fn read(service: &ResolvedService) -> Option<Found> {
    let text = |key| service.txt_properties.get_property_val_str(key);
    if text("v") != Some(TXT_VERSION) {
        return None;
    }
    let pin: Pin = text("pin")?.parse().ok()?;
    let label = service.fullname.strip_suffix(SERVICE_TYPE)?.strip_suffix('.')?;
    let label = label.strip_suffix(mark(&pin, service.port).trim_start()).unwrap_or(label);
    let name = match tame(label, MAX_NAME_BYTES) {
        name if name.is_empty() => short(&pin),
        name => name,
    };
    let addrs = ordered(service.addresses.iter().filter_map(|ip| reachable(ip, service.port)));
    (!addrs.is_empty()).then_some(Found { name, addrs, pin })
}

/// The address as one to connect to, unless it cannot be one.
fn reachable(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    let addr = match ip {
        ScopedIp::V4(v4) if v4.addr().is_broadcast() => None,
        ScopedIp::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => None,
        ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
            let scope = v6.scope_id().index;
            (scope != 0).then(|| SocketAddrV6::new(*v6.addr(), port, 0, scope).into())
        }
        other => Some(SocketAddr::new(other.to_ip_addr(), port)),
    }?;
    let nonsense = port == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast();
    // Another machine's loopback address is none of ours.
    let foreign = addr.ip().is_loopback() && !heard_on_loopback(ip);
    (!nonsense && !foreign).then_some(addr)
}

fn heard_on_loopback(ip: &ScopedIp) -> bool {
    let is_loopback = |interface: &InterfaceId| interface.get_addrs().iter().any(IpAddr::is_loopback);
    match ip {
        ScopedIp::V4(v4) => v4.interface_ids().iter().any(is_loopback),
        ScopedIp::V6(v6) => is_loopback(v6.scope_id()),
        _ => false,
    }
}

/// Without doubles, best first, at most [`MAX_ADDRS`].
fn ordered(addrs: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addrs: Vec<_> = addrs.collect();
    addrs.sort_unstable_by_key(|addr| {
        let link_local = match addr.ip() {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        (link_local, !addr.ip().is_loopback(), *addr)
    });
    addrs.dedup();
    addrs.truncate(MAX_ADDRS);
    addrs
}

/// What follows the name in an instance's label, so that no two relays have one label.
pub(crate) fn mark(pin: &Pin, port: u16) -> String {
    format!(" ({}:{port})", short(pin))
}

/// The pin as one word.
pub(crate) fn plain(pin: &Pin) -> String {
    pin.to_string().replace('-', "")
}

/// The first two groups of the pin: 40 bits, enough to tell relays apart at sight.
fn short(pin: &Pin) -> String {
    pin.to_string().chars().take(9).collect()
}

/// A name fit to be shown, of at most `max` bytes: what misleads and what is white becomes one space.
pub(crate) fn tame(name: &str, max: usize) -> String {
    let mut tamed = String::new();
    for word in name.split(|c: char| c.is_whitespace() || misleads(c)).filter(|word| !word.is_empty()) {
        let space = if tamed.is_empty() { "" } else { " " };
        for c in space.chars().chain(word.chars()) {
            if tamed.len() + c.len_utf8() > max {
                return tamed.trim_end().to_owned();
            }
            tamed.push(c);
        }
    }
    tamed
}

#[cfg(test)]
mod tests {
    use vchat_proto::id::DisplayName;

    use super::*;
    use crate::tests::a_pin;

    fn answer(label: &str, ips: &[&str], port: u16, txt: &[(&str, &str)]) -> ResolvedService {
        mdns_sd::ServiceInfo::new(SERVICE_TYPE, label, "h.local.", ips, port, txt)
            .expect("a service")
            .as_resolved_service()
    }

    fn relay(label: &str, ips: &[&str], port: u16, pin: &Pin) -> ResolvedService {
        answer(label, ips, port, &[("v", "1"), ("pin", &plain(pin))])
    }

    #[test]
    fn the_mark_is_hidden_and_the_name_made_harmless() {
        let pin = a_pin();
        let found =
            read(&relay(&format!("Ann's{}", mark(&pin, 4433)), &["10.0.0.1"], 4433, &pin)).expect("a relay");
        assert_eq!((found.name.as_str(), found.pin), ("Ann's", pin));
        assert_eq!(found.addrs, ["10.0.0.1:4433".parse().expect("an address")]);
        for (label, name) in [
            ("a\u{202e}b\n\x1b[31mc", "a b [31mc"),
            ("\u{feff} \t", &*short(&pin)),
            (mark(&pin, 4433).trim_start(), &*short(&pin)),
            (&*format!("x{}", mark(&pin, 1)), &*format!("x{}", mark(&pin, 1))),
        ] {
            assert_eq!(read(&relay(label, &["10.0.0.1"], 4433, &pin)).expect("a relay").name, name);
        }
        for label in ["é".repeat(100), "a ".repeat(100), "\u{2028}".repeat(9)] {
            let name = tame(&label, MAX_NAME_BYTES);
            assert!(
                name.is_empty() || DisplayName::parse(&name).is_ok_and(|n| n.as_str() == name),
                "{name:?}"
            );
        }
    }

    #[test]
    fn what_is_no_relay_is_not_listed_and_ends_what_was() {
        let (pin, mut listing) = (plain(&a_pin()), Listing::default());
        let good = answer("a", &["10.0.0.1"], 1, &[("v", "1"), ("pin", &pin)]);
        for (ips, port, txt) in [
            (&["10.0.0.1"][..], 1, &[("v", "1")][..]),
            (&["10.0.0.1"], 1, &[("pin", &pin)]),
            (&["10.0.0.1"], 1, &[("v", "2"), ("pin", &pin)]),
            (&["10.0.0.1"], 1, &[("v", "1"), ("pin", &pin[1..])]),
            (&["10.0.0.1"], 1, &[("v", "1"), ("pin", "")]),
            (&["10.0.0.1"], 0, &[("v", "1"), ("pin", &pin)]),
            (&[], 1, &[("v", "1"), ("pin", &pin)]),
            // No interface heard these, so the scope of the one and the right of the other are unknown.
            (&["fe80::1", "127.0.0.1", "::1"], 1, &[("v", "1"), ("pin", &pin)]),
            (
                &["0.0.0.0", "224.0.0.1", "255.255.255.255", "ff02::1", "::", "::ffff:10.0.0.1"],
                1,
                &[("v", "1"), ("pin", &pin)],
            ),
        ] {
            assert!(listing.update(&good) && !listing.update(&good));
            assert!(listing.update(&answer("a", ips, port, txt)), "{ips:?} {port} {txt:?}");
            assert_eq!(listing.relays(), []);
        }
    }

    #[test]
    fn ports_and_doubles_of_one_relay_become_one_entry() {
        let (pin, mut listing) = (a_pin(), Listing::default());
        listing.update(&relay("attic b", &["169.254.0.1", "fd00::1"], 2, &pin));
        listing.update(&relay("attic", &["10.0.0.1", "fd00::1"], 1, &pin));
        let [found] = &listing.relays()[..] else { panic!("one relay") };
        assert_eq!(found.name, "attic");
        let texts: Vec<_> = found.addrs.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.1:1", "[fd00::1]:1", "[fd00::1]:2", "169.254.0.1:2"]);
    }

    #[test]
    fn a_crowd_is_cut() {
        let mut listing = Listing::default();
        let ips: Vec<String> = (0..100).map(|i| format!("10.0.0.{i}")).collect();
        let ips: Vec<_> = ips.iter().map(String::as_str).collect();
        for i in 0..200 {
            listing.update(&relay(&i.to_string(), &ips, 1, &a_pin()));
        }
        let relays = listing.relays();
        assert_eq!(relays.len(), MAX_RELAYS);
        assert!(relays.iter().all(|found| found.addrs.len() == MAX_ADDRS));
    }
}
