//! ADDs on their way: from what each waits for to its answer.

use std::collections::BTreeSet;

use npc_cni::protocol::{Add, Answer, Reason};
use npc_compiler::engine;
use npc_compiler::object::Family;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant};
use tracing::{info, warn};

use super::{LoopEnded, Registry, changes};
use crate::cni::ended::without_ended;
use crate::cni::links::SeenLinks;
use crate::cni::pending::{Answered, Awaits, Pending, late};
use crate::cni::policy_lists::{ListedPolicies, Needs};
use crate::enforce::{Event, Waiter};
use crate::metrics::Cni;

impl Registry {
    /// When something is due about a request that waits.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pending.iter().map(Pending::due).min()
    }

    /// Goes on with the requests that wait, as far as that is possible now.
    pub(super) async fn advance(&mut self) -> Result<(), LoopEnded> {
        let now = Instant::now();
        let mut ready = Vec::new();
        for mut pending in std::mem::take(&mut self.pending) {
            if pending.answer.is_closed() {
                continue;
            }
            if pending.deadline <= now {
                self.metrics.refused();
                let _ = pending.answer.send(Answer::refused(Reason::Timeout, late(pending.awaits)));
                continue;
            }
            let is_due = pending.due() <= now;
            if pending.awaits == Awaits::Object {
                if let Some(arrived) = self.sandboxes.arrived(&pending.add) {
                    match self.lists.want(&pending.add.namespace, arrived, &mut self.policies) {
                        Needs::Turn(turn) => pending.awaits = Awaits::Policies(turn),
                        Needs::Nothing => {
                            ready.push(pending);
                            continue;
                        }
                    }
                } else if is_due {
                    warn!(
                        namespace = pending.add.namespace,
                        pod = pending.add.name,
                        "mirror pod not found; static pod starts isolated, reachable from its own node only"
                    );
                    ready.push(pending);
                    continue;
                }
            } else if is_due {
                warn!(
                    namespace = pending.add.namespace,
                    pod = pending.add.name,
                    "the API server has not listed the newest policies in time; the pod starts with those that the agent knows"
                );
                ready.push(pending);
                continue;
            }
            self.pending.push(pending);
        }
        self.admit(ready, Vec::new()).await
    }

    /// Policies were listed; those that waited for them go on.
    pub(super) async fn listed(
        &mut self,
        ListedPolicies { namespace, turn, since, policies }: ListedPolicies,
    ) -> Result<(), LoopEnded> {
        let has_come = policies.is_ok();
        let events = match policies {
            Ok(policies) => self.policies.listed(&namespace, since, policies),
            Err(error) => {
                self.policies.done();
                warn!(
                    namespace,
                    error, "cannot ask for the newest policies, so new pods start with those that the agent knows"
                );
                Vec::new()
            }
        };
        let is_over = |pending: &Pending| {
            pending.add.namespace == namespace && matches!(pending.awaits, Awaits::Policies(of) if of <= turn)
        };
        let (ready, rest) = std::mem::take(&mut self.pending).into_iter().partition(is_over);
        self.pending = rest;
        self.lists.over(namespace, has_come, &mut self.policies);
        self.admit(ready, events).await
    }

    /// These sandboxes live from now on. They are answered when their rules are in the
    /// kernel.
    async fn admit(&mut self, ready: Vec<Pending>, policies: Vec<engine::Event>) -> Result<(), LoopEnded> {
        let ready = without_ended(ready);
        // The network may have given the addresses of sandboxes to these that have ended since the last round.
        let beside: BTreeSet<u32> =
            ready.iter().flat_map(|pending| self.sandboxes.links_beside(&pending.add)).collect();
        if !beside.is_empty() {
            self.sandboxes.links_gone(&SeenLinks::look(beside));
        }
        let mut new = Vec::with_capacity(ready.len());
        for pending in &ready {
            // An agent before this one may have answered it, or a runtime asks twice. If no agent
            // answered, the pod has not run.
            new.push(!self.sandboxes.is_answered(&pending.add.attachment));
            self.sandboxes.admit(pending.add.clone(), pending.began, false);
        }
        let (ready, new): (Vec<_>, Vec<_>) =
            ready.into_iter().zip(new).filter_map(|of| self.unless_superseded(of)).unzip();
        self.warn_of_contested(&ready);
        let mut events = policies;
        events.extend(self.sandboxes.update());
        if events.is_empty() && ready.is_empty() {
            return Ok(());
        }
        // Before the answer, so that no agent after this one knows less than the runtime.
        self.save();
        let mut waiters = Vec::with_capacity(ready.len());
        for (pending, is_new) in ready.into_iter().zip(new) {
            let (reply, enforced) = oneshot::channel();
            let families = pending.add.addresses.iter().map(Family::of).collect();
            let addresses = pending.add.addresses.iter().copied().collect();
            waiters.push(Waiter { families, addresses, is_new, reply });
            tokio::spawn(answer_when_enforced(pending, enforced, self.metrics.clone(), self.answers.clone()));
        }
        if waiters.is_empty() {
            return self.send(events).await;
        }
        // Both without a wait between: a pass that begins between them is one too early for the
        // waiters, which then wait for the next.
        let mut permits = self.agent.reserve_many(2).await?;
        for event in changes(events).into_iter().chain([Event::Waiters(waiters)]) {
            if let Some(permit) = permits.next() {
                permit.send(event);
            }
        }
        Ok(())
    }
}

