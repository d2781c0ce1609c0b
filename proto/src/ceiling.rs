//! A ceiling on what a relay sends, shared among those who receive.

use crate::units::Bitrate;

/// Finds how much video each receiver may have so that all together stay below a ceiling.
///
/// Everybody may have the same at most, so who needs less than that is not touched and nobody who needs more has more than another
/// (max-min fairness; Bertsekas and Gallager, "Data Networks", section 6.5). Sound is never limited: where video is off and the
/// ceiling is still exceeded, there are too many people, and [`Self::is_reached`] keeps others out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceiling {
    limit: Bitrate,
    share: Option<Bitrate>,
}

impl Ceiling {
    /// Nothing is limited before the ceiling is near.
    #[must_use]
    pub const fn new(limit: Bitrate) -> Self {
        Self { limit, share: None }
    }

    /// Takes what was sent in the last second, all in all, and the most that one receiver was sent. Call once a second: what
    /// is shared follows within the next one.
    pub fn handle_rate(&mut self, sent: Bitrate, largest: Bitrate) {
        let (sent, limit) = (sent.bps() as f64, self.limit.bps() as f64);
        let high = limit * HIGH;
        if sent > high {
            let before = self.share.map_or(largest, |share| share.min(largest)).bps() as f64;
            self.share = Some(Bitrate::from_bps((before * high / sent) as u64));
        } else if let Some(share) = self.share.filter(|_| sent < limit * LOW) {
            // What nobody reaches limits nobody.
            let free = share.bps() > 2 * largest.bps() && share > WATCHABLE;
            let more = (share.bps() as f64 * RISE) as u64 + STEP.bps();
            self.share = (!free).then(|| Bitrate::from_bps(more));
        }
    }

    /// How much video a receiver may have at most; none: as much as it bears.
    #[must_use]
    pub const fn share(&self) -> Option<Bitrate> {
        self.share
    }

    /// Whether another receiver would leave everybody with too little.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.share.is_some_and(|share| share < WATCHABLE)
    }
}

/// Below this share of the ceiling nothing is changed: what cameras send varies by some percent from second to second.
const HIGH: f64 = 0.95;
/// Below this one there is more for everybody.
const LOW: f64 = 0.85;
/// What comes back in a second, so that the ceiling is not exceeded again at once.
const RISE: f64 = 1.05;
const STEP: Bitrate = Bitrate::from_kbps(10);
/// A face at a quarter of the size: less is no call by video.
const WATCHABLE: Bitrate = Bitrate::from_kbps(150);

#[cfg(test)]
mod tests {
    use super::*;

    const fn kbps(kbps: u64) -> Bitrate {
        Bitrate::from_kbps(kbps)
    }

    /// What receivers with these wishes are sent, each with sound, when they get what they may.
    fn sent(ceiling: &Ceiling, wishes: &[u64]) -> Vec<u64> {
        let share = ceiling.share().map_or(u64::MAX, Bitrate::kbps);
        wishes.iter().map(|wish| 40 + share.min(*wish)).collect()
    }

    fn run(ceiling: &mut Ceiling, wishes: &[u64], seconds: u32) -> Vec<u64> {
        for _ in 0..seconds {
            let sent = sent(ceiling, wishes);
            let largest = sent.iter().max().copied().unwrap_or(0);
            ceiling.handle_rate(kbps(sent.iter().sum()), kbps(largest));
        }
        sent(ceiling, wishes)
    }

    #[test]
    fn below_the_ceiling_nothing_is_limited() {
        let mut ceiling = Ceiling::new(kbps(10_000));
        run(&mut ceiling, &[2000; 4], 10);
        assert_eq!((ceiling.share(), ceiling.is_reached()), (None, false));
    }

    #[test]
    fn those_who_want_most_give_way_until_all_fit() {
        let mut ceiling = Ceiling::new(kbps(10_000));
        let wishes = [[300; 5].as_slice(), &[2000; 10]].concat();
        let sent = run(&mut ceiling, &wishes, 10);
        assert!((8_000..=10_000).contains(&sent.iter().sum::<u64>()), "{sent:?}");
        assert!(sent[..5].iter().all(|kbps| *kbps == 340), "who wants little is not touched: {sent:?}");
        assert!(!ceiling.is_reached());
    }

    #[test]
    fn too_many_people_keep_others_out_and_what_is_free_again_comes_back() {
        let mut ceiling = Ceiling::new(kbps(10_000));
        let sent = run(&mut ceiling, &[2000; 60], 20);
        assert!(sent.iter().sum::<u64>() <= 10_000, "{sent:?}");
        assert!(ceiling.is_reached());
        let sent = run(&mut ceiling, &[2000; 4], 60);
        assert_eq!((sent.iter().sum::<u64>(), ceiling.is_reached()), (4 * 2040, false));
        run(&mut ceiling, &[500; 4], 60);
        assert_eq!(ceiling.share(), None);
    }

    #[test]
    fn a_ceiling_of_nothing_and_silence_are_no_trouble() {
        let mut ceiling = Ceiling::new(Bitrate::default());
        for sent in [0, 1, u64::MAX / 2_000] {
            ceiling.handle_rate(kbps(sent), kbps(sent));
            ceiling.handle_rate(Bitrate::default(), Bitrate::default());
        }
        assert!(ceiling.is_reached());
    }
}
