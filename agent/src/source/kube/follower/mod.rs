//! What is known of the cluster, and what is to be reported of it.
//!
//! ```text
//! watch, watch::reread ─▶ Follower ─▶ Changes
//!   known       which objects exist, so that a list shows what is gone
//!   holds       doubtful removals, held back;  start: what is doubted at the start
//!   identity    whether the API server is still that of the same cluster
//!   large       of large objects, what policies name
//!   policies    the policies within the bound of their namespaces
//!   unreadable  objects that cannot be read
//! ```

mod holds;
mod identity;
mod known;
mod large;
mod policies;
mod start;
mod unreadable;

use std::hash::Hash;
use std::time::Duration;

use npc_compiler::{engine, object};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use self::identity::ClusterIdentity;
use self::known::{KeptData, KnownObjects, PodAddresses, SmallKey};
use self::large::Large;
use self::policies::PolicyBudgets;
use self::start::Start;
use self::unreadable::{effect_of_unreadable, log_unreadable, note_unreadable, unreadable_as, unreadable_object};
use super::connection::failure::Failure;
use super::objects::decode;
use super::objects::named::PolicyNames;
use super::objects::watched::{ObjectEvent, Trimmed};
use super::watch::reread::{ObjectKey, Wanted};
use super::{FollowSettings, GATHERED, GATHERED_BYTES, WatchReport, words};
use crate::source::ObjectKind;
use crate::source::held::{DoubtThreshold, Moment, Times, Trust};
use crate::source::watch_metrics::Watches;
use crate::source::{Change, Changes, OwnNode, UnnamedNode};
use crate::status::SharedStatus;

/// If there are at least this many pods, a list that lacks more than half of them is doubted.
const MANY_PODS: usize = 20;

/// The longest time between two lists that are asked for because removals are held back.
const LONGEST: Duration = Duration::from_secs(300);

/// What is known to exist.
#[derive(Default)]
struct Cluster {
    pods: KnownObjects<SmallKey, PodAddresses>,
    namespaces: KnownObjects<String>,
    policies: KnownObjects<(String, String)>,
    nodes: KnownObjects<String>,
}

/// What is known of the cluster, and what is to be reported of it.
pub(super) struct Follower {
    /// The name of the agent's node.
    node: String,
    known: Cluster,
    /// Which kinds were listed completely.
    listed: [bool; ObjectKind::ALL.len()],
    /// Which watches fail, so that the log has it once, and whether because the API server refuses.
    /// The operator has to put a refusal right, so it is logged even if the watch failed before.
    failing: [Option<bool>; ObjectKind::ALL.len()],
    /// For how long the API server could have been asked for each kind.
    clocks: [Clock; ObjectKind::ALL.len()],
    pending: Changes,
    /// About how many bytes these take.
    pending_bytes: usize,
    /// Everything that exists was reported.
    reported: bool,
    watches: Watches,
    times: Times,
    identity: ClusterIdentity,
    start: Start,
    status: Option<SharedStatus>,
    /// When which kind is to be listed because removals are held back, and how often
    /// that was asked for already.
    asks: [(Option<Instant>, u32); ObjectKind::ALL.len()],
    /// The lists were of this node's cluster when an event was last taken in.
    was_own_cluster: bool,
    policies: PolicyBudgets,
    large: Large,
}

/// Counts the time in which the API server could be asked.
#[derive(Debug, Clone, Copy)]
struct Clock {
    until: Duration,
    /// Since when it runs; it stands while the API server does not answer.
    since: Option<Instant>,
}

