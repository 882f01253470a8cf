//! Durations as logs show them.

use std::time::Duration;

/// A duration with three significant digits: 147 ms, where the clock said 147.039318 ms.
pub(crate) fn rounded(duration: Duration) -> Duration {
    let nanos = duration.as_nanos();
    let noise = 10_u128.pow(nanos.checked_ilog10().unwrap_or(0).saturating_sub(2));
    Duration::from_nanos(u64::try_from((nanos + noise / 2) / noise * noise).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_left() {
        for (nanos, shown) in [
            (0, "0ns"),
            (7, "7ns"),
            (999, "999ns"),
            (533_606, "534µs"),
            (147_039_318, "147ms"),
            (999_999_999, "1s"),
            (1_527_295_339, "1.53s"),
            (90_000_000_000, "90s"),
        ] {
            assert_eq!(format!("{:?}", rounded(Duration::from_nanos(nanos))), shown);
        }
        assert_eq!(rounded(Duration::MAX), Duration::from_nanos(u64::MAX));
    }
}
