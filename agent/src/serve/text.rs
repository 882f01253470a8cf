//! The text of `/metrics`, which is made once for all requests of about the same time.
//!
//! To make it takes a hundred times what it takes to send it, and any pod may ask as often as it likes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::Mutex as TurnMutex;
use tokio::time::Instant;

use crate::metrics::{Metrics, Packets};
use crate::status::SharedStatus;

/// How old a text may be. One that is from before a change of the agent's status is too old at
/// any age, so the metrics of a reader who has seen such a change have it.
const AGE: Duration = Duration::from_millis(100);

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The library refused to write it.
    #[error("cannot write the metrics")]
    Text(#[from] std::fmt::Error),
    /// The agent ends, or it panicked.
    #[error("the metrics were not written to their end")]
    Ended(#[from] tokio::task::JoinError),
}

/// The text as it was made last.
#[derive(Debug, Clone)]
struct RenderedText {
    begun: Instant,
    /// How many changes of the status were made before it was begun.
    changes: u64,
    text: Bytes,
}

/// Makes the text where the agent's other work is done, and keeps it for the requests here.
///
/// They may be on a thread that seldom gets a processor. That thread must not hold a lock while
/// the agent waits for it, so it takes none of those in the metrics.
#[derive(Debug)]
pub(super) struct SharedText {
    main: Handle,
    registry: Arc<Registry>,
    packets: Packets,
    status: SharedStatus,
    made: Mutex<Option<RenderedText>>,
    /// One makes it at a time; the others wait for that one.
    making: TurnMutex<()>,
    /// When a request last made the agent ask the kernel for the number of denied packets. One request at a time does
    /// that, and the others do not wait for it: the kernel may take seconds.
    counting: TurnMutex<Option<Instant>>,
}

impl SharedText {
    /// Nothing is made before someone asks. `main` is the runtime that makes it.
    pub(super) fn new(main: Handle, metrics: &Metrics, status: SharedStatus) -> Self {
        Self {
            main,
            registry: Arc::new(metrics.registry()),
            packets: metrics.packets().clone(),
            status,
            made: Mutex::default(),
            making: TurnMutex::default(),
            counting: TurnMutex::default(),
        }
    }

    /// The text, at most [`AGE`] old.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) async fn now(&self) -> Result<Bytes, Error> {
        self.count().await;
        let asked = Instant::now();
        if let Some(text) = self.made_since(asked) {
            return Ok(text);
        }
        let _turn = self.making.lock().await;
        if let Some(text) = self.made_since(asked) {
            return Ok(text);
        }
        let (begun, changes) = (Instant::now(), self.status.changes());
        let registry = Arc::clone(&self.registry);
        let text = self.main.spawn(async move { Metrics::text(&registry) }).await??;
        let text = Bytes::from(text);
        *self.made() = Some(RenderedText { begun, changes, text: text.clone() });
        Ok(text)
    }

    /// The text, if it is new enough for a request of that time. What was begun later is, however long it took.
    fn made_since(&self, asked: Instant) -> Option<Bytes> {
        let made = self.made();
        let made = made.as_ref()?;
        let is_new = made.begun.elapsed() < AGE && made.changes == self.status.changes();
        (is_new || made.begun > asked).then(|| made.text.clone())
    }

    fn made(&self) -> MutexGuard<'_, Option<RenderedText>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the kernel for the numbers of denied packets, if that is due and no other request is doing it.
    async fn count(&self) {
        let Ok(mut last) = self.counting.try_lock() else { return };
        let now = Instant::now();
        if last.is_some_and(|last| now - last < Packets::FRESH) {
            return;
        }
        *last = Some(now);
        let packets = self.packets.clone();
        // If the agent ends, the text is not made either.
        let _ = self.main.spawn(async move { packets.refresh(now.into_std()).await }).await;
        *self.made() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;
    use tokio::task::JoinSet;
    use tokio::time;

    use super::*;
    use crate::source::ObjectKind;
    use crate::status::AgentStatus;

    struct World {
        metrics: Metrics,
        status: SharedStatus,
        text: Arc<SharedText>,
    }

    impl World {
        fn new() -> Self {
            let (metrics, status) = (Metrics::default(), SharedStatus::new(AgentStatus::new("node-1", "cluster")));
            let text = Arc::new(SharedText::new(Handle::current(), &metrics, status.clone()));
            Self { metrics, status, text }
        }

        /// What so many requests at once get.
        async fn ask(&self, count: usize) -> Vec<Bytes> {
            let mut all = JoinSet::new();
            for _ in 0..count {
                let text = Arc::clone(&self.text);
                all.spawn(async move { text.now().await });
            }
            all.join_all().await.into_iter().map(|text| text.expect("it can be made")).collect()
        }

        async fn one(&self) -> Bytes {
            self.ask(1).await.remove(0)
        }
    }

    fn lists(text: &Bytes) -> bool {
        let text = std::str::from_utf8(text).expect("it is text");
        text.contains("npc_watch_restarts_total{kind=\"NetworkPolicy\"} 1\n")
    }

    #[tokio::test(start_paused = true)]
    async fn all_requests_within_100_ms_get_the_same_bytes() {
        let world = World::new();
        let first = world.one().await;
        world.metrics.watches().lists(ObjectKind::NetworkPolicy);
        let rest = Duration::from_millis(2);
        time::advance(AGE.saturating_sub(rest)).await;
        for text in world.ask(100).await {
            assert_eq!(text.as_ptr(), first.as_ptr(), "the bytes themselves, not others like them");
        }
        time::advance(rest).await;
        let later = world.ask(100).await;
        assert!(!lists(&first) && lists(&later[0]));
        for text in &later {
            assert_eq!(text.as_ptr(), later[0].as_ptr(), "one makes it for all");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_status_is_in_the_next_text() {
        let world = World::new();
        let first = world.one().await;
        world.metrics.watches().lists(ObjectKind::NetworkPolicy);
        world.status.update(|status| status.policies = 1);
        assert!(!lists(&first) && lists(&world.one().await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kernel_that_does_not_answer_keeps_one_waiting_and_no_other() {
        let world = World::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, waits) = std::sync::mpsc::channel::<()>();
        let counter = Arc::clone(&asked);
        world.metrics.packets().are_read_by(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            // The sender goes with the test.
            let _ = waits.recv();
            Ok(Vec::new())
        });
        let text = Arc::clone(&world.text);
        let first = tokio::spawn(async move { text.now().await });
        tokio::task::yield_now().await;
        let mut others = pin!(world.ask(10));
        let mut turns = 0;
        while others.as_mut().now_or_never().is_none() {
            turns += 1;
            assert!(turns < 1_000, "they wait for the kernel");
            tokio::task::yield_now().await;
        }
        assert!(!first.is_finished());
        drop(answer);
        assert!(first.await.expect("it ends").is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}
