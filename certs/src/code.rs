//! Spoken codes: a number to find the invite by, and eight digits to prove that it was meant.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::random::{self, NoRandomness};

/// A spoken invite, as in `4-1234-5678`: the nameplate 4 and the digits 12345678.
///
/// The nameplate is public, the digits are a password of 26 bits that never crosses the wire: both sides prove by
/// [`pake`](crate::pake) that they have the same one. The text form is for the person who asked for the code.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    nameplate: u16,
    digits: Zeroizing<[u8; DIGITS]>,
}

/// A text is no code. It is not repeated: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a code is a number from 1 to {MAX_NAMEPLATE} and two groups of four digits, as in 4-1234-5678")]
pub struct CodeError;

impl Code {
    /// A code with random digits.
    ///
    /// # Panics
    /// Never: a nameplate of 0 or beyond [`MAX_NAMEPLATE`] is brought into that range.
    pub fn generate(nameplate: u16) -> Result<Self, NoRandomness> {
        loop {
            if let Some(digits) = digits(u32::from_be_bytes(random::bytes()?)) {
                let nameplate = nameplate.clamp(1, MAX_NAMEPLATE);
                return Ok(Self { nameplate, digits: Zeroizing::new(digits) });
            }
        }
    }

    /// What finds the invite at the relay. No secret.
    #[must_use]
    pub const fn nameplate(&self) -> u16 {
        self.nameplate
    }

    /// The password of the key exchange: the whole code in one spelling.
    pub(crate) fn password(&self) -> String {
        self.to_string()
    }
}

/// Shows the secret: for the one person who asked for an invite, not for logs.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.nameplate)?;
        for group in self.digits.chunks(DIGITS / 2) {
            f.write_str("-")?;
            group.iter().try_for_each(|digit| write!(f, "{}", char::from(*digit)))?;
        }
        Ok(())
    }
}

/// Says which, not the secret.
impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}-…)", self.nameplate)
    }
}

/// Takes any grouping by `-` and white space, as people write down what they hear: the last eight digits are the
/// password.
impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(CodeError);
        }
        let all: Vec<u8> = text.bytes().filter(|b| *b != b'-' && !b.is_ascii_whitespace()).collect();
        if !all.iter().all(u8::is_ascii_digit) {
            return Err(CodeError);
        }
        let (nameplate, digits) = all.split_last_chunk::<DIGITS>().ok_or(CodeError)?;
        let nameplate = std::str::from_utf8(nameplate).map_err(|_| CodeError)?;
        let nameplate =
            nameplate.parse().ok().filter(|n| (1..=MAX_NAMEPLATE).contains(n)).ok_or(CodeError)?;
        Ok(Self { nameplate, digits: Zeroizing::new(*digits) })
    }
}

/// A random number as eight digits that are all equally likely; none for the few numbers above the last multiple of 10^8, whose
/// remainders would not be.
fn digits(random: u32) -> Option<[u8; DIGITS]> {
    if random >= UNBIASED {
        return None;
    }
    let mut digits = [b'0'; DIGITS];
    let mut rest = random % RANGE;
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    Some(digits)
}

/// The largest nameplate: more open codes than anybody hands out within ten minutes.
pub const MAX_NAMEPLATE: u16 = 99;

/// 26.6 bits: three guesses succeed with a probability of 3 in 10^8.
const DIGITS: usize = 8;
const RANGE: u32 = 100_000_000;
/// The largest multiple of [`RANGE`] that 32 bits hold.
const UNBIASED: u32 = u32::MAX / RANGE * RANGE;
/// Ten digits and generous separators.
const MAX_TEXT_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_write_it() {
        let code: Code = "4-1234-5678".parse().expect("a code");
        assert_eq!((code.nameplate(), code.to_string().as_str()), (4, "4-1234-5678"));
        for text in ["4 1234 5678", "412345678", " 4-12 34-56 78\n", "04-1234-5678"] {
            assert_eq!(text.parse(), Ok(code.clone()), "{text}");
        }
        assert_eq!("99-0000-0000".parse::<Code>().expect("a code").to_string(), "99-0000-0000");
    }

    #[test]
    fn what_is_no_code_is_refused() {
        let just = format!("4-1234-5678{}", " ".repeat(MAX_TEXT_BYTES - 11));
        assert!(just.parse::<Code>().is_ok());
        let long = format!("{just} ");
        for text in [
            "",
            "1234-5678",
            "0-1234-5678",
            "100-1234-5678",
            "4-1234-567a",
            "4:1234:5678",
            "٤-1234-5678",
            &long,
        ] {
            assert_eq!(text.parse::<Code>(), Err(CodeError), "{text}");
        }
    }

    #[test]
    fn a_number_is_its_digits_unless_it_would_favour_some() {
        for (random, expected) in [
            (0, Some(b"00000000")),
            (12_345_678, Some(b"12345678")),
            (99_999_999, Some(b"99999999")),
            (100_000_007, Some(b"00000007")),
            (UNBIASED - 1, Some(b"99999999")),
            (UNBIASED, None),
            (u32::MAX, None),
        ] {
            assert_eq!(digits(random).as_ref(), expected, "{random}");
        }
    }

    #[test]
    fn digits_are_spread_over_the_whole_range() {
        let mut seen = [[false; 10]; DIGITS];
        for _ in 0..1000 {
            let code = Code::generate(7).expect("random");
            assert_eq!(code.nameplate(), 7);
            for (position, digit) in code.digits.iter().enumerate() {
                seen[position][usize::from(digit - b'0')] = true;
            }
            assert_eq!(code.to_string().parse(), Ok(code.clone()));
        }
        // A digit is missing at a given place with a probability of 10^-45.
        assert!(seen.iter().flatten().all(|digit| *digit), "{seen:?}");
        assert_eq!(UNBIASED % RANGE, 0);
        const { assert!(u32::MAX - UNBIASED < RANGE, "hardly anything is thrown away") };
    }

    #[test]
    fn nameplates_stay_in_their_range() {
        assert_eq!(Code::generate(0).expect("random").nameplate(), 1);
        assert_eq!(Code::generate(u16::MAX).expect("random").nameplate(), MAX_NAMEPLATE);
    }

    #[test]
    fn debugging_shows_no_digits() {
        let code: Code = "4-1234-5678".parse().expect("a code");
        assert_eq!(format!("{code:?}"), "Code(4-…)");
    }
}
