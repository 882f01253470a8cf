//! Many short measurements of one thing.

use std::fmt;
use std::time::{Duration, Instant};

/// How long something took, each time.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Does something and notes how long it took.
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        self.0.push(begun.elapsed());
        done
    }

    /// Notes how long something took.
    pub fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// The time within which this many thousandths of the samples were done.
    #[must_use]
    pub fn quantile(&self, thousandths: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * thousandths / 1000).min(sorted.len().saturating_sub(1));
        sorted.get(place).copied().unwrap_or_default()
    }

    /// The middle one.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.quantile(500)
    }
}

/// Median, and what one in a hundred exceeds.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |thousandths| self.quantile(thousandths).as_secs_f64() * 1e6;
        write!(f, "median {:9.1} µs, 99 % {:9.1} µs", micros(500), micros(990))
    }
}
