//! What counts as one origin of connections.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Addresses that one party is likely to hold all of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Network {
    /// One IPv4 address: a host, or everybody behind a NAT.
    V4(Ipv4Addr),
    /// An IPv6 /64, the least that a link is given; a host takes new addresses in it as it likes.
    V6(u64),
    /// An IPv6 /48, what a company or a rented server is often given: 65,536 times the above.
    Site(u64),
}

/// Addresses are personal data: not for logs.
impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network(..)")
    }
}

/// The network of an address, and the site around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Networks {
    network: Network,
    site: Option<Network>,
}

impl Networks {
    pub(super) fn of(address: IpAddr) -> Self {
        // A socket for both families shows IPv4 addresses as mapped ones.
        match address.to_canonical() {
            IpAddr::V4(v4) => Self { network: Network::V4(v4), site: None },
            IpAddr::V6(v6) => {
                let prefix = (v6.to_bits() >> 64) as u64;
                Self { network: Network::V6(prefix), site: Some(Network::Site(prefix >> 16)) }
            }
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Network> {
        [self.network].into_iter().chain(self.site)
    }
}
