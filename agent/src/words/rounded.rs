//! Durations as logs and errors show them.

use std::fmt;
use std::time::Duration;

/// A duration to a tenth of a second, or of a millisecond below one second: 147 ms, where the
/// clock said 147.039318 ms. As a field of the log (`?`) it is one word, in a sentence (`{}`) it
/// has its unit apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rounded(Duration);

/// Rounds a duration for people.
#[must_use]
pub const fn rounded(duration: Duration) -> Rounded {
    Rounded(duration)
}

impl Rounded {
    fn write(self, f: &mut fmt::Formatter<'_>, space: &str) -> fmt::Result {
        let tenths_of_millis = (self.0.as_nanos() + 50_000) / 100_000;
        let (tenths, unit) = if tenths_of_millis < 10_000 {
            (tenths_of_millis, "ms")
        } else {
            ((self.0.as_nanos() + 50_000_000) / 100_000_000, "s")
        };
        match tenths % 10 {
            0 => write!(f, "{}{space}{unit}", tenths / 10),
            tenth => write!(f, "{}.{tenth}{space}{unit}", tenths / 10),
        }
    }
}

impl fmt::Debug for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, " ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_decimal_is_left() {
        for (nanos, field, sentence) in [
            (0, "0ms", "0 ms"),
            (533_606, "0.5ms", "0.5 ms"),
            (147_039_318, "147ms", "147 ms"),
            (521_996_209, "522ms", "522 ms"),
            (999_940_000, "999.9ms", "999.9 ms"),
            (999_999_999, "1s", "1 s"),
            (1_014_449_700, "1s", "1 s"),
            (1_527_295_339, "1.5s", "1.5 s"),
            (90_000_000_000, "90s", "90 s"),
        ] {
            let shown = rounded(Duration::from_nanos(nanos));
            assert_eq!((format!("{shown:?}"), shown.to_string()), (field.to_owned(), sentence.to_owned()));
        }
        assert!(rounded(Duration::MAX).to_string().ends_with(" s"));
    }
}
