//! One kind, listed and watched for as long as the agent runs.
//!
//! ```text
//!        ┌──────────── 410, or a list is asked for ───────────┐
//!        ▼                                                    │
//!  wait ─▶ list (streamed, or in pages) ─▶ watch ─┬─ ended ───┤
//!        ▲                                   ▲    │           │
//!        └── failed ─────────────────────────┼────┘           │
//!                                            └─ wait ◀── other ends
//! ```
//!
//! kube-runtime's watcher is not used. It begins again inside itself after an empty
//! answer, a redirect or a reset, so no backoff reaches it (thousands of requests a
//! second); an answer 410 is no reason for a list to it; and it goes on reading where
//! a streamed list was refused. Here every try passes [`Lister::wait`], whatever
//! ended the one before.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kube::api::{ListParams, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::time::{self, Instant};

use super::Heard;
use super::client::Connector;
use super::failure::Failure;
use super::pace::{Ended, Pace, Reach, STEADY};
use crate::metrics::{Kind, Watches};

/// How long one watch may last before it is renewed from where it was, in
/// seconds. Longer ones would be cut off by the time that an answer may take; and
/// a streamed list has to be complete by then, or it begins again.
pub const WATCH_SECONDS: RangeInclusive<u32> = 10..=110;

/// How many objects a page of a list has.
const PAGE: u32 = 500;

/// The release from which an API server streams lists by default (feature gate
/// WatchList). An older one may ignore what it is asked and never say that the
/// list is complete.
const STREAMS_SINCE: (u32, u32) = (1, 32);

/// How long the answer to a watch may take to begin. A server that queues it takes
/// less, and a connection that died in silence would take 120 s.
pub(super) const BEGINS: Duration = Duration::from_secs(15);

/// How much longer than its time limit a watch may be silent before it is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// How many streamed lists in a row may break off before pages are tried.
const BROKEN_STREAMS: u32 = 3;

/// How many lines of a watch in a row may be unreadable before it is given up.
const UNREADABLE: u32 = 10;

/// How long the other watches wait for the one that looks for an API server that is
/// away, before they look themselves.
const UNWOKEN: Duration = Duration::from_secs(30);

/// Whether an API server of this version is asked to stream its lists.
pub(super) fn streams_lists(major: &str, minor: &str) -> bool {
    // Some write `33+`.
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    matches!((number(major), number(minor)), (Some(major), Some(minor)) if (major, minor) >= STREAMS_SINCE)
}

/// What happens to the objects of a kind.
#[derive(Debug)]
pub(super) enum Event<K> {
    /// A list begins.
    ListBegins,
    /// The list holds this object.
    Listed(K),
    /// The list is complete: what it did not hold does not exist.
    ListEnds,
    /// This object was created or changed.
    Applied(K),
    /// This object was deleted.
    Deleted(K),
    /// A watch that follows a failure has proved steady.
    Steady,
}

/// Why a watch ended.
enum End {
    /// At its time limit, or the server's.
    InOrder,
    /// A list is asked for.
    Asked,
    /// Nothing takes events any more.
    Closed,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Events<K> = BoxStream<'static, kube::Result<WatchEvent<K>>>;

/// What all watches of an agent have in common.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) connector: Connector,
    pub(super) watches: Watches,
    pub(super) sender: mpsc::Sender<Heard>,
    pub(super) reach: Reach,
    /// How long a watch lasts.
    pub(super) seconds: u32,
    /// Over which time the lists of all nodes are spread after a 410.
    pub(super) spread: Duration,
    /// The API server is asked to stream lists.
    pub(super) streams: bool,
}

/// Lists and watches one kind.
pub(super) struct Lister<K> {
    common: Common,
    kind: Kind,
    field_selector: Option<String>,
    event: fn(Event<K>) -> Heard,
    /// Whether this watch looks for an API server that is away.
    probes: bool,
    /// Where a list is asked for.
    asked: Arc<Notify>,
    api: Option<Api<K>>,
    pace: Pace,
    /// Before this nothing is asked.
    next: Instant,
    /// The last failure was that no server answered.
    unreachable: bool,
    /// There was a failure, and no watch has proved steady since.
    failing: bool,
    /// How many streamed lists in a row broke off.
    broken_streams: u32,
}

