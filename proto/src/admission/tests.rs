use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::*;

const FAILED: Outcome = Outcome::Failed { proven: true };
const TIMED_OUT: Outcome = Outcome::Failed { proven: false };

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// One of many IPv4 addresses.
fn host(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

/// An address in one of the networks of one of many sites.
fn host6(site: u16, network: u16, host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, host).into()
}

fn gate() -> Gate {
    Gate::new(Limits::default())
}

/// Room for two networks that take all they may.
fn roomy() -> Limits {
    Limits { strangers: 256, strangers_per_network: 128, ..Limits::default() }
}

fn ticket(verdict: Verdict) -> Option<Ticket> {
    match verdict {
        Verdict::Accept(ticket) => Some(ticket),
        Verdict::Retry | Verdict::Refuse | Verdict::Ignore => None,
    }
}

/// Comes as a client does: from an address that nobody knows, and again when told to show that it is real.
fn connect(gate: &mut Gate, now: Instant, from: IpAddr) -> Option<Ticket> {
    match gate.admit(now, from, false) {
        Verdict::Retry => ticket(gate.admit(now, from, true)),
        verdict => ticket(verdict),
    }
}

/// How many of those who come one after another with a wrong key get to show it.
fn guesses(gate: &mut Gate, times: impl Iterator<Item = Instant>, from: impl Fn(u64) -> IpAddr) -> usize {
    let guess = |(i, now): (u64, Instant)| {
        let ticket = connect(gate, now, from(i))?;
        gate.settle(now, ticket, FAILED);
        Some(())
    };
    (0..).zip(times).filter_map(guess).count()
}

/// Many times, this far apart, for so long.
fn every(step: Duration, from: Instant, during: Duration) -> impl Iterator<Item = Instant> {
    (0..).map(move |i| from + step * i).take_while(move |t| *t < from + during)
}

#[test]
fn a_forged_flood_does_not_lock_out_the_one_whose_address_it_bears() {
    for victim in [host(1), host6(1, 1, 1)] {
        let (mut gate, start) = (gate(), Instant::now());
        let mut under_way = VecDeque::new();
        for (i, now) in (0..).zip(every(ms(1) / 2, start, minutes(2))) {
            while let Some((_, held)) = under_way.pop_front_if(|(since, _)| now >= *since + ms(5000)) {
                gate.settle(now, held, TIMED_OUT);
            }
            under_way.extend(ticket(gate.admit(now, victim, false)).map(|t| (now, t)));
            if i % 2000 == 0 {
                let member = connect(&mut gate, now, victim).expect("the owner of the address gets in");
                gate.settle(now, member, Outcome::Member);
            }
        }
        assert!(gate.counters().failed > 500, "the flood did get at handshakes");
        assert_eq!(gate.networks(), 0, "and nothing of it is remembered");
    }
}

#[test]
fn a_flood_from_forged_addresses_costs_what_is_allowed_and_no_more() {
    let (mut gate, start) = (gate(), Instant::now());
    let mut held = Vec::new();
    for (i, now) in (0..).zip(every(ms(1) / 40, start, ms(10_000))) {
        // At worst each handshake is over at once and makes room for the next.
        if let Some(ticket) = ticket(gate.admit(now, host(i), false)) {
            gate.settle(now, ticket, TIMED_OUT);
        }
        if i % 40_000 == 0 {
            held.push(ticket(gate.admit(now, host6(1, 1, 1), true)).expect("a real address gets in"));
        }
    }
    let counters = gate.counters();
    assert!(counters.failed <= 100 + 50 * 10, "handshakes for nothing: {counters:?}");
    assert!((190_000..=2000 + 20_000 * 10).contains(&counters.retried), "{counters:?}");
    assert_eq!(counters.accepted + counters.retried + counters.ignored, 400_000 + 10);

    // Handshakes that stay open take the places that are easy to have, and no other.
    let later = start + minutes(1);
    (0..1000).for_each(|i| held.extend(ticket(gate.admit(later, host(i), false))));
    assert_eq!(gate.strangers(), 32);
    held.into_iter().for_each(|t| gate.settle(later, t, TIMED_OUT));
}

