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
//! kube-runtime's watcher is not used. It begins again inside itself after an empty answer, a
//! redirect or a reset, so no backoff reaches it (thousands of requests a second); an answer 410 is
//! no reason for a list to it; and it goes on reading where a streamed list was refused. Here every
//! try passes [`Lister::wait`], for every way in which the one before ended.
//!
//! `listing` is the list of a kind, and `reread` reads single objects again.

mod listing;
pub(super) mod reread;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header};
use kube::Client;
use kube::api::WatchParams;
use kube::core::Request;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{self, Instant};

use super::WatchReport;
use super::connection::client::Connector;
use super::connection::failure::{self, Failure};
use super::connection::pace::{AttemptEnd, Backoff, Reach, STEADY};
use super::objects::decode::{self, Identity, Item, WatchLine};
use super::objects::named::PolicyNames;
use super::objects::read::{self, Body, Buffer};
use super::objects::unchanged::Unchanged;
use super::objects::watched::{ObjectEvent, Watched, keep};
use crate::source::ObjectKind;
use crate::source::watch_metrics::Watches;

/// How long one watch may last before it is renewed from where it was, in seconds. Longer ones
/// would be cut off by the time that an answer may take. A streamed list has to be complete within
/// this time too, or it begins again.
pub const WATCH_SECONDS: RangeInclusive<u32> = 10..=110;

/// How long the answer to a watch may take to begin. A server that queues it takes
/// less, and a connection that died in silence would take 120 s.
pub(super) const BEGINS: Duration = Duration::from_secs(15);

/// How much longer than its time limit a watch may be silent before it is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// How long the other watches wait for the one that probes an API server that does not
/// answer, before they probe it themselves.
const UNWOKEN: Duration = Duration::from_secs(30);

/// Why a watch ended.
enum WatchEnd {
    /// At its time limit, or the server's.
    InOrder,
    /// A list is asked for.
    Asked,
    /// Nothing takes events any more.
    Closed,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for WatchEnd {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What all watches of an agent have in common.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) connector: Connector,
    pub(super) watches: Watches,
    pub(super) sender: mpsc::Sender<WatchReport>,
    /// What policies name.
    pub(super) named: PolicyNames,
    /// How much of objects may wait to be taken in, in [`UNIT`]s of bytes.
    pub(super) room: Arc<Semaphore>,
    /// All policies were listed once, so it is known what they name.
    pub(super) has_policies: watch::Receiver<bool>,
    pub(super) reach: Reach,
    /// How long a watch lasts.
    pub(super) seconds: u32,
    /// Over which time the lists of all nodes are spread after a 410.
    pub(super) spread: Duration,
    /// The API server is asked to stream lists.
    pub(super) streams: bool,
}

/// The unit of what may wait to be taken in, in bytes.
const UNIT: usize = 1 << 10;

/// How many units may wait. One object takes no more than all of them.
pub(super) const ROOM: u32 = 8 << 10;

/// Lists and watches one kind.
#[allow(clippy::struct_excessive_bools, reason = "each is true and false apart from the others")]
pub(super) struct Lister<K: Watched> {
    common: Common,
    kind: ObjectKind,
    field_selector: Option<String>,
    event: fn(ObjectEvent<K::Object>) -> WatchReport,
    /// Whether this watch probes an API server that does not answer.
    probes: bool,
    /// Where a list is asked for.
    asked: Arc<Notify>,
    client: Option<Client>,
    pace: Backoff,
    /// Before this nothing is asked.
    next: Instant,
    /// Says when this may begin, if it has to wait.
    begins_after: Option<watch::Receiver<bool>>,
    /// Since the last failure the API server has not answered.
    unanswered: bool,
    buffer: Buffer,
    unchanged: Unchanged,
    /// The last failure was that no server answered.
    unreachable: bool,
    /// There was a failure, and no watch has proved steady since.
    failing: bool,
    /// How many streamed lists in a row broke off.
    broken_streams: u32,
}

