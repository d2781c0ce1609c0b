//! Telling the local network that there is a relay.

use std::net::{IpAddr, SocketAddr};

use tokio::sync::watch;
use vchat_lan::Advertisement;

use crate::config::Mdns;
use crate::keys::Shown;

/// Announces the relay until dropped, if it is to be announced; with its new key after a change. A network on which that is not
/// possible is no reason not to run.
pub(crate) async fn announce(
    when: Mdns,
    addrs: Vec<SocketAddr>,
    own: IpAddr,
    mut keys: watch::Receiver<Shown>,
) {
    if when == Mdns::Off || (when == Mdns::Auto && !is_private(own)) {
        return;
    }
    let pin = keys.borrow_and_update().current.pin();
    let mut advertisement = match Advertisement::start(&host_name(), &addrs, pin) {
        Ok(advertisement) => advertisement,
        Err(e) => return tracing::warn!("the local network is not told of this relay: {e}"),
    };
    while keys.changed().await.is_ok() {
        let pin = keys.borrow_and_update().current.pin();
        advertisement.set_pin(pin);
    }
}

/// Whether an address is one that only its own network reaches (RFC 1918, RFC 3927, RFC 4193, RFC 4291).
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(a) => a.is_private() || a.is_link_local() || a.is_loopback(),
        IpAddr::V6(a) => a.is_unique_local() || a.is_unicast_link_local() || a.is_loopback(),
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "vchatd".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_networks_are_told_unasked() {
        for (address, private) in [
            ("192.168.1.5", true),
            ("10.0.0.1", true),
            ("169.254.7.7", true),
            ("127.0.0.1", true),
            ("203.0.113.5", false),
            ("100.64.0.1", false),
            ("fd00::2", true),
            ("fe80::1", true),
            ("::1", true),
            ("::ffff:192.168.1.5", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_private(address.parse().expect("an address")), private, "{address}");
        }
    }
}
