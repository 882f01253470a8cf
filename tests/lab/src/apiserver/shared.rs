//! What the handlers of one server share, and how others wait for them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::fault::Faults;
use super::resource::{Resource, Verb};
use super::store::Store;

/// How often the real server sends a bookmark to each watch.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// One server's state; it outlives the server's restarts, as etcd does.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) changes: Changes,
    settings: Mutex<Settings>,
    requests: Mutex<Vec<Request>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The only bearer token that is accepted; without, every request is.
    pub(crate) token: Option<String>,
    pub(crate) bookmark_period: Duration,
}

/// A request that the server was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it is about; `None` for discovery and the like.
    pub resource: Option<Resource>,
    /// What it asks for.
    pub verb: Verb,
    /// Its path.
    pub path: String,
    /// Its query, undecoded.
    pub query: String,
    /// The header `User-Agent`.
    pub user_agent: String,
    /// The HTTP status code of the answer; `None` while there is none, as for a
    /// request that a fault holds.
    pub code: Option<u16>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            store: Store::new(),
            faults: Faults::default(),
            changes: Changes::new(),
            settings: Mutex::new(Settings { token: None, bookmark_period: BOOKMARK_PERIOD }),
            requests: Mutex::default(),
        }
    }

    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a request down; answers its number.
    pub(crate) fn arrived(&self, request: Request) -> usize {
        let mut requests = self.requests();
        requests.push(request);
        let number = requests.len() - 1;
        drop(requests);
        self.changes.announce();
        number
    }

    /// Writes down how a request was answered.
    pub(crate) fn answered(&self, number: usize, code: u16) {
        if let Some(request) = self.requests().get_mut(number) {
            request.code = Some(code);
        }
        self.changes.announce();
    }
}

/// Wakes what waits for a change of the server.
#[derive(Debug)]
pub(crate) struct Changes {
    sender: watch::Sender<()>,
    count: Mutex<u64>,
    condition: Condvar,
}

impl Changes {
    fn new() -> Self {
        Self { sender: watch::Sender::new(()), count: Mutex::new(0), condition: Condvar::new() }
    }

    pub(crate) fn announce(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.condition.notify_all();
        self.sender.send_replace(());
    }

    /// Waits in a task until something is so.
    pub(crate) async fn until(&self, mut is_so: impl FnMut() -> bool) {
        let mut receiver = self.sender.subscribe();
        // The sender lives as long as this borrow of it.
        while !is_so() && receiver.changed().await.is_ok() {}
    }

    /// Waits in a thread until something is so; false when it took too long.
    pub(crate) fn wait(&self, patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let before = *self.count.lock().unwrap_or_else(PoisonError::into_inner);
            if is_so() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            // The result does not matter, because the loop checks the count.
            let _ = self.condition.wait_timeout_while(count, left, |count| *count == before);
        }
    }
}
