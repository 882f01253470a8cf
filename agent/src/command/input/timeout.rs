//! A time as kubectl takes it for `--request-timeout`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long to wait; none for as long as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timeout(Option<Duration>);

impl Default for Timeout {
    fn default() -> Self {
        Self(Some(Duration::from_secs(30)))
    }
}

impl From<Timeout> for Option<Duration> {
    fn from(timeout: Timeout) -> Self {
        timeout.0
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("0"),
            Some(time) => write!(f, "{time:?}"),
        }
    }
}

impl FromStr for Timeout {
    type Err = String;

    /// A number of seconds, or as Go writes a time: `1m30s`, `500ms`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time; write 30s, 1m30s, 500ms, or a number of seconds");
        let mut milliseconds = 0_u64;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, behind) = rest.split_at(digits);
            let letters = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
            let (unit, behind) = behind.split_at(letters);
            let factor = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1000,
                "ms" => 1,
                // Without a unit it is one number alone.
                "" if number.len() == text.len() => 1000,
                _ => return Err(wrong()),
            };
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let more = number.checked_mul(factor).and_then(|more| milliseconds.checked_add(more));
            milliseconds = more.ok_or_else(wrong)?;
            rest = behind;
        }
        match milliseconds {
            _ if text.is_empty() => Err(wrong()),
            0 => Ok(Self(None)),
            some => Ok(Self(Some(Duration::from_millis(some)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_kubectl_reads_them() {
        for (text, milliseconds) in
            [("30s", 30_000), ("1m30s", 90_000), ("500ms", 500), ("5", 5000), ("1h", 3_600_000), ("0", 0), ("0s", 0)]
        {
            let read: Timeout = text.parse().unwrap_or_else(|error| panic!("{error}"));
            let time: Option<Duration> = read.into();
            assert_eq!(time.unwrap_or_default(), Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "s", "5x", "5s5", "-5s", "1.5s", "99999999999999999999s", "9999999999999999h"] {
            assert!(text.parse::<Timeout>().is_err(), "{text}");
        }
        assert_eq!(Timeout::default().to_string().parse(), Ok(Timeout::default()));
    }
}
