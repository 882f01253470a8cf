//! What is known of the cluster, and what is to be reported of it.

use std::hash::Hash;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::core::DeserializeGuard;
use npc_compiler::engine::{self, PodKey};
use npc_compiler::object;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::failure::Failure;
use super::identity::Identity;
use super::known::{Addresses, Kept, Known, Shown, SmallKey};
use super::slim;
use super::start::Start;
use super::watch::Event;
use super::{Heard, Settings, words};
use crate::metrics::{Kind, Watches};
use crate::source::held::{Doubt, Times, Trust};
use crate::source::{Change, Changes};
use crate::status::{HeldRemovals, SharedStatus};

/// From so many pods on, a list that lacks more than half of them is doubted.
const MANY_PODS: usize = 20;

/// The longest time between two lists that are asked for because removals are held back.
const LONGEST: Duration = Duration::from_secs(300);

/// What is known to exist.
#[derive(Default)]
struct Cluster {
    pods: Known<SmallKey, Addresses>,
    namespaces: Known<String>,
    policies: Known<(String, String)>,
    nodes: Known<String>,
}

/// What is known of the cluster, and what is to be reported of it.
pub(super) struct Follower {
    node: String,
    known: Cluster,
    /// Which kinds were listed completely.
    listed: [bool; Kind::ALL.len()],
    /// Which watches fail, so that the log has it once, and whether because the API server
    /// refuses: that is for the operator to put right, so it is logged whatever failed
    /// before.
    failing: [Option<bool>; Kind::ALL.len()],
    pending: Changes,
    /// Everything that exists was reported.
    reported: bool,
    watches: Watches,
    times: Times,
    identity: Identity,
    start: Start,
    status: Option<SharedStatus>,
    /// When which kind is to be listed because removals are held back, and how often
    /// that was asked for already.
    asks: [(Option<Instant>, u32); Kind::ALL.len()],
    /// The lists were of this node's cluster when an event was last taken in.
    was_own_cluster: bool,
}

/// What an event means for the books about its kind.
enum Tracked<K> {
    Nothing,
    Happened(engine::Event),
    Gone(K),
    Listed(engine::Event),
    /// A list did not hold these.
    Missing(Vec<K>),
    /// It came with an address of these.
    Displaced(Vec<K>, Option<engine::Event>),
}

impl Follower {
    pub(super) fn new(settings: &Settings, watches: Watches) -> Self {
        Self {
            node: settings.node.clone(),
            known: Cluster::default(),
            listed: [false; Kind::ALL.len()],
            failing: [None; Kind::ALL.len()],
            pending: Changes::default(),
            reported: false,
            watches,
            times: settings.hold,
            identity: Identity::default(),
            start: Start::new(settings.kernel_isolates && !settings.hold.confirm_after.is_zero()),
            status: settings.status.clone(),
            asks: Default::default(),
            was_own_cluster: true,
        }
    }

    fn is_in_sync(&self) -> bool {
        self.listed.iter().all(|listed| *listed) && !self.start.is_doubted()
    }

    /// What speaks for believing a removal that a list implies.
    fn trust(&self) -> Trust {
        let is_node = !self.listed[Kind::Node as usize] || !self.known.nodes.exists_none();
        Trust { times: self.times, is_own_cluster: is_node && self.identity.is_first() }
    }

    /// Whether there is something to report.
    pub(super) fn has_news(&self) -> bool {
        !self.pending.is_empty() || self.is_in_sync() && !self.reported
    }

    /// How many changes are to be reported.
    pub(super) fn pending(&self) -> usize {
        self.pending.changes.len()
    }

    /// What is to be reported.
    pub(super) fn take(&mut self) -> Changes {
        self.reported = self.is_in_sync();
        Changes { is_part: !self.reported, ..std::mem::take(&mut self.pending) }
    }

