//! Removals that are held back: when lists are asked for because of them, and when they are
//! applied.

use jiff::Timestamp;
use npc_compiler::engine;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Cluster, Follower, LONGEST};
use crate::source::ObjectKind;
use crate::source::held::Times;
use crate::source::kube::follower::known::{Shown, SmallKey};
use crate::status::HeldRemovals;
use crate::words::rounded::rounded;

impl Follower {
    /// Once the lists are of this node's cluster again, what is held is asked for anew: what
    /// the lists of another cluster lacked says nothing.
    pub(super) fn restart_holds(&mut self) {
        let is_own = self.is_own_cluster();
        if !is_own || std::mem::replace(&mut self.was_own_cluster, is_own) {
            self.was_own_cluster = is_own;
            return;
        }
        let moment = |kind| self.trust(kind).moment;
        let [pod, namespace, policy, node] =
            [ObjectKind::Pod, ObjectKind::Namespace, ObjectKind::NetworkPolicy, ObjectKind::Node].map(moment);
        let Cluster { pods, namespaces, policies, nodes } = &mut self.known;
        pods.restart_hold(pod);
        namespaces.restart_hold(namespace);
        policies.restart_hold(policy);
        nodes.restart_hold(node);
        self.start.restart(policy);
        for kind in ObjectKind::ALL.into_iter().filter(|kind| self.held(*kind) > 0).collect::<Vec<_>>() {
            self.asks[kind as usize] = (Some(self.soon()), 0);
        }
    }

    /// A moment in the first half of the time after which a list confirms.
    pub(super) fn soon(&self) -> Instant {
        Instant::now() + (self.times.confirm_after / 2).mul_f64(fastrand::f64())
    }

    /// Asks for another list of a kind, later and later.
    pub(super) fn ask_again(&mut self, kind: ObjectKind) {
        let confirm_after = self.times.confirm_after;
        let (_, asked) = self.asks[kind as usize];
        let wait = (confirm_after * 2_u32.saturating_pow(asked.min(16))).min(LONGEST.max(confirm_after));
        let spread = confirm_after.mul_f64(fastrand::f64());
        self.asks[kind as usize] = (Some(Instant::now() + wait + spread), asked + 1);
    }

    /// Says and counts what a list does to the removals that are held back.
    pub(super) fn doubted<K>(&mut self, kind: ObjectKind, shown: &Shown<K>, left: usize, known: usize) {
        let (kind_name, Times { confirm_after, at_most }) = (kind.as_str(), self.times);
        if shown.held > 0 {
            warn!(
                kind = kind_name,
                missing = shown.held,
                known,
                confirm_after = ?rounded(confirm_after),
                at_most = ?rounded(at_most),
                "list lacks many objects; removals held until a second list agrees"
            );
        }
        if shown.returned > 0 {
            info!(kind = kind_name, returned = shown.returned, left, "objects exist whose removal was held back");
        }
        if left == 0 {
            return;
        }
        // Node and kube-system show whether this is the right cluster, and again while they
        // say that it is another one.
        let (_, asked) = self.asks[kind as usize];
        if asked == 0 || !self.is_own_cluster() {
            let soon = self.soon();
            for other in [ObjectKind::Node, ObjectKind::Namespace] {
                if other != kind {
                    self.asks[other as usize].0.get_or_insert(soon);
                }
            }
        }
        if asked > 0 {
            self.ask_again(kind);
            return;
        }
        // The first list leaves time for a second one before the longest time is over.
        let spread = confirm_after.min(at_most.saturating_sub(confirm_after) / 2).mul_f64(fastrand::f64());
        self.asks[kind as usize] = (Some(Instant::now() + confirm_after + spread), 1);
    }

    /// Counts what is held of a kind, if it is another number than before.
    pub(super) fn is_held(&mut self, kind: ObjectKind, before: usize) {
        let held = self.held(kind);
        if held != before {
            self.watches.held(kind, held);
            self.write_status();
        }
        if held == 0 && before > 0 {
            if kind != ObjectKind::Namespace || self.identity.is_first() {
                self.asks[kind as usize] = (None, 0);
            }
            info!(kind = kind.as_str(), "no removals held");
        }
    }

