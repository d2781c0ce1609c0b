//! The spoken codes that a relay has handed out and that are still good.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use crate::code::{Code, MAX_NAMEPLATE};
use crate::random::NoRandomness;

/// Open codes by nameplate, each with the `Grant` that the device with the right one gets. In memory only: a code that
/// does not outlive its relay is one risk less.
///
/// A code is good for one device, for [`LIFETIME`], and for [`TRIES`] wrong tries; one attempt at it may be under way at a
/// time, so that guesses cannot be made side by side. Whoever begins an attempt ends it with [`Self::wrong`], [`Self::redeem`] or
/// [`Self::abandon`].
#[derive(Debug)]
pub struct OpenCodes<Grant> {
    open: BTreeMap<u16, Slot<Grant>>,
    /// The nameplate given out last: one that has just been burnt is not given out again at once, or the third wrong try would
    /// meet the next person's code.
    last: u16,
    attempts: u64,
    /// Attempts under way at nameplates that are not open: they are as busy as open ones.
    decoys: BTreeMap<u16, u64>,
}

#[derive(Debug)]
struct Slot<Grant> {
    code: Code,
    grant: Grant,
    until: Instant,
    tries_left: u8,
    /// The attempt under way.
    attempt: Option<u64>,
}

/// An attempt at a code that is under way.
#[derive(Debug, PartialEq, Eq)]
pub struct Attempt {
    nameplate: u16,
    number: u64,
}

/// What somebody meets who names a nameplate.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// The code to run the exchange with.
    Open(Attempt, Code),
    /// Somebody else is trying this code right now; a moment later it may be free.
    Busy,
    /// There is no such code (any more). Let the exchange fail like a wrong code, or strangers learn which nameplates are open.
    Nothing(Attempt),
}

/// No code can be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// All nameplates are in use.
    #[error("{MAX_NAMEPLATE} codes are open already: wait until some are used or over, or make links")]
    Full,
    /// No secret could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl<Grant> Default for OpenCodes<Grant> {
    fn default() -> Self {
        Self { open: BTreeMap::new(), last: 0, attempts: 0, decoys: BTreeMap::new() }
    }
}

impl<Grant> OpenCodes<Grant> {
    /// Gives out a new code, good until `now` + [`LIFETIME`].
    pub fn issue(&mut self, now: Instant, grant: Grant) -> Result<Code, IssueError> {
        self.open.retain(|_, slot| now < slot.until);
        let after = |n: u16| n % MAX_NAMEPLATE + 1;
        let mut nameplate = after(self.last);
        for _ in 0..MAX_NAMEPLATE {
            if let Entry::Vacant(vacant) = self.open.entry(nameplate) {
                let code = Code::generate(nameplate)?;
                let until = now + LIFETIME;
                vacant.insert(Slot { code: code.clone(), grant, until, tries_left: TRIES, attempt: None });
                self.last = nameplate;
                return Ok(code);
            }
            nameplate = after(nameplate);
        }
        Err(IssueError::Full)
    }

    /// Somebody wants to try a code.
    pub fn begin(&mut self, now: Instant, nameplate: u16) -> Begin {
        // Others are the same one nameplate that is never open, so that there are only so many decoys.
        let nameplate = if nameplate <= MAX_NAMEPLATE { nameplate } else { 0 };
        let slot = self.open.get_mut(&nameplate).filter(|slot| now < slot.until);
        if self.decoys.contains_key(&nameplate) || slot.as_ref().is_some_and(|slot| slot.attempt.is_some()) {
            return Begin::Busy;
        }
        self.attempts += 1;
        let attempt = Attempt { nameplate, number: self.attempts };
        match slot {
            Some(slot) => {
                slot.attempt = Some(self.attempts);
                Begin::Open(attempt, slot.code.clone())
            }
            None => {
                self.decoys.insert(nameplate, self.attempts);
                Begin::Nothing(attempt)
            }
        }
    }

    /// The attempt showed that its author does not have the code. The third such attempt burns it.
    pub fn wrong(&mut self, attempt: Attempt) {
        self.end_decoy(&attempt);
        if let Some(slot) = self.of(&attempt) {
            slot.attempt = None;
            slot.tries_left -= 1;
            if slot.tries_left == 0 {
                self.open.remove(&attempt.nameplate);
            }
        }
    }

    /// The attempt showed that its author has the code, which is used up now. What it was for; none when its time was over
    /// meanwhile.
    pub fn redeem(&mut self, now: Instant, attempt: Attempt) -> Option<Grant> {
        self.end_decoy(&attempt);
        self.of(&attempt)?;
        self.open.remove(&attempt.nameplate).filter(|slot| now < slot.until).map(|slot| slot.grant)
    }

    /// The attempt ended before anything was shown: that tells its author nothing and costs no try.
    pub fn abandon(&mut self, attempt: Attempt) {
        self.end_decoy(&attempt);
        if let Some(slot) = self.of(&attempt) {
            slot.attempt = None;
        }
    }

    /// Takes all codes back.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.open).len()
    }

    /// How many codes are open.
    #[must_use]
    pub fn len(&self, now: Instant) -> usize {
        self.open.values().filter(|slot| now < slot.until).count()
    }

    fn end_decoy(&mut self, attempt: &Attempt) {
        if self.decoys.get(&attempt.nameplate) == Some(&attempt.number) {
            self.decoys.remove(&attempt.nameplate);
        }
    }

    /// The slot of an attempt, if that is still the one under way.
    fn of(&mut self, attempt: &Attempt) -> Option<&mut Slot<Grant>> {
        self.open.get_mut(&attempt.nameplate).filter(|slot| slot.attempt == Some(attempt.number))
    }
}

