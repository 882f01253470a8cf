//! Faults on demand: what a server does wrong, for which requests and how often.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::failure::Failure;
use super::resource::{Resource, Verb};

/// Something that goes wrong with requests that are to come.
///
/// A fault concerns every request, unless it names some, and goes on until
/// it is lifted, unless it has a number of times. Where several concern a request,
/// all do, in the order in which they were injected, until one answers it.
///
/// ```
/// use npc_lab::apiserver::{Fault, Resource, Server, Verb};
///
/// # fn main() -> std::io::Result<()> {
/// let server = Server::start()?;
/// let fault = server.inject(Fault::too_many_requests(1).on(Resource::Pods).verbs(&[Verb::List]).times(2));
/// // … the client lists pods, is refused twice and waits a second each time …
/// assert_eq!(fault.met(), 0);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Fault {
    action: Action,
    resource: Option<Resource>,
    verbs: Vec<Verb>,
    times: Option<usize>,
    chance: Option<Chance>,
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    Fail(Failure),
    Forbid,
    RefuseStreamingLists,
    Expire,
    Delay(Duration),
    Hold,
    Tear,
    WithholdBookmarks,
    Hang,
    BreakAfter(usize),
}

#[derive(Debug, Clone)]
struct Chance {
    one_in: u64,
    random: u64,
}

impl Fault {
    fn new(action: Action) -> Self {
        Self { action, resource: None, verbs: Vec::new(), times: None, chance: None }
    }

    /// Answers with a failure of one's own choice.
    #[must_use]
    pub fn failure(failure: Failure) -> Self {
        Self::new(Action::Fail(failure))
    }

    /// 500 Internal Server Error.
    #[must_use]
    pub fn internal_error() -> Self {
        Self::failure(Failure::internal("etcdserver: leader changed"))
    }

    /// 429 with `Retry-After`, as by API priority and fairness.
    #[must_use]
    pub fn too_many_requests(retry_after_seconds: u64) -> Self {
        Self::failure(Failure::too_many_requests(retry_after_seconds))
    }

    /// 403, as by a role that lacks the right.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(Action::Forbid)
    }

    /// Streaming lists are refused with 422, as by servers before 1.27 and by
    /// later ones without the feature gate WatchList.
    #[must_use]
    pub fn no_streaming_lists() -> Self {
        Self::new(Action::RefuseStreamingLists).verbs(&[Verb::StreamingList])
    }

    /// 410: the version or the page asked for has expired. A watch learns so by
    /// an event of type ERROR, a list by its answer.
    #[must_use]
    pub fn expired() -> Self {
        Self::new(Action::Expire)
    }

    /// Answers after this time.
    #[must_use]
    pub fn slow(delay: Duration) -> Self {
        Self::new(Action::Delay(delay))
    }

    /// Answers when the fault is lifted: a slow server without a clock.
    #[must_use]
    pub fn held() -> Self {
        Self::new(Action::Hold)
    }

    /// Answers break off in the middle, as when the server is killed. For
    /// watches, see [`Fault::broken_after`].
    #[must_use]
    pub fn torn() -> Self {
        Self::new(Action::Tear).verbs(&[Verb::Get, Verb::List, Verb::Page])
    }

    /// Watches get no bookmarks but the one that ends the initial events.
    #[must_use]
    pub fn no_bookmarks() -> Self {
        Self::new(Action::WithholdBookmarks)
    }

    /// Watches begin, and then nothing comes: no event, no end.
    #[must_use]
    pub fn hung_watch() -> Self {
        Self::new(Action::Hang).verbs(&[Verb::Watch, Verb::StreamingList])
    }

    /// Watches break in the middle of the line that follows so many whole ones.
    #[must_use]
    pub fn broken_after(lines: usize) -> Self {
        Self::new(Action::BreakAfter(lines)).verbs(&[Verb::Watch, Verb::StreamingList])
    }

    /// Only requests for this resource.
    #[must_use]
    pub fn on(mut self, resource: Resource) -> Self {
        self.resource = Some(resource);
        self
    }

    /// Only these verbs.
    #[must_use]
    pub fn verbs(mut self, verbs: &[Verb]) -> Self {
        self.verbs = verbs.to_vec();
        self
    }

    /// Only so many requests.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    /// Only one request in so many, at random; the seed repeats the choice.
    #[must_use]
    pub fn one_in(mut self, requests: u64, seed: u64) -> Self {
        self.chance = Some(Chance { one_in: requests.max(1), random: seed });
        self
    }

    fn concerns(&mut self, resource: Resource, verb: Verb) -> bool {
        let meant = self.resource.is_none_or(|only| only == resource)
            && (self.verbs.is_empty() || self.verbs.contains(&verb))
            && self.times != Some(0);
        let struck = meant && self.chance.as_mut().is_none_or(Chance::strikes);
        if struck {
            self.times = self.times.map(|left| left - 1);
        }
        struck
    }
}