impl Clock {
    fn read(self, now: Instant) -> Duration {
        self.until + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Lets it run from now on, or stand.
    fn run(&mut self, runs: bool, now: Instant) {
        self.until = self.read(now);
        self.since = runs.then_some(now);
    }
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
    pub(super) fn new(settings: &FollowSettings, watches: Watches, named: PolicyNames, wanted: Wanted) -> Self {
        Self {
            node: settings.node.clone(),
            known: Cluster::default(),
            listed: [false; ObjectKind::ALL.len()],
            failing: [None; ObjectKind::ALL.len()],
            clocks: [Clock { until: Duration::ZERO, since: Some(Instant::now()) }; ObjectKind::ALL.len()],
            pending: Changes::default(),
            pending_bytes: 0,
            reported: false,
            watches,
            times: settings.hold,
            identity: ClusterIdentity::default(),
            start: Start::new(settings.kernel_isolates && !settings.hold.confirm_after.is_zero()),
            status: settings.status.clone(),
            asks: Default::default(),
            was_own_cluster: true,
            policies: PolicyBudgets::new(named.clone()),
            large: Large::new(named, wanted),
        }
    }

    fn is_in_sync(&self) -> bool {
        self.listed.iter().all(|listed| *listed) && !self.start.is_doubted()
    }

    /// Whether all policies were listed.
    pub(super) fn has_policies(&self) -> bool {
        self.listed[ObjectKind::NetworkPolicy as usize]
    }

    /// What decides whether a removal of a kind that a list implies is applied now.
    fn trust(&self, kind: ObjectKind) -> Trust {
        let (now, clock) = (Instant::now(), self.clocks[kind as usize]);
        let moment = Moment { now, answered: clock.read(now) };
        let is_own_cluster = self.is_own_cluster();
        Trust { times: self.times, is_own_cluster, is_answered: clock.since.is_some(), moment }
    }

    /// Whether the lists are of the cluster that this node belongs to.
    fn is_own_cluster(&self) -> bool {
        let is_node = !self.listed[ObjectKind::Node as usize] || !self.known.nodes.exists_none();
        is_node && self.identity.is_first()
    }

    /// Whether there is something to report.
    pub(super) fn has_news(&self) -> bool {
        !self.pending.is_empty() || self.is_in_sync() && !self.reported
    }

    /// Whether so much is pending that it should be reported before anything else is taken in.
    pub(super) fn has_gathered_enough(&self) -> bool {
        self.pending.changes.len() >= GATHERED || self.pending_bytes >= GATHERED_BYTES
    }

    /// What is to be reported.
    pub(super) fn take(&mut self) -> Changes {
        self.reported = self.is_in_sync();
        self.pending_bytes = 0;
        Changes { is_part: !self.reported, ..std::mem::take(&mut self.pending) }
    }

    /// Takes in what a watch reports.
    pub(super) fn take_in(&mut self, report: WatchReport) {
        match report {
            WatchReport::Pod(event) => self.pod(event),
            WatchReport::Namespace(event) => {
                if self.identity.take_in(&event) {
                    error!(
                        "namespace kube-system has another UID than before, or is gone, so the API server is of another \
                         cluster or another store. The agent deletes nothing until it is back. If you moved to this \
                         cluster, restart the agent"
                    );
                    self.asks[ObjectKind::Namespace as usize] = (Some(self.soon()), 0);
                }
                let is_listed = matches!(event, ObjectEvent::ListEnds);
                self.namespace(event);
                if is_listed && !self.identity.is_first() {
                    self.ask_again(ObjectKind::Namespace);
                }
            }
            WatchReport::Policy(event) => self.policy(event),
            WatchReport::Node(event) => {
                let key = |identity: &decode::Identity| identity.name.clone();
                let mut pod_cidrs = None;
                let read = |found| {
                    pod_cidrs = Some(found);
                    ((), None)
                };
                self.track(ObjectKind::Node, |known| &mut known.nodes, event, DoubtThreshold::Any, key, read);
                self.pending.pod_cidrs = pod_cidrs.or(self.pending.pod_cidrs.take());
                if self.listed[ObjectKind::Node as usize] {
                    let is_there = self.known.nodes.len() > 0;
                    self.pending.own_node = Some(if is_there {
                        OwnNode::Named
                    } else {
                        OwnNode::Unnamed(UnnamedNode::in_cluster(&self.node))
                    });
                }
            }
            WatchReport::Failed(kind, failure) => self.failed(kind, &failure),
            // It may have gone meanwhile, or come in a newer version. While a list comes in, it
            // would count as one that the list holds.
            WatchReport::PodAgain(item) => {
                let key = SmallKey::of(&item.identity);
                if self.known.pods.is_listing() {
                    let decode::Identity { namespace, name, .. } = item.identity;
                    self.large.read_again(vec![ObjectKey::Pod(namespace, name)]);
                } else if self.known.pods.contains(&key) && self.large.expects_pod(&key, &item.identity) {
                    self.pod(ObjectEvent::Applied(item));
                }
            }
            WatchReport::NamespaceAgain(item) => {
                if self.known.namespaces.is_listing() {
                    self.large.read_again(vec![ObjectKey::Namespace(item.identity.name)]);
                } else if self.known.namespaces.contains(&item.identity.name)
                    && self.large.expects_namespace(&item.identity)
                {
                    self.namespace(ObjectEvent::Applied(item));
                }
            }
            WatchReport::PolicyAgain(item) => {
                let decode::Identity { namespace, name, .. } = &item.identity;
                if self.known.policies.is_listing() {
                    self.large.read_again(vec![ObjectKey::Policy(namespace.clone(), name.clone())]);
                } else if self.known.policies.contains(&(namespace.clone(), name.clone()))
                    && self.policies.expects(&item.identity)
                {
                    self.policy(ObjectEvent::Applied(item));
                }
            }
        }
        self.restart_holds();
    }

    fn pod(&mut self, event: ObjectEvent<Trimmed<object::Pod>>) {
        self.large.note_pod(&event);
        let event = self.track(
            ObjectKind::Pod,
            |known| &mut known.pods,
            event,
            DoubtThreshold::MoreThanHalfOf(MANY_PODS),
            SmallKey::of,
            |pod| (PodAddresses::of(&pod.object), Some(engine::Event::Pod(Box::new(pod.object)))),
        );
        self.report(event, |this, key: SmallKey| {
            this.large.pod_gone(&key);
            engine::Event::PodGone(key.into())
        });
    }

    fn namespace(&mut self, event: ObjectEvent<Trimmed<object::Namespace>>) {
        self.large.note_namespace(&event);
        let event = self.track(
            ObjectKind::Namespace,
            |known| &mut known.namespaces,
            event,
            DoubtThreshold::All,
            |identity| identity.name.clone(),
            |namespace| ((), Some(engine::Event::Namespace(namespace.object))),
        );
        self.report(event, |this, name: String| {
            this.large.namespace_gone(&name);
            engine::Event::NamespaceGone(name)
        });
    }

    fn policy(&mut self, event: ObjectEvent<object::NetworkPolicy>) {
        if matches!(event, ObjectEvent::ListBegins) {
            self.start.begin_list(Instant::now());
        }
        let is_listed = matches!(event, ObjectEvent::ListEnds);
        let key = |identity: &decode::Identity| (identity.namespace.clone(), identity.name.clone());
        // It was read again since, and the list has it as it was before that.
        if let ObjectEvent::ListedAgain(identity) = &event
            && !self.policies.has_version(identity)
        {
            self.large.read_again(vec![ObjectKey::Policy(identity.namespace.clone(), identity.name.clone())]);
        }
        let read = |policy| ((), Some(engine::Event::Policy(Box::new(policy))));
        let event =
            self.track(ObjectKind::NetworkPolicy, |known| &mut known.policies, event, DoubtThreshold::All, key, read);
        self.doubt_start(is_listed);
        self.report(event, |this, (namespace, name): (String, String)| {
            let again = this.policies.remove(&namespace, &name);
            this.large.read_again(again);
            engine::Event::PolicyGone(namespace, name)
        });
        self.large.read_for_new_names();
    }

    /// Keeps the books about one kind; what the event means for them.
    fn track<K: Eq + Hash + Clone, V: KeptData + Default, T>(
        &mut self,
        kind: ObjectKind,
        known: fn(&mut Cluster) -> &mut KnownObjects<K, V>,
        event: ObjectEvent<T>,
        doubt: DoubtThreshold,
        key: impl FnOnce(&decode::Identity) -> K,
        read: impl FnOnce(T) -> (V, Option<engine::Event>),
    ) -> Tracked<K> {
        if !matches!(event, ObjectEvent::Steady | ObjectEvent::Answered) {
            self.watches.event(kind);
        }
        let (now, trust) = (Instant::now(), self.trust(kind));
        if self.clocks[kind as usize].since.is_none() && !matches!(event, ObjectEvent::ListBegins) {
            self.clocks[kind as usize].run(true, now);
        }
        let cluster = known(&mut self.known);
        let (held, unreadable) = (cluster.held(), cluster.unreadable_count());
        let is_listed = matches!(event, ObjectEvent::Listed(_));
        let tracked = match event {
            ObjectEvent::ListBegins => {
                self.watches.lists(kind);
                cluster.begin_list(now);
                Tracked::Nothing
            }
            ObjectEvent::Listed(item) | ObjectEvent::Applied(item) => {
                let key = key(&item.identity);
                self.pending_bytes += item.bytes;
                match item.content {
                    Ok(object) => {
                        let (kept, event) = read(object);
                        match cluster.came(key, kept) {
                            displaced if !displaced.is_empty() => Tracked::Displaced(displaced, event),
                            _ => event.map_or(Tracked::Nothing, |event| {
                                if is_listed { Tracked::Listed(event) } else { Tracked::Happened(event) }
                            }),
                        }
                    }
                    Err(_) if cluster.contains(&key) => {
                        let object = unreadable_object(kind, &item, "its last readable version stays in force");
                        note_unreadable(cluster, key, object);
                        Tracked::Nothing
                    }
                    Err(_) => {
                        let effect = effect_of_unreadable(kind, item.rescue.is_some());
                        note_unreadable(cluster, key, unreadable_object(kind, &item, effect));
                        // Whenever it was made, it is news.
                        let event = item.rescue.and_then(|object| read(object).1);
                        event.map_or(Tracked::Nothing, Tracked::Happened)
                    }
                }
            }
            ObjectEvent::ListedAgain(identity) => {
                cluster.came_unchanged(key(&identity));
                Tracked::Nothing
            }
            ObjectEvent::Unnamed(error) => {
                let effect = "it shows no name, so nothing is taken for gone because of the list that holds it";
                let object = unreadable_as(kind, &decode::Identity::default(), &error, effect);
                log_unreadable(&object);
                cluster.came_unnamed(object);
                Tracked::Nothing
            }
            ObjectEvent::Deleted(identity) => {
                let key = key(&identity);
                cluster.went(&key);
                Tracked::Gone(key)
            }
            ObjectEvent::ListEnds => {
                let shown = cluster.end_list(doubt, trust);
                let (count, left) = (cluster.len(), cluster.held());
                self.is_listed(kind, count);
                self.doubted(kind, &shown, left, count);
                Tracked::Missing(shown.gone)
            }
            ObjectEvent::Steady => {
                if self.failing[kind as usize].take().is_some() {
                    info!(kind = kind.as_str(), "watching again");
                }
                return Tracked::Nothing;
            }
            ObjectEvent::Answered => return Tracked::Nothing,
        };
        self.is_held(kind, held);
        self.is_unreadable(kind, unreadable);
        tracked
    }

    fn report<K>(&mut self, tracked: Tracked<K>, mut gone: impl FnMut(&mut Self, K) -> engine::Event) {
        match tracked {
            Tracked::Nothing => {}
            Tracked::Happened(event) => self.change(event, true),
            Tracked::Gone(key) => {
                let event = gone(self, key);
                self.pending.changes.push(Change::now(event));
            }
            // It may have happened long ago.
            Tracked::Listed(event) => self.change(event, false),
            Tracked::Missing(keys) => self.missing(keys, gone),
            Tracked::Displaced(keys, event) => {
                self.missing(keys, gone);
                if let Some(event) = event {
                    self.change(event, true);
                }
            }
        }
    }

    fn missing<K>(&mut self, keys: Vec<K>, mut gone: impl FnMut(&mut Self, K) -> engine::Event) {
        for key in keys {
            let event = gone(self, key);
            self.pending.changes.push(Change { event, received: None });
        }
    }

    /// An object is there, or is different; just now, if it is news.
    fn change(&mut self, event: engine::Event, is_news: bool) {
        let events = match event {
            engine::Event::Policy(policy) => {
                let effects = self.policies.put(*policy);
                self.large.read_again(effects.again);
                effects.events
            }
            event => vec![event],
        };
        let received = is_news.then(std::time::Instant::now);
        self.pending.changes.extend(events.into_iter().map(|event| Change { event, received }));
    }

    fn is_listed(&mut self, kind: ObjectKind, count: usize) {
        if !std::mem::replace(&mut self.listed[kind as usize], true) {
            info!(kind = kind.as_str(), count, "listed the cluster's objects");
        }
    }

    fn failed(&mut self, kind: ObjectKind, failure: &Failure) {
        self.watches.failed(kind);
        if failure.is_unanswered() {
            self.clocks[kind as usize].run(false, Instant::now());
        }
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
                "not allowed to watch; enforcing the last known policies. Are the agent's ClusterRole and \
                 ClusterRoleBinding there?"
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
        self.changes.is_empty() && self.own_node.is_none() && self.positions.is_none()
    }
}
