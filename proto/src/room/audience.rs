//! What speakers should know of the ways from the relay to those who listen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::id::ParticipantId;
use crate::wire::pb;

/// Tells each speaker of the worst loss on the way to a listener, when that changes notably, at most every [`INTERVAL`].
///
/// Loss and length of bursts are each the worst of all, perhaps of different listeners: protection against both does for all.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    people: BTreeMap<ParticipantId, Person>,
    looked_at: Option<Instant>,
    /// Whether something changed since.
    changed: bool,
}

#[derive(Debug)]
struct Person {
    /// Publishes audio.
    speaks: bool,
    /// Receives audio.
    hears: bool,
    way: pb::Audience,
    told: pb::Audience,
}

impl Audience {
    pub(crate) fn join(&mut self, id: ParticipantId, speaks: bool, hears: bool) {
        let perfect = pb::Audience::default();
        self.people.insert(id, Person { speaks, hears, way: perfect, told: perfect });
        self.changed = true;
    }

    pub(crate) fn leave(&mut self, id: ParticipantId) {
        self.changed |= self.people.remove(&id).is_some();
    }

    pub(crate) fn set_hears(&mut self, id: ParticipantId, hears: bool) {
        if let Some(person) = self.people.get_mut(&id) {
            self.changed |= std::mem::replace(&mut person.hears, hears) != hears;
        }
    }

    /// The way from the relay to this listener.
    pub(crate) fn handle_way(&mut self, id: ParticipantId, way: pb::Audience) {
        let way = pb::Audience {
            loss_permille: way.loss_permille.min(1000),
            burst_ms: way.burst_ms.min(MAX_BURST_MS),
        };
        if let Some(person) = self.people.get_mut(&id) {
            self.changed |= std::mem::replace(&mut person.way, way) != way;
        }
    }

    /// When to call [`Self::handle_timeout`]; a time that has passed when there is something to look at now.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.looked_at.filter(|_| self.changed).map(|t| t + INTERVAL)
    }

    /// What to tell whom now.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<(ParticipantId, pb::Audience)> {
        if !self.changed || self.looked_at.is_some_and(|t| now < t + INTERVAL) {
            return Vec::new();
        }
        (self.changed, self.looked_at) = (false, Some(now));
        let worst = |of: fn(&pb::Audience) -> u32| {
            let hears = self.people.iter().filter(|(_, p)| p.hears);
            Worst::of(hears.map(|(id, p)| (*id, of(&p.way))))
        };
        let (loss, burst) = (worst(|way| way.loss_permille), worst(|way| way.burst_ms));
        let mut news = Vec::new();
        for (&id, person) in self.people.iter_mut().filter(|(_, p)| p.speaks) {
            let way = pb::Audience { loss_permille: loss.but_for(id), burst_ms: burst.but_for(id) };
            let is_news = differs(person.told.loss_permille, way.loss_permille, LOSS_NEWS_PERMILLE)
                || differs(person.told.burst_ms, way.burst_ms, BURST_NEWS_MS);
            if is_news {
                person.told = way;
                news.push((id, way));
            }
        }
        news
    }
}

/// The two largest values, so that everybody can be told the largest of the others.
struct Worst {
    whose: Option<ParticipantId>,
    first: u32,
    second: u32,
}

impl Worst {
    fn of(values: impl Iterator<Item = (ParticipantId, u32)>) -> Self {
        let none = Self { whose: None, first: 0, second: 0 };
        values.fold(none, |w, (id, value)| {
            if value > w.first {
                Self { whose: Some(id), first: value, second: w.first }
            } else {
                Self { second: w.second.max(value), ..w }
            }
        })
    }

    fn but_for(&self, id: ParticipantId) -> u32 {
        if self.whose == Some(id) { self.second } else { self.first }
    }
}

/// By a quarter, and not by little.
fn differs(told: u32, new: u32, least: u32) -> bool {
    told.abs_diff(new) >= least.max(told / 4)
}

/// Protection is not changed more often: loss cannot be measured faster.
const INTERVAL: Duration = Duration::from_secs(1);
/// One percent of loss asks for no other protection than none.
const LOSS_NEWS_PERMILLE: u32 = 10;
/// Two frames of sound.
const BURST_NEWS_MS: u32 = 20;
/// Longer than any protection reaches.
const MAX_BURST_MS: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const fn way(loss_permille: u32, burst_ms: u32) -> pb::Audience {
        pb::Audience { loss_permille, burst_ms }
    }

    const ID: [ParticipantId; 3] = [ParticipantId(1), ParticipantId(2), ParticipantId(3)];

    #[test]
    fn everybody_hears_of_the_worst_of_the_others() {
        let (mut a, start) = (Audience::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        ID.into_iter().for_each(|id| a.join(id, id != ID[2], true));
        assert_eq!(a.handle_timeout(at(0)), []);
        a.handle_way(ID[0], way(100, 20));
        a.handle_way(ID[1], way(50, 200));
        a.handle_way(ID[2], way(2, 5));
        assert_eq!(a.handle_timeout(at(0)), [], "not yet");
        assert_eq!(a.poll_timeout(), Some(at(1)));
        assert_eq!(a.handle_timeout(at(1)), [(ID[0], way(50, 200)), (ID[1], way(100, 20))]);
        a.handle_way(ID[0], way(108, 30));
        assert_eq!(a.handle_timeout(at(2)), [], "no news");
        a.handle_way(ID[0], way(5000, u32::MAX));
        assert_eq!(a.handle_timeout(at(3)), [(ID[1], way(1000, MAX_BURST_MS))]);
        a.set_hears(ID[0], false);
        assert_eq!(a.handle_timeout(at(4)), [(ID[1], way(2, 5))]);
        a.leave(ID[1]);
        assert_eq!(a.poll_timeout(), Some(at(5)));
        assert_eq!(a.handle_timeout(at(5)), [(ID[0], way(2, 5))]);
        assert_eq!(a.poll_timeout(), None);
    }
}