impl Chance {
    fn strikes(&mut self) -> bool {
        // splitmix64: https://prng.di.unimi.it/splitmix64.c
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).is_multiple_of(self.one_in)
    }
}

/// Something that happens to watches that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// The server ends the answer in good order, as at its time limit.
    End,
    /// The connection breaks.
    Break,
    /// The connection breaks in the middle of the next event's line.
    BreakInLine,
    /// Nothing comes any more: no event, no bookmark, no end.
    Hang,
    /// An ERROR event says 410 Expired, and the answer ends.
    Expire,
}

/// All faults of a server.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    active: Mutex<Active>,
}

#[derive(Debug, Default)]
struct Active {
    faults: Vec<(u64, Fault)>,
    met: Vec<usize>,
}

impl Faults {
    fn active(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn inject(&self, fault: Fault) -> u64 {
        let mut active = self.active();
        let id = active.met.len() as u64;
        active.met.push(0);
        active.faults.push((id, fault));
        id
    }

    pub(crate) fn lift(&self, id: Option<u64>) {
        self.active().faults.retain(|(other, _)| id.is_some_and(|id| id != *other));
    }

    pub(crate) fn is_active(&self, id: u64) -> bool {
        self.active().faults.iter().any(|(other, _)| *other == id)
    }

    pub(crate) fn met(&self, id: u64) -> usize {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        self.active().met.get(index).copied().unwrap_or_default()
    }

    /// What goes wrong with this request.
    pub(crate) fn strike(&self, resource: Resource, verb: Verb) -> Vec<(u64, Action)> {
        let mut guard = self.active();
        let active = &mut *guard;
        let mut struck = Vec::new();
        for (id, fault) in &mut active.faults {
            if fault.concerns(resource, verb) {
                struck.push((*id, fault.action.clone()));
                if let Some(met) = usize::try_from(*id).ok().and_then(|index| active.met.get_mut(index)) {
                    *met += 1;
                }
            }
        }
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_affects_the_requests_that_it_names_and_as_many() {
        let faults = Faults::default();
        let id = faults.inject(Fault::internal_error().on(Resource::Pods).verbs(&[Verb::List]).times(2));
        assert!(faults.strike(Resource::Nodes, Verb::List).is_empty());
        assert!(faults.strike(Resource::Pods, Verb::Watch).is_empty());
        let struck = (0..5).filter(|_| !faults.strike(Resource::Pods, Verb::List).is_empty()).count();
        assert_eq!((struck, faults.met(id)), (2, 2));
    }

    #[test]
    fn chance_repeats_with_its_seed() {
        let pattern = |seed| {
            let faults = Faults::default();
            faults.inject(Fault::internal_error().one_in(3, seed));
            (0..300).map(|_| !faults.strike(Resource::Pods, Verb::Get).is_empty()).collect::<Vec<bool>>()
        };
        assert_eq!(pattern(1), pattern(1));
        assert_ne!(pattern(1), pattern(2));
        let struck = pattern(1).iter().filter(|struck| **struck).count();
        assert!((70..130).contains(&struck), "{struck}");
    }
}