#[test]
fn nobody_waits_for_a_retry_at_an_idle_relay() {
    let (mut gate, start) = (gate(), Instant::now());
    for (i, now) in (0..).zip(every(ms(20), start, minutes(1))) {
        let ticket = ticket(gate.admit(now, host(i), false)).expect("no need to show anything");
        gate.settle(now + ms(10), ticket, Outcome::Member);
    }
    let busy = start + minutes(2);
    let held: Vec<_> = (0..33).map(|i| gate.admit(busy, host(i), false)).collect();
    let (last, easy) = held.split_last().expect("33");
    assert!(easy.iter().all(|v| matches!(v, Verdict::Accept(_))), "32 at once");
    assert!(matches!(last, Verdict::Retry), "{last:?}");

    // Validated handshakes are work too, even when they are over at once.
    let (mut gate, now) = (self::gate(), Instant::now());
    for i in 0..100 {
        let ticket = ticket(gate.admit(now, host(i), true)).expect("real");
        gate.settle(now, ticket, Outcome::Gone);
    }
    assert!(matches!(gate.admit(now, host(100), false), Verdict::Retry));
}

#[test]
fn a_guesser_gets_the_burst_and_then_five_a_minute() {
    for from in [host(1), host6(1, 1, 1)] {
        let (mut gate, start) = (gate(), Instant::now());
        let through = guesses(&mut gate, every(ms(100), start, minutes(10)), |_| from);
        assert!((10 + 5 * 10 - 1..=10 + 5 * 10).contains(&through), "{through}");
        let verdict = gate.admit(start + minutes(10) - ms(1), from, true);
        assert!(matches!(verdict, Verdict::Refuse), "{verdict:?}");
        let ticket = ticket(gate.admit(start + minutes(11), from, true));
        gate.settle(start + minutes(11), ticket.expect("let in again in time"), Outcome::Member);
        gate.admit(start + minutes(30), host(2), false).expect_accepted();
        assert_eq!(gate.networks(), 0, "and forgotten in the end");
    }
}

#[test]
fn a_guesser_who_comes_in_parallel_gains_the_places_once() {
    let (mut gate, start) = (gate(), Instant::now());
    let mut through = 0;
    for now in every(ms(1000), start, minutes(240)) {
        let at_once: Vec<_> = (0..300).filter_map(|_| connect(&mut gate, now, host(1))).collect();
        through += at_once.len();
        at_once.into_iter().for_each(|t| gate.settle(now + ms(500), t, FAILED));
    }
    let once = 10 + 32 + 100;
    assert!(through <= once + 5 * 240, "{through}");
}

#[test]
fn a_network_that_is_locked_out_is_answered_rarely() {
    let (mut gate, start) = (gate(), Instant::now());
    guesses(&mut gate, every(ms(1), start, ms(20)), |_| host(1));
    let before = gate.counters();
    for now in every(ms(1) / 10, start + ms(20), ms(10_000)) {
        assert!(matches!(gate.admit(now, host(1), true), Verdict::Refuse | Verdict::Ignore));
    }
    let refused = gate.counters().refused - before.refused;
    assert!((500..=50 + 50 * 10).contains(&refused), "{refused}");
    gate.admit(start + ms(10_020), host(2), true).expect_accepted();
}

#[test]
fn only_failures_of_real_addresses_cost() {
    for outcome in [Outcome::Member, Outcome::Paired, Outcome::Gone, TIMED_OUT] {
        let (mut gate, start) = (gate(), Instant::now());
        for now in every(ms(100), start, minutes(1)) {
            let ticket =
                ticket(gate.admit(now, host(1), false)).expect("an idle relay, and nothing against it");
            gate.settle(now, ticket, outcome);
        }
        assert_eq!(gate.networks(), 0, "{outcome:?}");
    }
    // A Retry has shown that the address is real, whether the handshake was completed or not.
    let (mut gate, now) = (gate(), Instant::now());
    for _ in 0..10 {
        let ticket = ticket(gate.admit(now, host(1), true)).expect("within the allowance");
        gate.settle(now, ticket, TIMED_OUT);
    }
    assert!(matches!(gate.admit(now, host(1), true), Verdict::Refuse));
}

#[test]
fn a_site_has_four_times_the_allowance_of_a_network() {
    let (mut gate, start) = (gate(), Instant::now());
    // Another of its 65,536 networks each time.
    let through =
        guesses(&mut gate, every(ms(100), start, minutes(10)), |i| host6(1, (i % 65_536) as u16, 1));
    assert!((40 + 20 * 10 - 1..=40 + 20 * 10).contains(&through), "{through}");
    let now = start + minutes(10);
    gate.admit(now, host6(2, 1, 1), true).expect_accepted();

    // Another of the addresses of one network each time: the neighbours do not notice.
    let mut gate = self::gate();
    let through = guesses(&mut gate, every(ms(1), start, ms(100)), |i| host6(1, 1, i as u16));
    assert_eq!(through, 10);
    gate.admit(start + ms(100), host6(1, 2, 1), true).expect_accepted();
}