impl<K> Lister<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    pub(super) fn new(common: &Common, kind: Kind, event: fn(Event<K>) -> Heard, asked: Arc<Notify>) -> Self {
        Self {
            common: common.clone(),
            kind,
            field_selector: None,
            event,
            probes: false,
            asked,
            api: None,
            pace: Pace::default(),
            next: Instant::now(),
            unreachable: false,
            failing: false,
            broken_streams: 0,
        }
    }

    /// Only the object of this name; so this watch is cheap, and it is the one that
    /// looks for an API server that is away.
    pub(super) fn of_one(mut self, name: &str) -> Self {
        self.field_selector = Some(format!("metadata.name={name}"));
        self.probes = true;
        self
    }

    /// Lists and watches, until nothing takes events any more.
    pub(super) async fn run(mut self) {
        // From where the next watch goes on; nothing where a list has to come first.
        let mut version = None;
        loop {
            if self.wait().await {
                version = None;
            }
            let begun = Instant::now();
            self.pace.starts(begun);
            let mut watching_since = None;
            let end = self.attempt(&mut version, &mut watching_since).await.unwrap_or_else(|end| end);
            let steady = watching_since.is_some_and(|since: Instant| since.elapsed() >= STEADY);
            let end = match end {
                End::InOrder if !steady => End::Failed(Failure::Short(begun.elapsed())),
                end => end,
            };
            let ended = match &end {
                End::InOrder | End::Asked => Ended::InOrder,
                _ if steady => Ended::Broke,
                _ => Ended::Failed,
            };
            self.next = self.pace.ended(ended, Instant::now(), fastrand::f64());
            match end {
                End::Closed => return,
                End::InOrder => {}
                End::Asked => version = None,
                End::Failed(failure) => {
                    self.unreachable = failure.is_unreachable();
                    self.failing = true;
                    if self.probes && self.unreachable {
                        self.common.reach.is_away();
                    } else if self.probes {
                        // A server that refuses is there, and the others ask it themselves.
                        self.common.reach.is_there();
                    }
                    if failure.asks_for_list() && version.take().is_some() {
                        // Most often the same has happened to the agents of all nodes.
                        self.next = self.next.max(Instant::now() + self.common.spread.mul_f64(fastrand::f64()));
                    }
                    if self.fail(failure).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the next try is due; whether a list is asked for meanwhile.
    async fn wait(&self) -> bool {
        let now = Instant::now();
        let mut next = self.next;
        if self.unreachable && !self.probes && self.common.reach.is_probing() {
            next = next.max(now + UNWOKEN.mul_f64(0.75 + fastrand::f64() / 2.0));
        }
        // The server's own word holds in any case.
        let named = self.common.connector.limits.not_before(Some(self.kind));
        tokio::select! {
            biased;
            () = self.asked.notified(), if named.is_none() && !self.unreachable => return true,
            () = self.common.reach.returns(), if self.unreachable && !self.probes => {}
            () = time::sleep_until(next) => {}
        }
        if let Some(named) = named {
            time::sleep_until(named).await;
        }
        false
    }

    /// One try: a list, if there is nothing to go on from, and a watch. `since` is when
    /// the watch began.
    async fn attempt(&mut self, version: &mut Option<String>, since: &mut Option<Instant>) -> Result<End, End> {
        let api = match self.api.take().filter(|_| version.is_some()) {
            Some(api) => api,
            // Each list has connections of its own: where the last answer was wrong,
            // another server may answer.
            None => Api::all(self.common.connector.noting(Some(&self.common.watches))?),
        };
        self.api = Some(api.clone());
        let events = match version {
            Some(from) => self.open(&api, from, false).await?,
            None => {
                let (from, events) = self.list(&api).await?;
                *version = Some(from.clone());
                match events {
                    Some(events) => events,
                    None => self.open(&api, &from, false).await?,
                }
            }
        };
        *since = Some(Instant::now());
        self.watch(events, version).await
    }

    /// Lists everything; the version to watch from, and the watch if it has begun.
    async fn list(&mut self, api: &Api<K>) -> Result<(String, Option<Events<K>>), End> {
        if self.common.streams && self.broken_streams < BROKEN_STREAMS {
            let (version, events) = self.stream_list(api).await?;
            return Ok((version, Some(events)));
        }
        let listed = self.list_in_pages(api).await;
        // Whatever came of it, the next list may be streamed.
        self.broken_streams = 0;
        Ok((listed?, None))
    }

    /// Lists by a watch that begins with all objects. This spares the API server the
    /// memory for a whole list.
    async fn stream_list(&mut self, api: &Api<K>) -> Result<(String, Events<K>), End> {
        // Without a version the list is as new as the store. With "0" it would be as old as a
        // server's cache may be, which can lack what another server has shown already.
        let mut events = self.open(api, "", true).await.inspect_err(|end| {
            // The feature is off (422), or the server does not know it (400).
            if matches!(end, End::Failed(failure) if matches!(failure.code(), Some(400 | 422))) {
                self.common.streams = false;
            }
        })?;
        self.send(Event::ListBegins).await?;
        // Until it is complete it counts as one that broke off.
        self.broken_streams += 1;
        let mut unreadable = 0;
        loop {
            match self.next(&mut events, &mut unreadable).await? {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    self.send(Event::Listed(object)).await?;
                }
                Some(WatchEvent::Bookmark(bookmark)) => {
                    if bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end") {
                        self.send(Event::ListEnds).await?;
                        self.broken_streams = 0;
                        return Ok((bookmark.metadata.resource_version, events));
                    }
                }
                // A server whose etcd lacks RequestWatchProgress accepts, and then
                // refuses in the stream.
                Some(WatchEvent::Error(status)) => {
                    self.broken_streams = BROKEN_STREAMS;
                    return Err(Failure::Refused(status).into());
                }
                // There is none in a list.
                Some(WatchEvent::Deleted(_)) => {}
                None => return Err(Failure::Incomplete.into()),
            }
        }
    }

    async fn list_in_pages(&mut self, api: &Api<K>) -> Result<String, End> {
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector.clone_from(&self.field_selector);
        self.send(Event::ListBegins).await?;
        loop {
            let page = api.list(&params).await?;
            self.answered();
            let token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_some() && (page.items.is_empty() || token == params.continue_token) {
                return Err(Failure::Endless.into());
            }
            for object in page.items {
                self.send(Event::Listed(object)).await?;
            }
            params.continue_token = token;
            if params.continue_token.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                let version = version.ok_or(Failure::NoVersion)?;
                self.send(Event::ListEnds).await?;
                return Ok(version);
            }
        }
    }

    /// Begins a watch; `lists` if it is to begin with all objects.
    async fn open(&mut self, api: &Api<K>, version: &str, lists: bool) -> Result<Events<K>, End> {
        let params = WatchParams {
            field_selector: self.field_selector.clone(),
            timeout: Some(self.common.seconds),
            send_initial_events: lists,
            ..WatchParams::default()
        };
        let events = time::timeout(BEGINS, api.watch(&params, version)).await;
        let events = events.map_err(|_| Failure::NoAnswer(BEGINS))??.boxed();
        self.answered();
        Ok(events)
    }

    /// The API server has answered.
    fn answered(&mut self) {
        self.unreachable = false;
        if self.probes {
            self.common.reach.is_there();
        }
    }

    /// Follows a watch to its end.
    async fn watch(&mut self, mut events: Events<K>, version: &mut Option<String>) -> Result<End, End> {
        let steady = Instant::now() + STEADY;
        let asked = Arc::clone(&self.asked);
        let mut unreadable = 0;
        loop {
            let event = tokio::select! {
                biased;
                () = asked.notified() => return Ok(End::Asked),
                () = time::sleep_until(steady), if self.failing => {
                    self.steady().await?;
                    continue;
                }
                event = self.next(&mut events, &mut unreadable) => event?,
            };
            let (of, event) = match event {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    (object.resource_version(), Some(Event::Applied(object)))
                }
                Some(WatchEvent::Deleted(object)) => (object.resource_version(), Some(Event::Deleted(object))),
                Some(WatchEvent::Bookmark(bookmark)) => (Some(bookmark.metadata.resource_version), None),
                Some(WatchEvent::Error(status)) => return Err(Failure::Refused(status).into()),
                None => return Ok(End::InOrder),
            };
            let of = of.filter(|version| !version.is_empty());
            if of.is_none() {
                // The next try lists.
                *version = None;
                return Err(Failure::NoVersion.into());
            }
            if let Some(event) = event {
                self.steady().await?;
                self.send(event).await?;
            }
            *version = of;
        }
    }

    /// What comes next in a watch; nothing at its end. An object that cannot be read is
    /// reported and passed over, so that it hides none behind it.
    async fn next(&mut self, events: &mut Events<K>, unreadable: &mut u32) -> Result<Option<WatchEvent<K>>, End> {
        let silence = Duration::from_secs(self.common.seconds.into()) + SILENCE;
        loop {
            match time::timeout(silence, events.next()).await.map_err(|_| Failure::Silent(silence))? {
                Some(Err(error)) if Failure::is_unreadable(&error) && *unreadable < UNREADABLE => {
                    *unreadable += 1;
                    // The next object that can be read ends this failure.
                    self.failing = true;
                    self.fail(error.into()).await?;
                }
                Some(event) => {
                    *unreadable = 0;
                    return Ok(Some(event?));
                }
                None => return Ok(None),
            }
        }
    }

    /// The watch works again, if it failed before.
    async fn steady(&mut self) -> Result<(), End> {
        if std::mem::take(&mut self.failing) { self.send(Event::Steady).await } else { Ok(()) }
    }

    async fn send(&self, event: Event<K>) -> Result<(), End> {
        self.common.sender.send((self.event)(event)).await.map_err(|_| End::Closed)
    }

    async fn fail(&self, failure: Failure) -> Result<(), End> {
        self.common.sender.send(Heard::Failed(self.kind, failure)).await.map_err(|_| End::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_streamed_from_the_release_that_has_it() {
        for (major, minor, streams) in [
            ("1", "36", true),
            ("1", "32", true),
            ("1", "33+", true),
            ("1", "31", false),
            ("1", "20", false),
            ("2", "0", true),
            ("", "", false),
        ] {
            assert_eq!(streams_lists(major, minor), streams, "{major}.{minor}");
        }
    }
}
