//! Which of the last packets came.

/// Which of the last ids are in a set. Ids before those count as being in it.
#[derive(Debug, Default)]
pub(super) struct Ids {
    newest: Option<i64>,
    /// Bit `n` stands for `newest - n`.
    bits: u128,
}

impl Ids {
    /// The set of all ids before that one.
    pub(super) const fn before(id: i64) -> Self {
        Self { newest: Some(id - 1), bits: u128::MAX }
    }

    /// Adds an id; whether it was not there.
    pub(super) fn insert(&mut self, id: i64) -> bool {
        let newest = self.newest.map_or(id, |newest| newest.max(id));
        let shift = self.newest.map_or(0, |before| newest - before);
        self.bits = u32::try_from(shift).ok().and_then(|shift| self.bits.checked_shl(shift)).unwrap_or(0);
        self.newest = Some(newest);
        let bit = u32::try_from(newest - id).ok().and_then(|age| 1_u128.checked_shl(age)).unwrap_or(0);
        let new = bit != 0 && self.bits & bit == 0;
        self.bits |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_new_once_and_very_old_ones_never() {
        let mut ids = Ids::default();
        assert!(ids.insert(1_000) && !ids.insert(1_000));
        assert!(ids.insert(1_003) && ids.insert(1_001) && !ids.insert(1_001));
        assert!(ids.insert(1_003 - 127) && !ids.insert(1_003 - 128));
        assert!(ids.insert(9_000) && !ids.insert(1_003), "a leap forgets");
        assert!(ids.insert(8_999));
        let mut ids = Ids::before(5);
        assert!(!ids.insert(4) && !ids.insert(-200) && ids.insert(5));
    }
}