#[test]
fn an_ipv4_address_in_an_ipv6_one_is_itself() {
    let (mut gate, start) = (gate(), Instant::now());
    let mapped = |i: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + i).to_ipv6_mapped());
    assert_eq!(guesses(&mut gate, every(ms(1), start, ms(20)), |_| mapped(1)), 10);
    let now = start + ms(20);
    assert!(matches!(gate.admit(now, host(1), true), Verdict::Refuse));
    gate.admit(now, mapped(2), true).expect_accepted();
}

#[test]
fn a_hundred_members_behind_one_nat_all_get_in_at_once() {
    for from in [host(1), host6(1, 1, 1)] {
        let (mut gate, start) = (gate(), Instant::now());
        for restart in 0..20 {
            let start = start + ms(10_000) * restart;
            let come = |i| connect(&mut gate, start + ms(i) / 10, from).expect("a member gets in");
            let members: Vec<_> = (0..100).map(come).collect();
            members.into_iter().for_each(|t| gate.settle(start + ms(200), t, Outcome::Member));
        }
        assert_eq!(gate.counters().accepted, 2000);
        assert_eq!(gate.strangers(), 0);
        gate.admit(start + ms(200_200), host(9), false).expect_accepted();
        assert_eq!(gate.networks(), 0, "nothing is held against them");
    }
}

#[test]
fn who_only_shakes_hands_is_slowed_down_whoever_it_is() {
    for (from, burst, rate) in [(host(1), 400, 50), (host6(1, 1, 1), 400, 50)] {
        let (mut gate, start) = (gate(), Instant::now());
        let mut through = |times: Vec<Instant>| {
            let come = |now: &Instant| match gate.admit(*now, from, true) {
                Verdict::Accept(ticket) => {
                    gate.settle(*now, ticket, Outcome::Member);
                    true
                }
                Verdict::Ignore => false,
                other => panic!("{other:?}"),
            };
            times.iter().map(come).filter(|came| *came).count()
        };
        assert_eq!(through(vec![start; 1000]), burst);
        let later: Vec<Instant> = every(ms(1), start, ms(10_000)).collect();
        assert!(through(later).abs_diff(10 * rate) <= 1);
        gate.admit(start + ms(10_000), host(2), true).expect_accepted();
    }
    // A site has four times as much, for all its networks.
    let (mut gate, now) = (gate(), Instant::now());
    let come = |i: u32| {
        ticket(gate.admit(now, host6(1, i as u16, 1), true)).map(|t| gate.settle(now, t, Outcome::Gone))
    };
    assert_eq!((0..3000).filter_map(come).count(), 1600);
}

#[test]
fn places_are_bounded_shared_and_given_back() {
    let (mut gate, now) = (Gate::new(roomy()), Instant::now());
    let mut held: Vec<_> = (0..300).filter_map(|_| ticket(gate.admit(now, host(1), true))).collect();
    assert_eq!(held.len(), 128, "of one network");
    assert!(matches!(gate.admit(now, host(1), true), Verdict::Ignore), "it may come again in a moment");
    held.extend((0..100).filter_map(|i| ticket(gate.admit(now, host6(1, i, 1), true))));
    held.extend((0..100).filter_map(|i| ticket(gate.admit(now, host6(1, i, 1), true))));
    assert_eq!(held.len(), 256, "a site has as many");
    assert!(matches!(gate.admit(now, host(2), true), Verdict::Ignore));
    assert!(matches!(gate.admit(now, host(2), false), Verdict::Ignore));
    assert_eq!(gate.strangers(), 256);
    for outcome in [Outcome::Member, Outcome::Gone, TIMED_OUT, FAILED] {
        gate.settle(now, held.pop().expect("256"), outcome);
        held.extend(ticket(gate.admit(now, host(2), true)));
        assert_eq!(held.len(), 256, "a place that is given back can be taken");
    }
    held.into_iter().for_each(|t| gate.settle(now, t, Outcome::Gone));
    assert_eq!(gate.strangers(), 0);
    // Handshakes are forgotten within seconds.
    gate.admit(now + ms(10_000), host(2), false).expect_accepted();
    assert!(gate.networks() <= 4, "only those that failed are remembered");
}

