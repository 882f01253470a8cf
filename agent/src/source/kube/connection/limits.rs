//! How often an agent may ask its API server: a bound that holds for all answers, and the times
//! that the server itself names.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{HeaderMap, RETRY_AFTER};
use tokio::time::{self, Instant};

use crate::source::ObjectKind;

/// How many requests may be sent at once, after a time without any. A list of 50,000
/// objects takes 100.
const BURST: u32 = 100;

/// The time between two requests beyond that.
const INTERVAL: Duration = Duration::from_millis(50);

/// The longest time that a server's `Retry-After` is obeyed. A server that names a
/// longer one is asked once in this time.
const LONGEST: Duration = Duration::from_secs(60);

/// The bound of all clients of one agent.
#[derive(Debug, Default)]
pub(in super::super) struct RequestLimits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rate: Rate,
    /// Before these times no request about a kind is sent, and none about anything
    /// else.
    not_before: [Option<Instant>; ObjectKind::ALL.len() + 1],
}

/// A bound on the rate of requests: the generic cell rate algorithm.
#[derive(Debug, Default)]
struct Rate {
    /// When the next request would be due if all came at [`INTERVAL`].
    due: Option<Instant>,
}

impl Rate {
    /// Takes a request in; how long it has to wait.
    fn take(&mut self, now: Instant) -> Duration {
        let due = self.due.map_or(now, |due| due.max(now));
        self.due = Some(due + INTERVAL);
        due.saturating_duration_since(now).saturating_sub(INTERVAL * (BURST - 1))
    }
}

impl RequestLimits {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request about a kind, or about something else, may be sent.
    pub(in super::super) async fn wait(&self, kind: Option<ObjectKind>) {
        let named = self.not_before(kind);
        let wait = self.state().rate.take(Instant::now());
        if let Some(until) = named {
            time::sleep_until(until).await;
        }
        time::sleep(wait).await;
    }

    /// The time that the server named for a kind, if it is still to come.
    pub(in super::super) fn not_before(&self, kind: Option<ObjectKind>) -> Option<Instant> {
        self.state().not_before[index(kind)].filter(|until| *until > Instant::now())
    }

    /// Notes the time that an answer names, if it names one.
    pub(in super::super) fn answered(&self, kind: Option<ObjectKind>, headers: &HeaderMap) {
        let Some(seconds) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok()) else {
            return;
        };
        // A little later, so that not all nodes come back in the same instant.
        let wait = Duration::from_secs(seconds).min(LONGEST).mul_f64(1.0 + fastrand::f64() / 4.0);
        self.state().not_before[index(kind)] = Some(Instant::now() + wait);
    }
}

fn index(kind: Option<ObjectKind>) -> usize {
    kind.map_or(ObjectKind::ALL.len(), |kind| kind as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_a_burst_come_one_by_one() {
        let mut rate = Rate::default();
        let now = Instant::now();
        let waits: Vec<Duration> = (0..BURST + 3).map(|_| rate.take(now)).collect();
        assert!(waits[..BURST as usize].iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(waits[BURST as usize..], [INTERVAL, INTERVAL * 2, INTERVAL * 3]);
        assert_eq!(rate.take(now + INTERVAL * (BURST + 3)), Duration::ZERO, "a pause makes room");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_server_names_is_of_one_kind_and_bounded() {
        let limits = RequestLimits::default();
        let answer = |seconds: &str| HeaderMap::from_iter([(RETRY_AFTER, seconds.parse().expect("a value"))]);
        limits.answered(Some(ObjectKind::Pod), &answer("7"));
        let until = limits.not_before(Some(ObjectKind::Pod)).expect("a time") - Instant::now();
        assert!(Duration::from_secs(7) <= until && until < Duration::from_secs(9), "{until:?}");
        assert_eq!((limits.not_before(Some(ObjectKind::Node)), limits.not_before(None)), (None, None));
        for seconds in ["86400", "18446744073709551615"] {
            limits.answered(None, &answer(seconds));
            assert!(limits.not_before(None).expect("a time") - Instant::now() < LONGEST * 2);
        }
        limits.answered(Some(ObjectKind::Node), &answer("Wed, 21 Oct 2026 07:28:00 GMT"));
        limits.answered(Some(ObjectKind::Node), &HeaderMap::new());
        assert_eq!(limits.not_before(Some(ObjectKind::Node)), None);
    }
}