    /// Writes into the agent's status what is held back.
    fn write_status(&self) {
        let Some(status) = &self.status else { return };
        let held = ObjectKind::ALL.map(|kind| (kind, self.held(kind)));
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

    pub(super) fn held(&self, kind: ObjectKind) -> usize {
        match kind {
            ObjectKind::Pod => self.known.pods.held(),
            ObjectKind::Namespace => self.known.namespaces.held(),
            ObjectKind::NetworkPolicy => self.known.policies.held() + usize::from(self.start.is_doubted()),
            ObjectKind::Node => self.known.nodes.held(),
        }
    }

    /// Doubts a first list without policies where the kernel isolates pods.
    pub(super) fn doubt_start(&mut self, is_listed: bool) {
        let before = self.held(ObjectKind::NetworkPolicy);
        if self.known.policies.len() > 0 {
            self.start.has_policies();
        } else if is_listed && self.start.listed_none(self.trust(ObjectKind::NetworkPolicy)) {
            let Times { confirm_after, at_most } = self.times;
            warn!(
                confirm_after = ?rounded(confirm_after),
                at_most = ?rounded(at_most),
                "the API server's list holds no NetworkPolicy, but the kernel isolates pods; nothing is written until \
                 another list agrees"
            );
            self.asks[ObjectKind::NetworkPolicy as usize] = (Some(Instant::now() + confirm_after), 1);
        } else if is_listed && self.start.is_doubted() {
            self.asks[ObjectKind::NetworkPolicy as usize].0 = Some(Instant::now() + self.times.confirm_after);
        }
        self.is_held(ObjectKind::NetworkPolicy, before);
    }

    /// When [`Follower::act`] has something to do, if nothing else happens.
    pub(in crate::source::kube) fn due(&self) -> Option<Instant> {
        let Cluster { pods, namespaces, policies, nodes } = &self.known;
        let expires = [
            pods.expires(self.trust(ObjectKind::Pod)),
            namespaces.expires(self.trust(ObjectKind::Namespace)),
            policies.expires(self.trust(ObjectKind::NetworkPolicy)),
            nodes.expires(self.trust(ObjectKind::Node)),
            self.start.expires(self.trust(ObjectKind::NetworkPolicy)),
        ];
        let asks = self.asks.iter().map(|(at, _)| *at);
        expires.into_iter().chain(asks).flatten().min()
    }

    /// Believes what has been held back for the longest time. Answers the kinds that are to be
    /// listed.
    pub(in crate::source::kube) fn act(&mut self) -> Vec<ObjectKind> {
        let now = Instant::now();
        let before = ObjectKind::ALL.map(|kind| self.held(kind));
        let pods = self.known.pods.expired(self.trust(ObjectKind::Pod));
        self.missing(pods, |this: &mut Self, key: SmallKey| {
            this.large.pod_gone(&key);
            engine::Event::PodGone(key.into())
        });
        let namespaces = self.known.namespaces.expired(self.trust(ObjectKind::Namespace));
        self.missing(namespaces, |this, name: String| {
            this.large.namespace_gone(&name);
            engine::Event::NamespaceGone(name)
        });
        let policies = self.known.policies.expired(self.trust(ObjectKind::NetworkPolicy));
        self.missing(policies, |this, (namespace, name): (String, String)| {
            let again = this.policies.remove(&namespace, &name);
            this.large.read_again(again);
            engine::Event::PolicyGone(namespace, name)
        });
        self.start.expire(self.trust(ObjectKind::NetworkPolicy));
        for (kind, before) in ObjectKind::ALL.into_iter().zip(before) {
            if self.held(kind) < before {
                warn!(kind = kind.as_str(), held_for = ?rounded(self.times.at_most), "applied held removals without a second list");
            }
            let is_believed = self.held(kind) < before;
            self.is_held(kind, before);
            if is_believed {
                // A kind whose removals were applied without a second list is listed once more.
                self.asks[kind as usize].0 = Some(now);
            }
        }
        let is_due = |kind: &ObjectKind| self.asks[*kind as usize].0.is_some_and(|at| at <= now);
        let asked: Vec<ObjectKind> = ObjectKind::ALL.into_iter().filter(is_due).collect();
        for kind in &asked {
            self.asks[*kind as usize].0 = None;
        }
        asked
    }
}
