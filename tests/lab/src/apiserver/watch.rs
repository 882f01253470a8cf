//! Watches: lines of JSON without an end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use serde_json::json;
use tokio::time::{Instant, Interval};

use super::failure::Failure;
use super::fault::Disturbance;
use super::object::Object;
use super::path::{ListOptions, ResourcePath};
use super::selector::Selector;
use super::shared::Shared;
use super::store::{Change, Message, Subscription};

/// How long a watch lasts that does not say; the real server chooses between
/// 30 and 60 minutes.
const TIME_LIMIT: u64 = 2700;
/// How long before its time limit a watch gets a bookmark, so that a client that goes on
/// from there misses least.
const PARTING: Duration = Duration::from_secs(2);
/// How much of the initial events goes into one chunk.
const CHUNK: usize = 64 << 10;

/// What faults do to a watch from its beginning.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fault that stands by itself")]
pub(crate) struct WatchFaults {
    pub(crate) hangs: bool,
    pub(crate) expired: bool,
    pub(crate) no_bookmarks: bool,
    pub(crate) lines_left: Option<usize>,
    /// The ERROR event with which the answer ends.
    pub(crate) refused: Option<Failure>,
    pub(crate) lists_nothing: bool,
}

/// A watch that is open.
struct OpenWatch {
    shared: Arc<Shared>,
    subscription: Subscription,
    place: ResourcePath,
    selector: Selector,
    bookmarks: bool,
    faults: WatchFaults,
    initial: VecDeque<Arc<Object>>,
    /// The revision of the initial events, if their end is to be marked.
    initial_end: Option<u64>,
    end: StreamEnd,
    break_in_next: bool,
    /// When the bookmark before the end is due, if it is still to come.
    parting: Option<Instant>,
    deadline: Instant,
    period: Interval,
}

/// What comes after what was sent last.
enum StreamEnd {
    NotYet,
    Orderly,
    Broken,
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.shared.store.state().unwatch(self.subscription.id);
        self.shared.changes.announce();
    }
}

/// Begins a watch; the body is its lines.
pub(crate) fn begin(
    shared: &Arc<Shared>,
    place: &ResourcePath,
    options: &ListOptions,
    faults: WatchFaults,
) -> Result<Body, Failure> {
    let selector = Selector::parse(place.resource, &options.label_selector, &options.field_selector)?;
    check_match(options)?;
    let version = ListOptions::number(&options.resource_version)?;
    let seconds = match ListOptions::number(&options.timeout_seconds)? {
        0 => TIME_LIMIT,
        seconds => seconds,
    };
    let streaming_list = ListOptions::is_on(&options.send_initial_events);
    let from_now = !streaming_list && !options.send_initial_events.is_empty() && version == 0;
    let mut state = shared.store.state();
    let current = state.revision();
    if streaming_list && version > current {
        return Err(Failure::too_large(version, current));
    }
    let listed = streaming_list || (version == 0 && !from_now);
    let selected = |(_, object): &(&_, &Arc<Object>)| place.shows(object) && selector.matches(object);
    let initial: VecDeque<Arc<Object>> = if listed && !faults.lists_nothing {
        state.all(place.resource).filter(selected).map(|(_, object)| Arc::clone(object)).collect()
    } else {
        VecDeque::new()
    };
    let after = if listed || from_now { current } else { version };
    // Once a watch is accepted, errors come to it as events.
    let too_old = |oldest| Ok(Body::from(error_line(&Failure::too_old(after, oldest))));
    if faults.expired {
        return too_old(current);
    }
    if let Some(failure) = &faults.refused {
        return Ok(Body::from(error_line(failure)));
    }
    let subscription = match state.watch(place.resource, after) {
        Ok(subscription) => subscription,
        Err(compacted) => return too_old(compacted.oldest),
    };
    drop(state);
    let now = Instant::now();
    let deadline = now + Duration::from_secs(seconds);
    let every = shared.settings().bookmark_period;
    let watch = OpenWatch {
        shared: Arc::clone(shared),
        subscription,
        place: place.clone(),
        selector,
        bookmarks: ListOptions::is_on(&options.allow_watch_bookmarks),
        faults,
        initial,
        initial_end: streaming_list.then_some(current),
        end: StreamEnd::NotYet,
        break_in_next: false,
        parting: deadline.checked_sub(PARTING).filter(|due| *due > now),
        deadline,
        period: tokio::time::interval_at(now + every, every),
    };
    shared.changes.announce();
    Ok(Body::from_stream(futures::stream::unfold(watch, OpenWatch::next)))
}

