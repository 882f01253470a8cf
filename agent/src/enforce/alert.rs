//! How soon the kernel is looked at again.
//!
//! A program that undid something of ours may do it again: a script in a loop, a
//! service that is restarted. So after a find the agent looks again soon for a while,
//! and not so often that looking takes much of a processor.

use std::time::Duration;

use tokio::time::Instant;

use super::agent::AUDIT;
use crate::dataplane::audit::Depth;

/// How soon the agent looks again after a find, and for how long that lasts. Then each
/// wait is twice as long as the one before, until it is that of everyday.
const SOON: Duration = Duration::from_millis(100);
const LASTS: Duration = Duration::from_secs(10);

/// A look waits at least this many times as long as the one before it took, though no
/// longer than for the everyday one.
const SHARE: u32 = 4;

/// Whether another program undid something of ours a while ago.
#[derive(Debug, Default)]
pub(super) struct Alert {
    /// When it was found last.
    found: Option<Instant>,
    /// The wait before the next look, and when that is due.
    wait: Duration,
    due: Option<Instant>,
    not_before: Option<Instant>,
}

impl Alert {
    /// When the kernel is to be looked at again, if before its everyday audit.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Until then a look because of a notification waits: to find and repair took a
    /// while, and a program that never stops must not have all of the processor.
    pub(super) fn not_before(&self) -> Instant {
        self.not_before.unwrap_or_else(Instant::now)
    }

    /// Something was found, and put right as far as that was possible; it took so long.
    pub(super) fn found(&mut self, took: Duration) {
        let now = Instant::now();
        (self.found, self.wait) = (Some(now), SOON);
        self.not_before = Some(now + took.min(AUDIT));
        self.due = Some(now + self.wait.max(took * SHARE).min(AUDIT));
    }

    /// A look that took so long found everything as it should be.
    pub(super) fn found_nothing(&mut self, depth: Depth, took: Duration) {
        if self.found.is_none() || depth == Depth::News {
            return;
        }
        let now = Instant::now();
        if self.found.is_some_and(|found| now >= found + LASTS) {
            self.wait *= 2;
        }
        if self.wait >= AUDIT {
            *self = Self::default();
        } else {
            self.due = Some(now + self.wait.max(took * SHARE).min(AUDIT));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    /// The waits before the looks that follow, each of which takes so long and finds
    /// nothing.
    async fn waits(alert: &mut Alert, took: Duration) -> Vec<u128> {
        let mut waits = Vec::new();
        while let Some(due) = alert.due() {
            let before = Instant::now();
            time::sleep_until(due).await;
            waits.push(before.elapsed().as_millis());
            time::sleep(took).await;
            alert.found_nothing(Depth::Alert, took);
        }
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_find_looks_are_soon_for_a_while_and_then_seldom() {
        let mut alert = Alert::default();
        assert_eq!(alert.due(), None);
        alert.found(Duration::ZERO);
        let waits = waits(&mut alert, Duration::ZERO).await;
        let (soon, later) = waits.split_at(waits.len() - 5);
        assert!(soon.len() == 100 && soon.iter().all(|wait| *wait == 100), "{waits:?}");
        assert_eq!(later, [200, 400, 800, 1600, 3200]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_costly_look_is_not_repeated_as_often() {
        let mut alert = Alert::default();
        let took = Duration::from_millis(500);
        alert.found(took);
        assert_eq!(alert.not_before(), Instant::now() + took);
        let waits = waits(&mut alert, took).await;
        assert!(waits.iter().all(|wait| *wait >= 2000), "{waits:?}");
    }
}
