//! Moments by the node's own clock, so that those of two agents and a plugin compare.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment: microseconds since the node started. An operator who sets the node's clock does not
/// change their order, and a file on tmpfs knows no moment of an earlier start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
        Self(micros(now))
    }

    /// How much time has passed since this moment.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Duration::from_micros(Self::now().0.saturating_sub(self.0))
    }

    /// The moment that lies `time` before this one.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(micros(time)))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