/// <https://github.com/kubernetes/apimachinery/blob/v0.34.0/pkg/apis/meta/internalversion/validation/validation.go>
fn check_match(options: &ListOptions) -> Result<(), Failure> {
    let why = match (options.send_initial_events.as_str(), options.resource_version_match.as_str()) {
        ("", "") => return Ok(()),
        ("", _) => "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        (_, "NotOlderThan") => return Ok(()),
        (_, _) => "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    };
    Err(ListOptions::forbidden("resourceVersionMatch", why))
}

impl OpenWatch {
    /// The next chunk, and the watch after it.
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        loop {
            match self.end {
                StreamEnd::NotYet => {}
                StreamEnd::Orderly => return None,
                StreamEnd::Broken => {
                    self.end = StreamEnd::Orderly;
                    // What was sent last leaves the house only while we wait.
                    tokio::task::yield_now().await;
                    return Some((Err(io::ErrorKind::ConnectionReset.into()), self));
                }
            }
            if self.faults.hangs {
                return std::future::pending().await;
            }
            let lines = self.lines().await;
            if !lines.is_empty() {
                return Some((Ok(Bytes::from(lines)), self));
            }
        }
    }

    /// Waits for what is to be sent; nothing if it is of no interest.
    async fn lines(&mut self) -> String {
        if let Some(lines) = self.initial_lines() {
            return lines;
        }
        tokio::select! {
            biased;
            message = self.subscription.receiver.recv() => match message {
                Some(Message::Changed(change)) => {
                    let Some(line) = self.change_line(&change) else { return String::new() };
                    self.cut_by_faults(line)
                }
                Some(Message::Bookmark(revision)) if self.bookmarks && !self.faults.no_bookmarks => {
                    let line = self.bookmark_line(revision, false);
                    self.cut_by_faults(line)
                }
                Some(Message::Bookmark(_)) => String::new(),
                Some(Message::Disturbed(disturbance)) => self.disturb(disturbance),
                None => {
                    self.end = StreamEnd::Orderly;
                    String::new()
                }
            },
            () = tokio::time::sleep_until(self.parting.unwrap_or(self.deadline)), if self.parting.is_some() => {
                self.parting = None;
                self.shared.store.state().bookmark(self.subscription.id);
                String::new()
            }
            () = tokio::time::sleep_until(self.deadline) => {
                self.end = StreamEnd::Orderly;
                String::new()
            }
            _ = self.period.tick() => {
                // By way of the store, so that it comes after the events before it.
                self.shared.store.state().bookmark(self.subscription.id);
                String::new()
            }
        }
    }

    /// The next of the events with which the watch begins.
    fn initial_lines(&mut self) -> Option<String> {
        let mut lines = String::new();
        while lines.len() < CHUNK && matches!(self.end, StreamEnd::NotYet) {
            let line = if let Some(object) = self.initial.pop_front() {
                self.line("ADDED", &object)
            } else if let Some(revision) = self.initial_end.take() {
                if !self.bookmarks {
                    break;
                }
                self.bookmark_line(revision, true)
            } else {
                break;
            };
            lines.push_str(&self.cut_by_faults(line));
        }
        (!lines.is_empty()).then_some(lines)
    }

    /// A line, or as much of it as faults let through.
    fn cut_by_faults(&mut self, line: String) -> String {
        let breaks = self.break_in_next || self.faults.lines_left == Some(0);
        self.faults.lines_left = self.faults.lines_left.map(|left| left.saturating_sub(1));
        if !breaks {
            return line;
        }
        self.end = StreamEnd::Broken;
        line.chars().take(line.chars().count() / 2).collect()
    }

    fn disturb(&mut self, disturbance: Disturbance) -> String {
        match disturbance {
            Disturbance::End => self.end = StreamEnd::Orderly,
            Disturbance::Break => self.end = StreamEnd::Broken,
            Disturbance::BreakInLine => self.break_in_next = true,
            Disturbance::Hang => self.faults.hangs = true,
            Disturbance::Expire => {
                self.end = StreamEnd::Orderly;
                let current = self.shared.store.state().revision();
                return error_line(&Failure::too_old(current, current));
            }
        }
        String::new()
    }

    /// What a change means to a watch that sees only what is selected.
    fn change_line(&self, change: &Change) -> Option<String> {
        let selected = |object: &Object| self.place.shows(object) && self.selector.matches(object);
        let before = change.before.as_ref().filter(|before| selected(before));
        let now = !change.deleted && selected(&change.after);
        match (before, now) {
            (None, false) => None,
            (None, true) => Some(self.line("ADDED", &change.after)),
            (Some(_), true) => Some(self.line("MODIFIED", &change.after)),
            (Some(_), false) if change.deleted => Some(self.line("DELETED", &change.after)),
            // It is deleted for this watch only: as it was when last seen.
            (Some(before), false) => Some(self.line("DELETED", &before.at(change.after.version()))),
        }
    }

    fn line(&self, kind: &str, object: &Object) -> String {
        format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", object.whole(self.place.group))
    }

    fn bookmark_line(&self, revision: u64, ends_initial: bool) -> String {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = (self.place.resource.kind(), self.place.group.api_version());
        let object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        format!("{}\n", json!({"type": "BOOKMARK", "object": object}))
    }
}

impl ResourcePath {
    /// Whether an object of the resource lives here.
    fn shows(&self, object: &Object) -> bool {
        self.namespace.is_empty() || object.field("metadata.namespace") == self.namespace
    }
}

fn error_line(failure: &Failure) -> String {
    format!("{}\n", json!({"type": "ERROR", "object": failure.status()}))
}