    /// Takes in what a watch reports.
    pub(super) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Pod(event) => {
                let event = self.track(
                    Kind::Pod,
                    |known| &mut known.pods,
                    event,
                    Doubt::MoreThanHalfOf(MANY_PODS),
                    |pod| {
                        let pod = object::Pod::from(pod);
                        let (key, addresses) = (PodKey::of(&pod).into(), Addresses::of(&pod));
                        (key, addresses, Some(engine::Event::Pod(Box::new(pod))))
                    },
                );
                self.report(event, |key| engine::Event::PodGone(key.into()));
            }
            Heard::Namespace(event) => {
                if self.identity.hear(&event) {
                    error!(
                        "namespace kube-system has another UID than before, or is gone, so the API server is of another \
                         cluster or another store. While that is so, nothing that a list lacks is taken for gone. If it \
                         is meant, restart the agent"
                    );
                }
                let event = self.track(
                    Kind::Namespace,
                    |known| &mut known.namespaces,
                    event,
                    Doubt::All,
                    |namespace| (namespace.name_any(), (), Some(engine::Event::Namespace(namespace.into()))),
                );
                self.report(event, engine::Event::NamespaceGone);
            }
            Heard::Policy(event) => {
                if matches!(event, Event::ListBegins) {
                    self.start.begin_list(Instant::now());
                }
                let is_listed = matches!(event, Event::ListEnds);
                let event = self.track(Kind::NetworkPolicy, |known| &mut known.policies, event, Doubt::All, understood);
                self.doubt_start(is_listed);
                self.report(event, |(namespace, name)| engine::Event::PolicyGone(namespace, name));
            }
            Heard::Node(event) => {
                let name = |node: slim::Node| (node.name_any(), (), None);
                self.track(Kind::Node, |known| &mut known.nodes, event, Doubt::Any, name);
                if self.listed[Kind::Node as usize] {
                    self.pending.is_node = Some(self.known.nodes.len() > 0);
                }
            }
            Heard::Failed(kind, failure) => self.failed(kind, &failure),
        }
        self.trust_again();
    }

    /// Once the lists are of this node's cluster again, what is held is asked for anew: what
    /// the lists of another cluster lacked says nothing.
    fn trust_again(&mut self) {
        let is_own = self.trust().is_own_cluster;
        if !is_own || std::mem::replace(&mut self.was_own_cluster, is_own) {
            self.was_own_cluster = is_own;
            return;
        }
        let now = Instant::now();
        let Cluster { pods, namespaces, policies, nodes } = &mut self.known;
        pods.restart_hold(now);
        namespaces.restart_hold(now);
        policies.restart_hold(now);
        nodes.restart_hold(now);
        self.start.restart(now);
        for kind in Kind::ALL.into_iter().filter(|kind| self.held(*kind) > 0).collect::<Vec<_>>() {
            let soon = now + (self.times.confirm_after / 2).mul_f64(fastrand::f64());
            self.asks[kind as usize] = (Some(soon), 0);
        }
    }

    /// Keeps the books about one kind; what the event means for them.
    fn track<K: Eq + Hash + Clone, V: Kept, T>(
        &mut self,
        kind: Kind,
        known: fn(&mut Cluster) -> &mut Known<K, V>,
        event: Event<T>,
        doubt: Doubt,
        read: impl Fn(T) -> (K, V, Option<engine::Event>),
    ) -> Tracked<K> {
        if !matches!(event, Event::Steady) {
            self.watches.told(kind);
        }
        let (now, trust) = (Instant::now(), self.trust());
        let known = known(&mut self.known);
        let held = known.held();
        let tracked = match event {
            Event::ListBegins => {
                self.watches.lists(kind);
                known.begin_list(now);
                Tracked::Nothing
            }
            Event::Listed(object) => {
                let (key, kept, event) = read(object);
                known.came(key, kept);
                event.map_or(Tracked::Nothing, Tracked::Listed)
            }
            Event::Applied(object) => {
                let (key, kept, event) = read(object);
                match known.came(key, kept) {
                    displaced if displaced.is_empty() => event.map_or(Tracked::Nothing, Tracked::Happened),
                    displaced => Tracked::Displaced(displaced, event),
                }
            }
            Event::Deleted(object) => {
                let (key, ..) = read(object);
                known.went(&key);
                Tracked::Gone(key)
            }
            Event::ListEnds => {
                let shown = known.end_list(doubt, trust, now);
                let (count, left) = (known.len(), known.held());
                self.is_listed(kind, count);
                self.doubted(kind, &shown, left, count);
                Tracked::Missing(shown.gone)
            }
            Event::Steady => {
                if self.failing[kind as usize].take().is_some() {
                    info!(kind = kind.as_str(), "watching again");
                }
                return Tracked::Nothing;
            }
        };
        self.is_held(kind, held);
        tracked
    }

    fn report<K>(&mut self, tracked: Tracked<K>, gone: fn(K) -> engine::Event) {
        let changes = &mut self.pending.changes;
        match tracked {
            Tracked::Nothing => {}
            Tracked::Happened(event) => changes.push(Change::now(event)),
            Tracked::Gone(key) => changes.push(Change::now(gone(key))),
            // It may have happened long ago.
            Tracked::Listed(event) => changes.push(Change { event, heard: None }),
            Tracked::Missing(keys) => {
                changes.extend(keys.into_iter().map(|key| Change { event: gone(key), heard: None }));
            }
            Tracked::Displaced(keys, event) => {
                changes.extend(keys.into_iter().map(|key| Change { event: gone(key), heard: None }));
                changes.extend(event.map(Change::now));
            }
        }
    }

    /// Says and counts what a list does to the removals that are held back.
    fn doubted<K>(&mut self, kind: Kind, shown: &Shown<K>, left: usize, known: usize) {
        let (kind_name, Times { confirm_after, at_most }) = (kind.as_str(), self.times);
        if shown.held > 0 {
            warn!(
                kind = kind_name,
                missing = shown.held,
                known,
                ?confirm_after,
                ?at_most,
                "the API server's list lacks these; their removal is held back until another list agrees, because \
                 policies that vanish open what they closed. What is new in the list applies"
            );
        }
        if shown.returned > 0 {
            info!(kind = kind_name, returned = shown.returned, left, "objects exist whose removal was held back");
        }
        if left == 0 {
            return;
        }
        // Node and kube-system show whether this is the right cluster.
        let (_, asked) = self.asks[kind as usize];
        if asked == 0 {
            let soon = Instant::now() + (confirm_after / 2).mul_f64(fastrand::f64());
            for other in [Kind::Node, Kind::Namespace] {
                if other != kind {
                    self.asks[other as usize].0.get_or_insert(soon);
                }
            }
        }
        let wait = (confirm_after * 2_u32.saturating_pow(asked.min(16))).min(LONGEST.max(confirm_after));
        let most = if asked == 0 { at_most.saturating_sub(confirm_after) / 2 } else { confirm_after };
        let spread = confirm_after.min(most).mul_f64(fastrand::f64());
        self.asks[kind as usize] = (Some(Instant::now() + wait + spread), asked + 1);
    }

    /// Counts what is held of a kind, if it is another number than before.
    fn is_held(&mut self, kind: Kind, before: usize) {
        let held = self.held(kind);
        if held != before {
            self.watches.held(kind, held);
            self.write_status();
        }
        if held == 0 && before > 0 {
            self.asks[kind as usize] = (None, 0);
            info!(kind = kind.as_str(), "no removal is held back any more");
        }
    }

    /// Writes into the agent's status what is held back.
    fn write_status(&self) {
        let Some(status) = &self.status else { return };
        let held = Kind::ALL.map(|kind| (kind, self.held(kind)));
        status.update(|status| {
            let before = std::mem::take(&mut status.held_removals);
            status.held_removals = held
                .into_iter()
                .filter(|(_, objects)| *objects > 0)
                .map(|(kind, objects)| {
                    let kind = kind.as_str().to_owned();
                    let since =
                        before.iter().find(|held| held.kind == kind).map_or_else(Timestamp::now, |held| held.since);
                    HeldRemovals { kind, objects, since }
                })
                .collect();
        });
    }

    fn held(&self, kind: Kind) -> usize {
        match kind {
            Kind::Pod => self.known.pods.held(),
            Kind::Namespace => self.known.namespaces.held(),
            Kind::NetworkPolicy => self.known.policies.held() + usize::from(self.start.is_doubted()),
            Kind::Node => self.known.nodes.held(),
        }
    }

    /// Doubts a first list without policies where the kernel isolates pods.
    fn doubt_start(&mut self, is_listed: bool) {
        let before = self.held(Kind::NetworkPolicy);
        if self.known.policies.len() > 0 {
            self.start.sees_policies();
        } else if is_listed && self.start.listed_none(Instant::now(), self.trust()) {
            let Times { confirm_after, at_most } = self.times;
            warn!(
                ?confirm_after,
                ?at_most,
                "the API server's list holds no NetworkPolicy, but the kernel isolates pods; nothing is written until \
                 another list agrees"
            );
            self.asks[Kind::NetworkPolicy as usize] = (Some(Instant::now() + confirm_after), 1);
        } else if is_listed && self.start.is_doubted() {
            self.asks[Kind::NetworkPolicy as usize].0 = Some(Instant::now() + self.times.confirm_after);
        }
        self.is_held(Kind::NetworkPolicy, before);
    }

    /// When [`Follower::act`] has something to do, if nothing else happens.
    pub(super) fn due(&self) -> Option<Instant> {
        let trust = self.trust();
        let Cluster { pods, namespaces, policies, nodes } = &self.known;
        let expires = [
            pods.expires(trust),
            namespaces.expires(trust),
            policies.expires(trust),
            nodes.expires(trust),
            self.start.expires(trust),
        ];
        let asks = self.asks.iter().map(|(at, _)| *at);
        expires.into_iter().chain(asks).flatten().min()
    }

    /// Believes what has been held back for the longest time; the kinds of which a list
    /// is to be asked for.
    pub(super) fn act(&mut self) -> Vec<Kind> {
        let (now, trust) = (Instant::now(), self.trust());
        let before = Kind::ALL.map(|kind| self.held(kind));
        let pods = self.known.pods.expired(trust, now);
        self.report(Tracked::Missing(pods), |key: SmallKey| engine::Event::PodGone(key.into()));
        let namespaces = self.known.namespaces.expired(trust, now);
        self.report(Tracked::Missing(namespaces), engine::Event::NamespaceGone);
        let policies = self.known.policies.expired(trust, now);
        self.report(Tracked::Missing(policies), |(namespace, name)| engine::Event::PolicyGone(namespace, name));
        self.start.expire(now, trust);
        for (kind, before) in Kind::ALL.into_iter().zip(before) {
            if self.held(kind) < before {
                warn!(kind = kind.as_str(), held_for = ?self.times.at_most, "removals are believed without another list");
            }
            let is_believed = self.held(kind) < before;
            self.is_held(kind, before);
            if is_believed {
                // What was believed without a list is listed once more.
                self.asks[kind as usize].0 = Some(now);
            }
        }
        let is_due = |kind: &Kind| self.asks[*kind as usize].0.is_some_and(|at| at <= now);
        let asked: Vec<Kind> = Kind::ALL.into_iter().filter(is_due).collect();
        for kind in &asked {
            self.asks[*kind as usize].0 = None;
        }
        asked
    }

    fn is_listed(&mut self, kind: Kind, count: usize) {
        if !std::mem::replace(&mut self.listed[kind as usize], true) {
            info!(kind = kind.as_str(), count, node = self.node, "listed");
        }
    }

    fn failed(&mut self, kind: Kind, failure: &Failure) {
        self.watches.failed(kind);
        let (words, code) = (words(failure), failure.code());
        let is_refusal = failure.is_refusal();
        let before = self.failing[kind as usize];
        self.failing[kind as usize] = Some(is_refusal || before == Some(true));
        if before.is_some_and(|was_refusal| was_refusal || !is_refusal) {
            debug!(kind = kind.as_str(), error = words, "still cannot watch");
        } else if is_refusal {
            error!(
                kind = kind.as_str(),
                code,
                error = words,
                "the API server does not let the agent watch, so it learns of no change; what is in the kernel stays \
                 as it is. Are its ClusterRole and ClusterRoleBinding there?"
            );
        } else {
            warn!(
                kind = kind.as_str(),
                code,
                error = words,
                "lost the watch; what is in the kernel stays as it is, and the agent tries again"
            );
        }
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.is_node.is_none() && self.positions.is_none()
    }
}

/// A policy's name, and the policy if it can be read. What it was before stays
/// in force otherwise.
fn understood(policy: DeserializeGuard<slim::Policy>) -> ((String, String), (), Option<engine::Event>) {
    let namespace = policy.namespace().unwrap_or_else(|| "default".to_owned());
    let name = policy.name_any();
    let event = match policy.0 {
        Ok(policy) => Some(engine::Event::Policy(Box::new(policy.into()))),
        Err(invalid) => {
            error!(
                namespace,
                name,
                error = invalid.error,
                "cannot read this NetworkPolicy as the API server sent it; its last readable version stays in force"
            );
            None
        }
    };
    ((namespace, name), (), event)
}
