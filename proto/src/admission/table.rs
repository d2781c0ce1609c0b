//! What is remembered of networks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::network::{Network, Networks};
use crate::bucket::TokenBucket;

/// The networks with an attempt under way or with failures that are not forgotten yet.
///
/// Overflow: of those with nobody under way, the network gives way that would be forgotten soonest, so the worst
/// offenders stay longest. When there is none, what would need a new entry is not done. Everything is O(log n),
/// amortised.
#[derive(Debug)]
pub(super) struct Table {
    bound: usize,
    failures: (u32, u32),
    handshakes: (u32, u32),
    entries: BTreeMap<Network, Entry>,
    /// The entries with nobody under way, by [`Entry::full_at`].
    idle: BTreeSet<(Instant, Network)>,
}

#[derive(Debug)]
struct Entry {
    under_way: u32,
    failures: TokenBucket,
    handshakes: TokenBucket,
    /// When nothing is held against the network any more.
    full_at: Instant,
}

impl Table {
    /// A table for `bound` networks that may each fail `failures.1` times at once and `failures.0` times a minute, and begin
    /// `handshakes.1` handshakes at once and `handshakes.0` a second.
    pub(super) const fn new(bound: usize, failures: (u32, u32), handshakes: (u32, u32)) -> Self {
        Self { bound, failures, handshakes, entries: BTreeMap::new(), idle: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether too many attempts of a network, or of the site around it, have failed of late.
    pub(super) fn is_locked_out(&self, now: Instant, networks: Networks) -> bool {
        networks.iter().filter_map(|n| self.entries.get(&n)).any(|entry| !entry.failures.has(now, 1))
    }

    /// Whether a network, or the site around it, has begun too many handshakes of late, whatever came of them.
    pub(super) fn is_too_fast(&self, now: Instant, networks: Networks) -> bool {
        networks.iter().filter_map(|n| self.entries.get(&n)).any(|entry| !entry.handshakes.has(now, 1))
    }

    /// Attempts under way in a network, or in the site around it if that are more.
    pub(super) fn under_way(&self, networks: Networks) -> u32 {
        networks.iter().filter_map(|n| self.entries.get(&n)).map(|entry| entry.under_way).max().unwrap_or(0)
    }

    /// Counts an attempt as under way, which keeps its network here. False when there is no room to do so.
    pub(super) fn enter(&mut self, now: Instant, networks: Networks) -> bool {
        let enters = |e: &mut Entry| e.under_way += 1;
        let entered = networks.iter().take_while(|n| self.change(now, *n, enters)).count();
        let all = entered == networks.iter().count();
        if !all {
            networks.iter().take(entered).for_each(|n| self.leave_one(now, n));
        }
        all
    }

    /// Counts the handshake of an attempt that [`Self::enter`] counted.
    pub(super) fn shake_hands(&mut self, now: Instant, networks: Networks) {
        for network in networks.iter() {
            let _ = self.change(now, network, |e| {
                e.handshakes.take(now, 1);
            });
        }
    }

    /// An attempt that [`Self::enter`] counted is over.
    pub(super) fn leave(&mut self, now: Instant, networks: Networks) {
        networks.iter().for_each(|n| self.leave_one(now, n));
    }

    /// Holds a failure against the network of an attempt that [`Self::enter`] counted.
    pub(super) fn blame(&mut self, now: Instant, networks: Networks) {
        for network in networks.iter() {
            let _ = self.change(now, network, |e| e.failures.owe(now, 1));
        }
    }

    /// Forgets the networks that nothing is held against any more.
    pub(super) fn forget(&mut self, now: Instant) {
        while let Some((_, network)) = self.idle.first().filter(|(full_at, _)| *full_at <= now).copied() {
            self.idle.pop_first();
            self.entries.remove(&network);
        }
    }

    fn leave_one(&mut self, now: Instant, network: Network) {
        let _ = self.change(now, network, |e| e.under_way = e.under_way.saturating_sub(1));
    }

    /// Changes an entry, which comes and goes as needed. False when there is no room for it.
    fn change(&mut self, now: Instant, network: Network, change: impl FnOnce(&mut Entry)) -> bool {
        let mut entry = match self.entries.remove(&network) {
            Some(entry) => {
                self.idle.remove(&(entry.full_at, network));
                entry
            }
            None if self.make_room() => self.entry(now, network),
            None => return false,
        };
        change(&mut entry);
        let latest = now + MEMORY;
        let full_at = |bucket: &TokenBucket| bucket.full_at(now).map_or(latest, |t| t.min(latest));
        entry.full_at = full_at(&entry.failures).max(full_at(&entry.handshakes));
        let idle = entry.under_way == 0;
        if idle && entry.full_at <= now {
            return true;
        }
        if idle {
            self.idle.insert((entry.full_at, network));
        }
        self.entries.insert(network, entry);
        true
    }

    fn make_room(&mut self) -> bool {
        if self.entries.len() >= self.bound
            && let Some((_, network)) = self.idle.pop_first()
        {
            self.entries.remove(&network);
        }
        self.entries.len() < self.bound
    }

    const fn entry(&self, now: Instant, network: Network) -> Entry {
        let times = if matches!(network, Network::Site(_)) { SITE_ALLOWANCE } else { 1 };
        let (failures, handshakes) = (self.failures, self.handshakes);
        Entry {
            under_way: 0,
            failures: TokenBucket::per_minute((
                failures.0.saturating_mul(times),
                failures.1.saturating_mul(times),
            )),
            handshakes: TokenBucket::new((
                handshakes.0.saturating_mul(times),
                handshakes.1.saturating_mul(times),
            )),
            full_at: now,
        }
    }
}

/// What a site may fail, or come, more than a network: it may be a company of many people, or one attacker with 65,536 networks.
const SITE_ALLOWANCE: u32 = 4;

/// Nothing is held against anybody for longer. The deepest debt of the default limits is paid in half an hour.
const MEMORY: Duration = Duration::from_secs(24 * 3600);
