//! When a watch may begin again, and which watch probes an API server that does not answer.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The least time between the starts of two tries, after the first that failed.
const FIRST: Duration = Duration::from_millis(500);

/// And after many. With [`JITTER`] it is 10 s at most.
const LONGEST: Duration = Duration::from_secs(8);

/// By how much an interval may be shorter or longer, so that the agents of all nodes
/// do not come back in the same instant.
const JITTER: f64 = 0.25;

/// A watch that lasted at least so long counts as a success, even if an error ended it.
pub(in super::super) const STEADY: Duration = Duration::from_secs(2);

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum AttemptEnd {
    /// A watch that did well ended in good order.
    InOrder,
    /// A watch that did well broke.
    Broke,
    /// There was no watch, or it ended at once.
    Failed,
}

/// The pace of one watch: the least interval between the starts of two tries, which
/// grows while they fail.
#[derive(Debug, Default)]
pub(in super::super) struct Backoff {
    failures: u32,
    started: Option<Instant>,
}

impl Backoff {
    /// A try starts.
    pub(in super::super) fn starts(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// When the next try may start. `chance` is between 0 and 1.
    pub(in super::super) fn ended(&mut self, ended: AttemptEnd, now: Instant, chance: f64) -> Instant {
        match ended {
            AttemptEnd::InOrder => {
                self.failures = 0;
                now
            }
            // All nodes lost theirs, so they do not come back at once.
            AttemptEnd::Broke => {
                self.failures = 0;
                now + FIRST.mul_f64(chance)
            }
            AttemptEnd::Failed => {
                let interval = (FIRST * 2_u32.saturating_pow(self.failures.min(8))).min(LONGEST);
                self.failures += 1;
                let interval = interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance);
                self.started.map_or(now, |started| started + interval).max(now)
            }
        }
    }
}

/// What is known of an API server that is away. One of an agent's watches probes, and when it
/// succeeds it wakes the others.
#[derive(Debug, Clone)]
pub(in super::super) struct Reach(watch::Sender<State>);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    is_away: bool,
    /// How often the probe has succeeded after it failed.
    returns: u64,
}

impl Default for Reach {
    fn default() -> Self {
        Self(watch::Sender::new(State::default()))
    }
}

impl Reach {
    /// The probe found nothing.
    pub(in super::super) fn is_away(&self) {
        self.0.send_modify(|state| state.is_away = true);
    }

    /// The probe found the API server.
    pub(in super::super) fn is_there(&self) {
        self.0.send_if_modified(|state| {
            let was_away = std::mem::take(&mut state.is_away);
            state.returns += u64::from(was_away);
            was_away
        });
    }

    /// Waits for the return of the API server, as long as it is away; with no end
    /// otherwise.
    pub(in super::super) async fn returns(&self) {
        let mut state = self.0.subscribe();
        let before = state.borrow().returns;
        // The sender lives as long as `self`.
        let _ = state.wait_for(|state| state.returns > before).await;
    }

    /// Whether a watch probes the API server now, because it does not answer.
    pub(in super::super) fn is_probing(&self) -> bool {
        self.0.borrow().is_away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tries_that_fail_come_less_and_less_often_and_never_more_than_ten_seconds_apart() {
        let mut pace = Backoff::default();
        let mut now = Instant::now();
        let mut intervals = Vec::new();
        for _ in 0..12 {
            pace.starts(now);
            let next = pace.ended(AttemptEnd::Failed, now, 0.5);
            intervals.push(next - now);
            now = next;
        }
        assert_eq!(intervals[..5], [1, 2, 4, 8, 16].map(|half| FIRST * half));
        assert!(intervals[5..].iter().all(|interval| *interval == LONGEST), "{intervals:?}");
        pace.starts(now);
        let [least, most] = [0.0, 1.0].map(|chance| pace.ended(AttemptEnd::Failed, now, chance) - now);
        assert_eq!((least, most), (Duration::from_secs(6), Duration::from_secs(10)));
        pace.starts(now);
        assert_eq!(pace.ended(AttemptEnd::InOrder, now, 1.0), now);
        pace.starts(now);
        assert_eq!(pace.ended(AttemptEnd::Failed, now, 0.5) - now, FIRST, "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_took_long_is_followed_at_once() {
        let mut pace = Backoff::default();
        let begin = Instant::now();
        pace.starts(begin);
        let now = begin + Duration::from_secs(5);
        assert_eq!(pace.ended(AttemptEnd::Failed, now, 1.0), now);
    }

    #[tokio::test(start_paused = true)]
    async fn the_probe_wakes_the_others_once() {
        let reach = Reach::default();
        let other = reach.clone();
        reach.is_there();
        reach.is_away();
        let woken = tokio::spawn(async move { other.returns().await });
        tokio::task::yield_now().await;
        assert!(!woken.is_finished() && reach.is_probing());
        reach.is_there();
        woken.await.expect("it is woken");
        assert!(!reach.is_probing());
    }
}