#[test]
fn a_failure_of_one_does_not_free_the_place_of_another() {
    let (mut gate, now) = (Gate::new(roomy()), Instant::now());
    let unvalidated: Vec<_> = (0..5).filter_map(|_| ticket(gate.admit(now, host(1), false))).collect();
    let held = (0..100).filter(|_| ticket(gate.admit(now, host(1), true)).is_some()).count();
    unvalidated.into_iter().for_each(|t| gate.settle(now, t, FAILED));
    let more = (0..100).filter(|_| ticket(gate.admit(now, host(1), true)).is_some()).count();
    assert_eq!(held + more, 128);
}

#[test]
fn one_site_does_not_take_all_places() {
    let (mut gate, now) = (Gate::new(roomy()), Instant::now());
    let held = (0..300).filter_map(|i| ticket(gate.admit(now, host6(1, i, 1), true)));
    assert_eq!(held.count(), 128);
    gate.admit(now, host6(2, 1, 1), true).expect_accepted();
}

#[test]
fn memory_is_bounded_and_the_worst_offenders_stay() {
    let limits = Limits { networks: 64, ..roomy() };
    let (mut gate, start) = (Gate::new(limits), Instant::now());
    let here = ticket(gate.admit(start, host(7), true)).expect("there is room");
    guesses(&mut gate, every(ms(1), start, ms(20)), |_| host(1));
    // Some 13 a second, each from an address of its own, two thirds of them from a site of its own as well.
    for (i, now) in (100..).zip(every(ms(75), start + ms(20), ms(60_000))) {
        let from = if i % 3 == 0 { host(i) } else { host6(i as u16, 1, 1) };
        guesses(&mut gate, std::iter::once(now), |_| from);
        assert!(gate.networks() <= 64);
        if now < start + ms(12_000) {
            let verdict = gate.admit(now, host(1), true);
            assert!(matches!(verdict, Verdict::Refuse), "locked out as before: {verdict:?}");
        }
        let newcomer = ticket(gate.admit(now, host6(7, 7, 7), true)).expect("somebody gives way");
        gate.settle(now, newcomer, Outcome::Member);
    }
    for from in [host(2), host6(0, 2, 2)] {
        let through = guesses(&mut gate, every(ms(1), start + ms(60_000), ms(20)), |_| from);
        assert_eq!(through, 10, "a full memory still takes note");
    }
    assert!(gate.networks() > 60, "the bound was tried: {}", gate.networks());
    let crowd: Vec<_> =
        (0..127).filter_map(|_| ticket(gate.admit(start + ms(60_000), host(7), true))).collect();
    assert_eq!(crowd.len(), 127);
    assert!(
        matches!(gate.admit(start + ms(60_000), host(7), true), Verdict::Ignore),
        "the first still counts"
    );
    crowd.into_iter().chain([here]).for_each(|t| gate.settle(start + ms(60_000), t, Outcome::Gone));
    gate.admit(start + minutes(10), host(2), false).expect_accepted();
    assert_eq!((gate.strangers(), gate.networks()), (1, 0), "all is forgotten in time");
}

#[test]
fn an_attempt_that_cannot_be_remembered_is_not_accepted() {
    let limits = Limits { networks: 3, ..Limits::default() };
    let (mut gate, now) = (Gate::new(limits), Instant::now());
    let one = ticket(gate.admit(now, host6(1, 1, 1), true)).expect("takes two entries");
    assert!(matches!(gate.admit(now, host6(2, 1, 1), true), Verdict::Ignore));
    assert_eq!(gate.networks(), 2, "half an attempt leaves nothing behind");
    let two = ticket(gate.admit(now, host6(1, 2, 1), true)).expect("the site is there already");
    assert!(matches!(gate.admit(now, host(1), true), Verdict::Ignore));
    assert_eq!(gate.networks(), 3);
    // A failure that nobody has room for is let go.
    let three = ticket(gate.admit(now, host(1), false)).expect("leaves nothing behind");
    [one, two].into_iter().for_each(|t| gate.settle(now, t, Outcome::Gone));
    // Handshakes are forgotten within a second here, and so make room again.
    gate.settle(now, three, FAILED);
    assert_eq!((gate.strangers(), gate.networks()), (0, 3));
    gate.admit(now + ms(1000), host6(2, 1, 1), true).expect_accepted();
}

impl Verdict {
    fn expect_accepted(self) {
        assert!(matches!(self, Self::Accept(_)), "{self:?}");
    }
}
