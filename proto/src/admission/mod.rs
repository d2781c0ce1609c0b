//! Who may try to connect to a relay: keeps strangers from taking its time and memory, and from guessing.

mod limits;
mod network;
mod table;

use std::net::IpAddr;
use std::time::Instant;

pub use self::limits::Limits;
use self::network::Networks;
use self::table::Table;
use crate::bucket::TokenBucket;

/// Decides about the attempts to connect to one relay, on all its sockets together.
///
/// Ask [`Self::admit`] about each attempt as its first packet comes, and tell [`Self::settle`] how each accepted one
/// ended. Both answer at once: there is nothing to drain and no timeout.
///
/// The ladder that an attempt climbs:
///
/// 1. A *stranger* is an accepted attempt that is not settled yet. Each costs memory and a signature, so there are at
///    most [`Limits::strangers`]. Beyond, nothing is answered: the client's QUIC repeats its packet a second later, when
///    there may be room again, and an answer would cost keys.
/// 2. The source of a first packet may be forged. Under load it must show that it is real (a Retry, RFC 9000 section
///    8.1.2); Retries are bounded too, beyond them nothing is answered. An unvalidated attempt leaves no trace in the
///    memory of networks, or whoever forges a source could have its owner locked out.
/// 3. Attempts that fail are counted against the network of a validated address, and a network that fails too often is
///    refused until its allowance refills. While it is, its unvalidated attempts need a Retry even on an idle relay,
///    or a guesser would simply come unvalidated. That costs the owner of a forged address nothing but a round trip.
///
/// 4. Nobody shakes hands without end: each network has [`Limits::handshakes`], members too. Beyond, nothing is answered.
///
/// A network is an IPv4 address (mapped ones included) or an IPv6 /64; the /48 around that has an allowance of its own,
/// four times as large, as who holds one address of a /48 often holds all. Everybody behind one NAT shares an allowance,
/// so only failures cost: members who all come back at once after a restart of the relay get in.
///
/// Attempts under way cannot be called back: who starts many at once may fail with all of them before the first is
/// known to have failed. What that is beyond the allowance is owed, and keeps the network out for that much longer.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    strangers: u32,
    handshakes: TokenBucket,
    retries: TokenBucket,
    refusals: TokenBucket,
    networks: Table,
    counters: Counters,
}

/// What to do with an attempt.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// Begin the handshake, and [`Gate::settle`] the ticket when it is known who came.
    Accept(Ticket),
    /// Answer with a Retry packet.
    Retry,
    /// Answer with CONNECTION_REFUSED.
    Refuse,
    /// Answer nothing.
    Ignore,
}

/// An attempt under way. One that is dropped without being settled holds its place for ever.
///
/// There is no way to settle a ticket twice:
///
/// ```compile_fail,E0382
/// # use vchat_proto::admission::{Gate, Outcome, Ticket};
/// fn twice(gate: &mut Gate, now: std::time::Instant, ticket: Ticket) {
///     gate.settle(now, ticket, Outcome::Gone);
///     gate.settle(now, ticket, Outcome::Gone);
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    networks: Networks,
    validated: bool,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its key is that of a paired device.
    Member,
    /// It has paired a device.
    Paired,
    /// The handshake broke or took too long, the key is unknown or revoked, or the pairing failed.
    Failed {
        /// Whether the address is known to be real by now: a completed handshake shows that as well as a Retry does.
        proven: bool,
    },
    /// The peer left early and by itself, or nothing can be held against it for another reason. Who used up the time it
    /// was given has [`Self::Failed`], or two networks could hold all places for nothing.
    Gone,
}

/// What has been decided so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Attempts accepted.
    pub accepted: u64,
    /// Attempts answered with a Retry.
    pub retried: u64,
    /// Attempts refused.
    pub refused: u64,
    /// Attempts not answered.
    pub ignored: u64,
    /// Accepted attempts that failed, held against a network or not.
    pub failed: u64,
}

impl Gate {
    /// A gate to which nobody has come yet.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            strangers: 0,
            handshakes: TokenBucket::new(limits.easy_handshakes),
            retries: TokenBucket::new(limits.retries),
            refusals: TokenBucket::new(limits.refusals),
            networks: Table::new(limits.networks, limits.failures, limits.handshakes),
            counters: Counters { accepted: 0, retried: 0, refused: 0, ignored: 0, failed: 0 },
        }
    }

    /// Decides about an attempt from an address; `validated` if that has been shown to be real, by a token of a Retry or
    /// of an earlier connection.
    pub fn admit(&mut self, now: Instant, from: IpAddr, validated: bool) -> Verdict {
        self.networks.forget(now);
        let networks = Networks::of(from);
        let verdict = if self.strangers >= self.limits.strangers {
            Verdict::Ignore
        } else if validated {
            self.admit_validated(now, networks)
        } else {
            self.admit_unvalidated(now, networks)
        };
        match &verdict {
            Verdict::Accept(_) => self.counters.accepted += 1,
            Verdict::Retry => self.counters.retried += 1,
            Verdict::Refuse => self.counters.refused += 1,
            Verdict::Ignore => self.counters.ignored += 1,
        }
        verdict
    }

    /// Takes note of how an accepted attempt ended.
    pub fn settle(&mut self, now: Instant, ticket: Ticket, outcome: Outcome) {
        self.networks.forget(now);
        self.strangers = self.strangers.saturating_sub(1);
        let Ticket { networks, validated } = ticket;
        let mut at_fault = false;
        if let Outcome::Failed { proven } = outcome {
            self.counters.failed += 1;
            at_fault = validated || proven;
        }
        // Without room for it the failure goes unpunished: then attempts under way fill the table.
        let entered = validated || at_fault && self.networks.enter(now, networks);
        if entered && at_fault {
            self.networks.blame(now, networks);
        }
        if entered {
            self.networks.leave(now, networks);
        }
    }

    /// What has been decided so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Accepted attempts that are not settled.
    #[must_use]
    pub const fn strangers(&self) -> u32 {
        self.strangers
    }

    /// Networks that are remembered, for an attempt under way or for failures.
    #[must_use]
    pub fn networks(&self) -> usize {
        self.networks.len()
    }

    fn admit_validated(&mut self, now: Instant, networks: Networks) -> Verdict {
        if self.networks.is_locked_out(now, networks) {
            return if self.refusals.take(now, 1) { Verdict::Refuse } else { Verdict::Ignore };
        }
        let crowded = self.networks.under_way(networks) >= self.limits.strangers_per_network
            || self.networks.is_too_fast(now, networks);
        if crowded || !self.networks.enter(now, networks) {
            return Verdict::Ignore;
        }
        self.networks.shake_hands(now, networks);
        // It needs no token, but it is load that others see.
        self.handshakes.take(now, 1);
        self.accept(Ticket { networks, validated: true })
    }

    fn admit_unvalidated(&mut self, now: Instant, networks: Networks) -> Verdict {
        let easy = self.strangers < self.limits.easy_strangers
            && !self.networks.is_locked_out(now, networks)
            && self.handshakes.take(now, 1);
        if easy {
            self.accept(Ticket { networks, validated: false })
        } else if self.retries.take(now, 1) {
            Verdict::Retry
        } else {
            Verdict::Ignore
        }
    }

    const fn accept(&mut self, ticket: Ticket) -> Verdict {
        self.strangers += 1;
        Verdict::Accept(ticket)
    }
}

#[cfg(test)]
mod tests;