/// How long a code is good: long enough to be told on the telephone and typed.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// Wrong tries that burn a code: with eight digits they find it with a probability of 3 in 10^8.
pub const TRIES: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn open(codes: &mut OpenCodes<&'static str>, now: Instant, nameplate: u16) -> Attempt {
        match codes.begin(now, nameplate) {
            Begin::Open(attempt, _) => attempt,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_code_is_good_once() {
        let (mut codes, now) = (OpenCodes::default(), Instant::now());
        let code = codes.issue(now, "ann").expect("room");
        let Begin::Open(attempt, expected) = codes.begin(now, code.nameplate()) else { panic!("open") };
        assert!(expected == code);
        assert_eq!(codes.redeem(now, attempt), Some("ann"));
        assert!(matches!(codes.begin(now, code.nameplate()), Begin::Nothing(_)));
        assert_eq!(codes.len(now), 0);
    }

    #[test]
    fn three_wrong_tries_burn_a_code_and_no_fewer() {
        let (mut codes, now) = (OpenCodes::default(), Instant::now());
        let nameplate = codes.issue(now, "ann").expect("room").nameplate();
        for _ in 0..2 {
            let attempt = open(&mut codes, now, nameplate);
            codes.wrong(attempt);
        }
        // The right one in between does not count the wrong ones anew.
        let attempt = open(&mut codes, now, nameplate);
        codes.abandon(attempt);
        let attempt = open(&mut codes, now, nameplate);
        assert_eq!(codes.len(now), 1);
        codes.wrong(attempt);
        assert!(matches!(codes.begin(now, nameplate), Begin::Nothing(_)));
        assert_eq!(codes.len(now), 0);
        assert_ne!(
            codes.issue(now, "bob").expect("room").nameplate(),
            nameplate,
            "not given out again at once"
        );
    }

    #[test]
    fn one_attempt_at_a_time() {
        let (mut codes, now) = (OpenCodes::default(), Instant::now());
        let (ann, bob) = (codes.issue(now, "ann").expect("room"), codes.issue(now, "bob").expect("room"));
        let attempt = open(&mut codes, now, ann.nameplate());
        assert_eq!(codes.begin(now, ann.nameplate()), Begin::Busy);
        let other = open(&mut codes, now, bob.nameplate());
        codes.abandon(attempt);
        assert!(matches!(codes.begin(now, ann.nameplate()), Begin::Open(..)));
        assert_eq!(codes.redeem(now, other), Some("bob"));
    }

    #[test]
    fn ten_minutes_are_over_at_their_end_also_during_an_attempt() {
        let (mut codes, now) = (OpenCodes::default(), Instant::now());
        let nameplate = codes.issue(now, "ann").expect("room").nameplate();
        let end = now + LIFETIME;
        let just_before = end - Duration::from_millis(1);
        assert_eq!((codes.len(just_before), codes.len(end)), (1, 0));
        let attempt = open(&mut codes, just_before, nameplate);
        assert_eq!(codes.redeem(end, attempt), None);
        codes.issue(now, "bob").expect("room");
        let (nameplate, attempt) = (nameplate + 1, open(&mut codes, just_before, nameplate + 1));
        codes.abandon(attempt);
        assert!(matches!(codes.begin(end, nameplate), Begin::Nothing(_)));
    }

    #[test]
    fn a_nameplate_that_is_not_open_is_as_busy_as_one_that_is() {
        let (mut codes, now) = (OpenCodes::<()>::default(), Instant::now());
        for nameplate in [7, 0, MAX_NAMEPLATE + 1, u16::MAX] {
            for end in [OpenCodes::wrong, OpenCodes::abandon, |c: &mut OpenCodes<()>, a| {
                assert_eq!(c.redeem(Instant::now(), a), None);
            }] {
                let Begin::Nothing(attempt) = codes.begin(now, nameplate) else { panic!("nothing is open") };
                let stale = Attempt { nameplate: attempt.nameplate, number: attempt.number - 1 };
                codes.abandon(stale);
                assert_eq!(codes.begin(now, nameplate), Begin::Busy);
                end(&mut codes, attempt);
            }
        }
        assert!(codes.decoys.is_empty());
    }

    #[test]
    fn an_attempt_that_ended_cannot_touch_a_later_one() {
        let (mut codes, now) = (OpenCodes::default(), Instant::now());
        let nameplate = codes.issue(now, "ann").expect("room").nameplate();
        let first = open(&mut codes, now, nameplate);
        let stale = || Attempt { nameplate, number: first.number };
        let (one, two, three) = (stale(), stale(), stale());
        codes.abandon(first);
        let second = open(&mut codes, now, nameplate);
        codes.wrong(one);
        codes.abandon(two);
        assert_eq!(codes.begin(now, nameplate), Begin::Busy, "the second is still under way");
        assert_eq!(codes.redeem(now, three), None);
        assert_eq!(codes.redeem(now, second), Some("ann"));
    }

    #[test]
    fn nameplates_run_out_and_come_back() {
        let (mut codes, now) = (OpenCodes::default(), Instant::now());
        let mut given: Vec<u16> =
            (0..MAX_NAMEPLATE).map(|_| codes.issue(now, "x").expect("room").nameplate()).collect();
        given.sort_unstable();
        assert_eq!(given, (1..=MAX_NAMEPLATE).collect::<Vec<_>>());
        assert_eq!(codes.issue(now, "x").err(), Some(IssueError::Full));
        assert!(codes.issue(now + LIFETIME, "x").is_ok(), "those that are over make way");
        assert_eq!(codes.clear(), 1);
        assert_eq!((codes.len(now), codes.clear()), (0, 0));
    }
}