impl Registry {
    /// Refuses an ADD whose pod has a sandbox of a later one: to answer it would cut the connections of the pod that
    /// has its addresses by now.
    fn unless_superseded<T>(&self, (pending, other): (Pending, T)) -> Option<(Pending, T)> {
        if self.sandboxes.sandbox(&pending.add.attachment).is_some() {
            return Some((pending, other));
        }
        let Add { namespace, name, attachment, .. } = pending.add;
        info!(
            namespace,
            pod = name,
            container = attachment.container_id,
            "refused an ADD: the pod has a later sandbox"
        );
        let words = "its pod has another sandbox, whose ADD began later";
        let _ = pending.answer.send(Answer::refused(Reason::Gone, words));
        None
    }

    /// Says of the pods that start now which of their addresses other pods have.
    fn warn_of_contested(&self, ready: &[Pending]) {
        let contested = self.sandboxes.contested();
        for Pending { add, .. } in ready {
            for address in add.addresses.iter().filter(|address| contested.contains(address)) {
                warn!(
                    namespace = add.namespace,
                    pod = add.name,
                    container = add.attachment.container_id,
                    %address,
                    "this pod and another one of this node have one address, by what CNI reports; the address is isolated in both \
                     directions until one of them ends"
                );
            }
        }
    }
}

/// Answers an ADD once its rules are in the kernel, or when the plugin is about to give up.
async fn answer_when_enforced(
    mut pending: Pending,
    enforced: oneshot::Receiver<()>,
    metrics: Cni,
    answers: mpsc::UnboundedSender<Answered>,
) {
    let enforced = tokio::select! {
        enforced = time::timeout_at(pending.deadline, enforced) => enforced,
        // The plugin has given up, so the pod may run: its flows are no longer another's.
        () = pending.answer.closed() => return,
    };
    let reply = match enforced {
        Ok(Ok(())) => {
            metrics.added(pending.since.elapsed());
            // Before the answer: from then on the pod may run. Without a receiver the agent ends.
            let _ = answers.send(Answered { attachment: pending.add.attachment, began: pending.began });
            Answer::done()
        }
        // The agent ends. The plugin asks the next one.
        Ok(Err(_)) => return,
        Err(_) => {
            metrics.refused();
            let words = "the agent cannot bring the rules of this pod into the kernel; its log and `npc status` on this \
                         node have the reason";
            Answer::refused(Reason::Timeout, words)
        }
    };
    let _ = pending.answer.send(reply);
}
