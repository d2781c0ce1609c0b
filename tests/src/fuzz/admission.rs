//! People and attackers who come to a relay from anywhere, at any time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use vchat_proto::admission::{Gate, Limits, Outcome, Ticket, Verdict};

/// Small numbers, so that every limit is reached.
#[derive(Arbitrary, Debug)]
struct Bounds {
    strangers: u8,
    per_network: u8,
    easy: u8,
    networks: u8,
    failures: (u8, u8),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Come {
        from: Origin,
        validated: bool,
        times: u8,
    },
    Settle {
        which: u8,
        outcome: u8,
    },
    Pass(u16),
    /// Calls from several threads may bring their times in any order.
    Back(u16),
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    V4(u8),
    Mapped(u8),
    V6 { site: u8, network: u8, host: u8 },
}

struct Held {
    ticket: Ticket,
    /// Where it is counted: its network, and its site if it has one.
    places: Option<(IpAddr, Option<u8>)>,
}

/// Strangers, those of one network, and memory keep their bounds; each attempt is counted; all is forgotten in the end.
pub fn admission(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(bounds) = Bounds::arbitrary(&mut input) else { return };
    let limits = bounds.limits();
    let (mut gate, mut now, mut asked) = (Gate::new(limits), Instant::now() + Duration::from_secs(3600), 0);
    let mut held: Vec<Held> = Vec::new();
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        match step {
            Step::Come { from, validated, times } => {
                for _ in 0..times % 32 + 1 {
                    asked += 1;
                    match gate.admit(now, from.address(), validated) {
                        Verdict::Accept(ticket) => {
                            let places = validated.then(|| from.places());
                            held.push(Held { ticket, places });
                        }
                        Verdict::Retry => assert!(!validated, "it has shown that it is real"),
                        Verdict::Refuse => assert!(validated, "an answer to an address that may be forged"),
                        Verdict::Ignore => {}
                    }
                }
            }
            Step::Settle { which, outcome } => {
                if !held.is_empty() {
                    let held = held.swap_remove(usize::from(which) % held.len());
                    gate.settle(now, held.ticket, any(outcome));
                }
            }
            Step::Pass(ms) => now += Duration::from_millis(ms.into()),
            Step::Back(ms) => now -= Duration::from_millis((ms % 50).into()),
        }
        check(&gate, &limits, &held);
        let counters = gate.counters();
        let decided = counters.accepted + counters.retried + counters.refused + counters.ignored;
        assert_eq!(decided, asked, "{counters:?}");
        assert!(counters.failed + held.len() as u64 <= counters.accepted, "{counters:?}");
    }
    held.into_iter().for_each(|h| gate.settle(now, h.ticket, Outcome::Failed { proven: true }));
    assert_eq!(gate.strangers(), 0);
    now += A_WEEK;
    if let Verdict::Accept(ticket) = gate.admit(now, Ipv4Addr::LOCALHOST.into(), false) {
        gate.settle(now, ticket, Outcome::Gone);
    }
    assert_eq!(gate.networks(), 0, "something is remembered for ever");
}

fn check(gate: &Gate, limits: &Limits, held: &[Held]) {
    assert_eq!(gate.strangers() as usize, held.len());
    assert!(gate.strangers() <= limits.strangers);
    assert!(gate.networks() <= limits.networks);
    let forged = held.iter().filter(|h| h.places.is_none()).count();
    assert!(forged <= limits.easy_strangers as usize, "{forged} may be forged");
    for (network, site) in held.iter().filter_map(|h| h.places) {
        let here = |of_site: bool| {
            let same = |(n, s): (IpAddr, Option<u8>)| if of_site { s == site } else { n == network };
            held.iter().filter_map(|h| h.places).filter(|p| same(*p)).count()
        };
        assert!(here(false) <= limits.strangers_per_network as usize, "a network has too many places");
        assert!(site.is_none() || here(true) <= limits.strangers_per_network as usize, "a site has too many");
    }
}

impl Bounds {
    fn limits(&self) -> Limits {
        Limits {
            strangers: u32::from(self.strangers % 32),
            strangers_per_network: u32::from(self.per_network % 16),
            easy_strangers: u32::from(self.easy % 8),
            networks: usize::from(self.networks % 16),
            failures: (self.failures.0.into(), self.failures.1.into()),
            ..Limits::default()
        }
    }
}

impl Origin {
    fn address(self) -> IpAddr {
        match self {
            Self::V4(n) => Ipv4Addr::new(10, 0, 0, n % 8).into(),
            Self::Mapped(n) => Ipv4Addr::new(10, 0, 0, n % 8).to_ipv6_mapped().into(),
            Self::V6 { site, network, host } => {
                let (site, network) = (u16::from(site % 4), u16::from(network % 4));
                Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, host.into()).into()
            }
        }
    }

    fn places(self) -> (IpAddr, Option<u8>) {
        match self {
            Self::V4(n) | Self::Mapped(n) => (Self::V4(n).address(), None),
            Self::V6 { site, network, .. } => (Self::V6 { site, network, host: 0 }.address(), Some(site % 4)),
        }
    }
}

const fn any(outcome: u8) -> Outcome {
    match outcome % 8 {
        0 => Outcome::Member,
        1 => Outcome::Paired,
        2 => Outcome::Gone,
        3 => Outcome::Failed { proven: false },
        _ => Outcome::Failed { proven: true },
    }
}

/// Longer than anything is remembered.
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
