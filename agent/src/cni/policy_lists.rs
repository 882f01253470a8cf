//! Lists of policies, requested from the API server: of each namespace one at a time,
//! and one more for all pods that came while it ran. So a burst of pods costs two.
//!
//! A pod needs a list that began after the agent had read its object: policies that are older
//! than the pod are in it. The agent requests one when a pod is bound to this node. The
//! kubelet takes longer than that until it calls the plugin, so most ADDs wait for no list.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::task::JoinHandle;
use tokio::time::{self, Instant};

use super::policies::PolicyVersions;
use crate::source::{AskError, PolicyList};
use crate::words::rounded::rounded;

/// How long the API server may take to list the policies of a namespace. Then those that
/// the watch has delivered are used.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait before an API server is asked again that could not answer: first, and at
/// most. Each wait is twice as long as the one before. If the server names a time (`Retry-After`),
/// the client waits for that too.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// How old a list may be for a pod whose object came before it. A pod whose sandbox is made
/// later has a list of its own.
pub(super) const FRESH: Duration = Duration::from_secs(10);

/// Asks the API server for the policies of a namespace as they are now.
#[derive(Clone)]
pub struct AskPolicies(Arc<dyn Fn(String) -> PolicyAnswer + Send + Sync>);

/// The policies, or why there is no answer.
type PolicyAnswer = BoxFuture<'static, Result<PolicyList, AskError>>;

impl AskPolicies {
    /// Makes one that asks with this function, which gets a namespace's name.
    pub fn new(ask: impl Fn(String) -> PolicyAnswer + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl fmt::Debug for AskPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskPolicies")
    }
}

/// The list that runs for a namespace.
#[derive(Debug)]
struct RunningList {
    /// How many ran before it.
    turn: u64,
    /// The moment of the request ([`PolicyVersions::ask`]).
    since: u64,
    /// When it began, by the clock.
    begun: Instant,
    /// Another is wanted after it.
    is_wanted: bool,
}

/// Which list a pod needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// None: one that began after its object came has come too, or there is no API server.
    Nothing,
    /// The one of this turn.
    Turn(u64),
}

/// A list that was requested.
pub(super) struct ListedPolicies {
    /// The namespace.
    pub(super) namespace: String,
    /// Which of the namespace's lists it is.
    pub(super) turn: u64,
    /// The moment of the request ([`PolicyVersions::ask`]).
    pub(super) since: u64,
    /// What came.
    pub(super) policies: Result<PolicyList, String>,
}

/// Asks until there is an answer, for as long as that is worth it. What a second request lists is no
/// older than what the first one would have listed.
async fn listed(ask: impl Fn() -> PolicyAnswer) -> Result<PolicyList, String> {
    let mut last = None;
    let asked = async {
        let [mut wait, longest] = RETRY;
        loop {
            match ask().await {
                Ok(policies) => return Ok(policies),
                Err(AskError::Refused(error)) => return Err(error),
                Err(AskError::Passing(error)) => last = Some(error),
            }
            // Not all nodes at once.
            time::sleep(wait.mul_f64(1.0 + fastrand::f64() / 4.0)).await;
            wait = (wait * 2).min(longest);
        }
    };
    // One that panics is over too: the namespace has its next list all the same.
    let asked = time::timeout(PATIENCE, AssertUnwindSafe(asked).catch_unwind()).await;
    match asked {
        Ok(Ok(listed)) => listed,
        Ok(Err(_)) => Err("the request for them panicked, which is a fault of npc".to_owned()),
        Err(_) => Err(match last {
            Some(error) => format!("no list within {}; the last error: {error}", rounded(PATIENCE)),
            None => format!("no answer within {}", rounded(PATIENCE)),
        }),
    }
}

/// The lists that are requested.
pub(super) struct PolicyLists {
    ask: Option<AskPolicies>,
    running: BTreeMap<String, RunningList>,
    /// The last list of each namespace that came: the moment of the request, and the time.
    came: BTreeMap<String, (u64, Instant)>,
    answers: FuturesUnordered<JoinHandle<ListedPolicies>>,
}

impl PolicyLists {
    /// None yet. Without an API server there will be none.
    pub(super) fn new(ask: Option<AskPolicies>) -> Self {
        Self { ask, running: BTreeMap::new(), came: BTreeMap::new(), answers: FuturesUnordered::new() }
    }

    /// Requests the policies of a namespace for a pod whose object came at a moment
    /// ([`PolicyVersions::now`]), unless a list that began later has come or runs.
    pub(super) fn want(&mut self, namespace: &str, arrived: u64, policies: &mut PolicyVersions) -> Needs {
        if self.ask.is_none() {
            return Needs::Nothing;
        }
        let is_fresh = |(since, begun): &(u64, Instant)| *since > arrived && begun.elapsed() < FRESH;
        if self.came.get(namespace).is_some_and(is_fresh) {
            return Needs::Nothing;
        }
        if let Some(running) = self.running.get_mut(namespace) {
            if running.since > arrived {
                return Needs::Turn(running.turn);
            }
            // The one that runs may have been answered before this pod came.
            running.is_wanted = true;
            return Needs::Turn(running.turn + 1);
        }
        self.request(namespace.to_owned(), 0, policies);
        Needs::Turn(0)
    }

    fn request(&mut self, namespace: String, turn: u64, policies: &mut PolicyVersions) {
        let Some(AskPolicies(ask)) = &self.ask else { return };
        let (ask, since) = (Arc::clone(ask), policies.ask());
        self.running.insert(namespace.clone(), RunningList { turn, since, begun: Instant::now(), is_wanted: false });
        self.answers.push(tokio::spawn(async move {
            let policies = listed(|| ask(namespace.clone())).await;
            ListedPolicies { namespace, turn, since, policies }
        }));
    }

    /// The next list that has come. Never, while none runs.
    pub(super) async fn next(&mut self) -> ListedPolicies {
        loop {
            match self.answers.next().await {
                Some(Ok(listed)) => return listed,
                // The runtime ends.
                Some(Err(_)) => {}
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// A list is over, and has come or failed. Begins the next one of its namespace, if that is
    /// wanted.
    pub(super) fn over(&mut self, namespace: String, has_come: bool, policies: &mut PolicyVersions) {
        let Some(running) = self.running.remove(&namespace) else { return };
        if has_come {
            self.came.retain(|_, (_, begun)| begun.elapsed() < FRESH);
            self.came.insert(namespace.clone(), (running.since, running.begun));
        }
        if running.is_wanted {
            self.request(namespace, running.turn + 1, policies);
        }
    }
}
