//! Numbers of datagrams that do not wrap, from the 16 bits on the wire.

/// The highest number seen of a hop, and with it the meaning of others near it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    highest: Option<u64>,
}

impl Numbers {
    /// The whole number of 0 on the wire, before it wraps.
    pub(super) const FIRST: u64 = BASE;

    pub(super) const fn highest(self) -> Option<u64> {
        self.highest
    }

    /// The whole number of a datagram that has come.
    pub(super) fn extend(&mut self, number: u16) -> u64 {
        let whole = near(self.highest.unwrap_or_else(|| BASE + u64::from(number)), number);
        self.highest = self.highest.max(Some(whole));
        whole
    }

    /// The whole number of one that should lie before the highest; none before there is any.
    pub(super) fn known(self, number: u16) -> Option<u64> {
        Some(near(self.highest?, number))
    }
}

/// The whole number that ends in `number` and is closest to `reference`.
pub(super) const fn near(reference: u64, number: u16) -> u64 {
    let ahead = number.wrapping_sub(reference as u16).cast_signed();
    reference.saturating_add_signed(ahead as i64)
}

/// Room below the first number for those sent before it that come later.
const BASE: u64 = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_across_the_wrap() {
        let mut numbers = Numbers::default();
        let first = numbers.extend(65_534);
        assert_eq!(numbers.extend(1), first + 3);
        assert_eq!(numbers.extend(65_535), first + 1, "overtaken");
        assert_eq!(numbers.known(65_533), Some(first - 1));
        assert_eq!(numbers.highest(), Some(first + 3));
    }
}