impl<K: Watched> Lister<K> {
    pub(super) fn new(
        common: &Common,
        kind: ObjectKind,
        event: fn(ObjectEvent<K::Object>) -> WatchReport,
        asked: Arc<Notify>,
    ) -> Self {
        Self {
            common: common.clone(),
            kind,
            field_selector: None,
            event,
            probes: false,
            asked,
            client: None,
            begins_after: None,
            unanswered: false,
            buffer: Buffer::default(),
            unchanged: Unchanged::new(K::IS_KEPT_WHOLE),
            pace: Backoff::default(),
            next: Instant::now(),
            unreachable: false,
            failing: false,
            broken_streams: 0,
        }
    }

    /// Only the object of this name; so this watch is cheap, and it is the one that
    /// probes an API server that does not answer.
    pub(super) fn of_one(mut self, name: &str) -> Self {
        self.field_selector = Some(format!("metadata.name={name}"));
        self.probes = true;
        self
    }

    /// Begins when all policies were listed once. What is kept of a large object is what
    /// they name, and then no such object has to be read twice.
    pub(super) fn after_policies(mut self) -> Self {
        self.begins_after = Some(self.common.has_policies.clone());
        self
    }

    /// Lists and watches, until nothing takes events any more.
    pub(super) async fn run(mut self) {
        if let Some(mut after) = self.begins_after.take()
            && after.wait_for(|is_so| *is_so).await.is_err()
        {
            return;
        }
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
                WatchEnd::InOrder if !steady => WatchEnd::Failed(Failure::Short(begun.elapsed())),
                end => end,
            };
            let ended = match &end {
                WatchEnd::InOrder | WatchEnd::Asked => AttemptEnd::InOrder,
                _ if steady => AttemptEnd::Broke,
                _ => AttemptEnd::Failed,
            };
            self.next = self.pace.ended(ended, Instant::now(), fastrand::f64());
            match end {
                WatchEnd::Closed => return,
                WatchEnd::InOrder => {}
                WatchEnd::Asked => version = None,
                WatchEnd::Failed(failure) => {
                    self.unreachable = failure.is_unreachable();
                    self.unanswered |= failure.is_unanswered();
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

    /// Waits until the next try is due. Returns whether a list was asked for meanwhile.
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
    async fn attempt(
        &mut self,
        version: &mut Option<String>,
        since: &mut Option<Instant>,
    ) -> Result<WatchEnd, WatchEnd> {
        let client = match self.client.take().filter(|_| version.is_some()) {
            Some(client) => client,
            // Each list has connections of its own: where the last answer was wrong,
            // another server may answer.
            None => self.common.connector.noting(Some(&self.common.watches))?,
        };
        self.client = Some(client.clone());
        let events = match version {
            Some(from) => self.open(&client, from, false).await?,
            None => {
                let (from, events) = self.list(&client).await?;
                *version = Some(from.clone());
                match events {
                    Some(events) => events,
                    None => self.open(&client, &from, false).await?,
                }
            }
        };
        *since = Some(Instant::now());
        self.watch(events, version).await
    }

    /// Begins a watch; `lists` if it is to begin with all objects.
    async fn open(&mut self, client: &Client, version: &str, lists: bool) -> Result<Body, WatchEnd> {
        let params = WatchParams {
            field_selector: self.field_selector.clone(),
            timeout: Some(self.common.seconds),
            send_initial_events: lists,
            ..WatchParams::default()
        };
        let request = Request::new(K::url_path(&(), None)).watch(&params, version);
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        // From 1.37 on a server compresses each line for itself, which kube does not read.
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let body = time::timeout(BEGINS, client.request_stream(request)).await;
        let body = body.map_err(|_| Failure::NoAnswer(BEGINS))??;
        self.answered().await?;
        self.buffer.clear();
        Ok(Box::pin(body))
    }

    /// The API server has answered.
    async fn answered(&mut self) -> Result<(), WatchEnd> {
        self.unreachable = false;
        if self.probes {
            self.common.reach.is_there();
        }
        if std::mem::take(&mut self.unanswered) { self.send(ObjectEvent::Answered).await } else { Ok(()) }
    }

    /// Follows a watch to its end.
    async fn watch(&mut self, mut events: Body, version: &mut Option<String>) -> Result<WatchEnd, WatchEnd> {
        let steady = Instant::now() + STEADY;
        let asked = Arc::clone(&self.asked);
        loop {
            let event = tokio::select! {
                biased;
                () = asked.notified() => return Ok(WatchEnd::Asked),
                () = time::sleep_until(steady), if self.failing => {
                    self.steady().await?;
                    continue;
                }
                event = self.next(&mut events) => event?,
            };
            let of = match event {
                Some(WatchLine::Applied(item)) => {
                    let (of, is_readable) = (item.identity.version.clone(), item.content.is_ok());
                    self.steady().await?;
                    self.send_item(item, ObjectEvent::Applied).await?;
                    if of.is_empty() && !is_readable {
                        continue;
                    }
                    of
                }
                Some(WatchLine::Deleted(identity)) => {
                    let of = identity.version.clone();
                    self.steady().await?;
                    self.send_deleted(identity).await?;
                    of
                }
                Some(WatchLine::Bookmark(of, _)) => of,
                // The next try goes on from before it.
                Some(WatchLine::Unnamed(error)) => {
                    self.send(ObjectEvent::Unnamed(error)).await?;
                    continue;
                }
                // Only a list holds what is as it was.
                Some(WatchLine::Unchanged(_)) => continue,
                Some(WatchLine::Error(status)) => return Err(Failure::Refused(status).into()),
                None => return Ok(WatchEnd::InOrder),
            };
            if of.is_empty() {
                // The next try lists.
                *version = None;
                return Err(Failure::NoVersion.into());
            }
            *version = Some(of);
        }
    }

    /// What comes next in a watch; nothing at its end. Safe to cancel.
    async fn next(&mut self, events: &mut Body) -> Result<Option<WatchLine<K>>, WatchEnd> {
        let silence = Duration::from_secs(self.common.seconds.into()) + SILENCE;
        let read = time::timeout(silence, read::line(events, &mut self.buffer)).await;
        match read.map_err(|_| Failure::Silent(silence))? {
            Ok(Some(piece)) => {
                let object = decode::object_of_line(self.buffer.bytes());
                if let Some(identity) = object.and_then(|object| self.unchanged.find(piece, object)) {
                    return Ok(Some(WatchLine::Unchanged(identity)));
                }
                let line = decode::line(&self.buffer, piece);
                Ok(Some(line.map_err(kube::Error::SerdeError)?))
            }
            Ok(None) => Ok(None),
            // The server, or a proxy before it, cut the connection.
            Err(error) if failure::is_end(&error) => Ok(None),
            Err(error) => Err(Failure::from(kube::Error::ReadEvents(error)).into()),
        }
    }

    /// The watch works again, if it failed before.
    async fn steady(&mut self) -> Result<(), WatchEnd> {
        if std::mem::take(&mut self.failing) { self.send(ObjectEvent::Steady).await } else { Ok(()) }
    }

    /// Passes an object on, when there is room for it.
    async fn send_item(
        &mut self,
        item: Item<K>,
        event: fn(Item<K::Object>) -> ObjectEvent<K::Object>,
    ) -> Result<(), WatchEnd> {
        let rescue =
            item.content.as_ref().err().and_then(|error| K::rescue(self.buffer.bytes(), &item.identity, error));
        let bytes = self.buffer.bytes();
        self.unchanged.note(&item, decode::object_of_line(bytes).unwrap_or(bytes));
        let mut item = keep(item, &self.common.named);
        item.rescue = rescue;
        let units = u32::try_from(item.bytes / UNIT).unwrap_or(ROOM).clamp(1, ROOM);
        let room = Arc::clone(&self.common.room).acquire_many_owned(units).await;
        item.room = Some(room.map_err(|_| WatchEnd::Closed)?);
        self.send(event(item)).await
    }

    async fn send_deleted(&mut self, identity: Identity) -> Result<(), WatchEnd> {
        self.unchanged.forget(&identity);
        self.send(ObjectEvent::Deleted(identity)).await
    }

    async fn send(&self, event: ObjectEvent<K::Object>) -> Result<(), WatchEnd> {
        self.common.sender.send((self.event)(event)).await.map_err(|_| WatchEnd::Closed)
    }

    async fn fail(&self, failure: Failure) -> Result<(), WatchEnd> {
        self.common.sender.send(WatchReport::Failed(self.kind, failure)).await.map_err(|_| WatchEnd::Closed)
    }
}
