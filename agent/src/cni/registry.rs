//! The task that owns what CNI reports. It stands between the source of objects and the
//! agent's loop, and answers the plugin.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use npc_cni::moment::Moment;
use npc_cni::note::Note;
use npc_cni::protocol::{Add, Answer, Attachment, Command, Reason, Request};
use npc_compiler::engine;
use npc_compiler::object::Family;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use super::asking::{Asking, ListedPolicies, Needs};
use super::ended::{gone_of, has_lost_its_interface, without_ended};
use super::files::Files;
use super::last_deletes::LastDeletes;
use super::netns::SeenNetns;
use super::pending::{Answered, Awaits, Pending, late};
use super::policies::Policies;
use super::sandboxes::Sandboxes;
use super::server::PendingRequest;
use crate::causes::with_causes;
use crate::dataplane::links;
use crate::enforce::{Event, Waiter};
use crate::metrics::Cni;
use crate::source::{Change, Changes};

/// An answer comes this long before the plugin stops waiting for it.
const MARGIN: Duration = Duration::from_millis(200);

/// The longest that a request waits, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(110);

/// How often the agent finds out which interfaces and notes are there.
const ROUND: Duration = Duration::from_secs(1);

/// How many requests are taken at once.
pub(super) const REQUESTS: usize = 256;

/// How many notes are read in a round: so many hold up no ADD for long.
const NOTES: usize = 1_000;

/// What CNI reports, and the requests that wait.
pub(super) struct Registry {
    sandboxes: Sandboxes,
    policies: Policies,
    netns: SeenNetns,
    files: Files,
    agent: mpsc::Sender<Event>,
    pending: Vec<Pending>,
    asking: Asking,
    /// Where the tasks that answer say so.
    answers: mpsc::UnboundedSender<Answered>,
    deleted: LastDeletes,
    metrics: Cni,
}

/// The agent's loop has ended.
struct LoopEnded;

impl<T> From<mpsc::error::SendError<T>> for LoopEnded {
    fn from(_: mpsc::error::SendError<T>) -> Self {
        Self
    }
}

impl Registry {
    /// One that has what an earlier agent saved. `agent` gets the events; `answers` is the other end
    /// of what [`Registry::run`] takes.
    pub(super) fn new(
        sandboxes: Sandboxes,
        asking: Asking,
        files: Files,
        agent: mpsc::Sender<Event>,
        answers: mpsc::UnboundedSender<Answered>,
        metrics: Cni,
    ) -> Self {
        Self {
            sandboxes,
            policies: Policies::default(),
            netns: SeenNetns::default(),
            files,
            agent,
            pending: Vec::new(),
            asking,
            answers,
            deleted: LastDeletes::default(),
            metrics,
        }
    }

    /// Takes in what the source delivers and what the plugin asks, until the source ends.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut requests: mpsc::Receiver<PendingRequest>,
        mut answered: mpsc::UnboundedReceiver<Answered>,
    ) {
        let mut asked = Vec::new();
        let mut round = time::interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self.next_deadline();
            let done = tokio::select! {
                biased;
                Some(Answered { attachment, began }) = answered.recv() => {
                    // The next round saves it. If there is none, the sandbox counts as new.
                    self.sandboxes.answered(&attachment, began);
                    Ok(())
                }
                // All that have come by now: one by one, each pass of the loop would take a few.
                1.. = requests.recv_many(&mut asked, REQUESTS) => self.requests(&mut asked).await,
                listed = self.asking.next() => self.listed(listed).await,
                event = events.recv() => match event {
                    Some(Event::Changes(changes)) => self.changes(changes).await,
                    Some(other) => self.agent.send(other).await.map_err(Into::into),
                    None => return,
                },
                _ = round.tick() => self.inspect().await,
                () = time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.advance().await,
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// When something is due about a request that waits.
    fn next_deadline(&self) -> Option<Instant> {
        self.pending.iter().map(Pending::due).min()
    }

    /// Forwards what the source delivers, with the addresses that CNI reports.
    async fn changes(&mut self, mut changes: Changes) -> Result<(), LoopEnded> {
        let mut passed = Vec::with_capacity(changes.changes.len());
        let mut since = None;
        let mut namespaces = BTreeSet::new();
        for change in changes.changes {
            let Some(Change { event, received }) = self.policies.watch_event(change) else { continue };
            let bound = self.sandboxes.newly_bound(&event, self.policies.now());
            namespaces.extend(bound);
            match self.sandboxes.object(event) {
                Some(event) => passed.push(Change { event, received }),
                None => since = received,
            }
        }
        if !changes.is_part {
            self.sandboxes.synced();
        }
        passed.extend(self.sandboxes.update().into_iter().map(|event| Change { event, received: since }));
        changes.changes = passed;
        let now = self.policies.now();
        for namespace in namespaces {
            self.asking.want(&namespace, now, &mut self.policies);
        }
        self.agent.send(Event::Changes(changes)).await?;
        self.advance().await
    }

    /// Takes requests in, in their order. ADDs in a row are one change.
    async fn requests(&mut self, requests: &mut Vec<PendingRequest>) -> Result<(), LoopEnded> {
        let mut has_added = false;
        for asked in requests.drain(..) {
            let is_add = matches!(asked.command, Command::Add(_));
            if std::mem::replace(&mut has_added, is_add) && !is_add {
                self.advance().await?;
            }
            self.request(asked).await?;
        }
        if has_added { self.advance().await } else { Ok(()) }
    }

    /// Takes a request in. An ADD goes on with [`Registry::advance`].
    async fn request(&mut self, PendingRequest { command, answer, received }: PendingRequest) -> Result<(), LoopEnded> {
        match command {
            Command::Add(add) => {
                let since = Instant::now();
                let began = received.before(Duration::from_millis(add.waited));
                if self.deleted.is_after(&add.attachment, began) {
                    let _ = answer.send(Answer::refused(Reason::Gone, HAD_ITS_DEL));
                    return Ok(());
                }
                let wait = Duration::from_millis(add.wait).min(LONGEST);
                let deadline = since + wait.saturating_sub(MARGIN);
                // A later try of the same is the one that counts.
                self.pending.retain(|pending| pending.add.attachment != add.attachment);
                self.pending.push(Pending { add, answer, since, began, deadline, awaits: Awaits::Object });
                Ok(())
            }
            Command::Delete { attachment } => {
                self.delete(&attachment, received).await?;
                // The plugin waits for nothing more than that it is known.
                let _ = answer.send(Answer::done());
                Ok(())
            }
            Command::Check(add) => self.check(&add, answer).await,
            Command::Gc { network, valid } => {
                let gone = self.sandboxes.collect(&network, &valid.into_iter().collect());
                if gone > 0 {
                    info!(network, gone, "the runtime collected sandboxes that had no DEL");
                }
                let published = self.publish().await;
                let _ = answer.send(Answer::done());
                published
            }
        }
    }

    async fn delete(&mut self, attachment: &Attachment, moment: Moment) -> Result<(), LoopEnded> {
        self.removed(attachment, moment);
        self.publish().await?;
        // An earlier note about it is past.
        self.files.remove_note(attachment);
        Ok(())
    }

    /// The runtime removed a sandbox at this moment. That ends what began before: the sandbox, an ADD
    /// of it that waits, and each later try of that ADD.
    fn removed(&mut self, attachment: &Attachment, moment: Moment) {
        let is_over = |pending: &mut Pending| pending.add.attachment == *attachment && pending.began <= moment;
        for pending in self.pending.extract_if(.., is_over) {
            let _ = pending.answer.send(Answer::refused(Reason::Gone, HAD_ITS_DEL));
        }
        self.sandboxes.removed(attachment, moment);
        self.deleted.insert(attachment.clone(), moment);
    }

    async fn check(&mut self, add: &Add, answer: oneshot::Sender<Answer>) -> Result<(), LoopEnded> {
        let known = self.sandboxes.sandbox(&add.attachment);
        let sorted = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
        if known.is_none_or(|known| sorted(&known.addresses) != sorted(&add.addresses)) {
            let words = match known {
                None => "the agent knows no such container".to_owned(),
                Some(known) => {
                    let addresses: Vec<String> = known.addresses.iter().map(ToString::to_string).collect();
                    format!("the agent knows this container with the addresses {}", addresses.join(", "))
                }
            };
            let _ = answer.send(Answer::refused(Reason::Unknown, words));
            return Ok(());
        }
        let (reply, checked) = oneshot::channel();
        self.agent.send(Event::Check(reply)).await?;
        tokio::spawn(async move {
            let reply = match checked.await {
                Ok(true) => Answer::done(),
                Ok(false) => Answer::refused(
                    Reason::NotEnforced,
                    "another program had changed npc's rules or sets in the kernel; the agent puts them back now",
                ),
                Err(_) => return,
            };
            let _ = answer.send(reply);
        });
        Ok(())
    }

    /// Goes on with the requests that wait, as far as that is possible now.
    async fn advance(&mut self) -> Result<(), LoopEnded> {
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
                    match self.asking.want(&pending.add.namespace, arrived, &mut self.policies) {
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
    async fn listed(
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
        self.asking.over(namespace, has_come, &mut self.policies);
        self.admit(ready, events).await
    }

    /// These sandboxes live from now on. They are answered when their rules are in the
    /// kernel.
    async fn admit(&mut self, ready: Vec<Pending>, policies: Vec<engine::Event>) -> Result<(), LoopEnded> {
        let ready = without_ended(ready);
        let mut new = Vec::with_capacity(ready.len());
        for pending in &ready {
            // An agent before this one may have answered it, or a runtime asks twice. If no agent
            // answered, the pod has not run.
            new.push(!self.sandboxes.is_answered(&pending.add.attachment));
            self.sandboxes.admit(pending.add.clone(), pending.began, false);
        }
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

    /// Gives what changed to the agent's loop and to the file.
    async fn publish(&mut self) -> Result<(), LoopEnded> {
        let events = self.sandboxes.update();
        self.save();
        self.send(events).await
    }

    async fn send(&mut self, events: Vec<engine::Event>) -> Result<(), LoopEnded> {
        match changes(events) {
            Some(changes) => Ok(self.agent.send(changes).await?),
            None => Ok(()),
        }
    }

    fn save(&mut self) {
        self.metrics.has(self.sandboxes.len());
        if let Err(error) = self.files.save(self.sandboxes.saved()) {
            error!(
                error = with_causes(&error),
                "cannot save what CNI reported; an agent that starts now goes by the addresses that the API reports"
            );
        }
    }

    /// Finds interfaces that are gone, notes that the plugin left, and policies that the
    /// watch should have delivered.
    async fn inspect(&mut self) -> Result<(), LoopEnded> {
        for namespace in self.policies.overdue() {
            let now = self.policies.now();
            self.asking.want(&namespace, now, &mut self.policies);
        }
        self.read_notes().await?;
        self.deleted.forget_before(Moment::now().before(LONGEST));
        self.sandboxes.age();
        let (links, netns) = (self.sandboxes.links(), self.sandboxes.netns_without_link());
        let gone = links::gone(links).unwrap_or_else(|error| {
            warn!(error = with_causes(&error), "cannot find out which interfaces of sandboxes are gone");
            BTreeSet::new()
        });
        let netns = self.netns.gone(netns);
        let ended = self.sandboxes.links_gone(&gone) + self.sandboxes.netns_gone(&netns);
        if ended > 0 {
            info!(ended, "sandboxes are gone, and there was no DEL");
        }
        self.publish().await
    }

    /// The plugin left a note about a pod that it let start.
    fn started_without_an_agent(&mut self, add: Add, left: Moment) {
        let began = left.before(Duration::from_millis(add.waited));
        if self.deleted.is_after(&add.attachment, began) {
            return;
        }
        let (namespace, pod) = (&add.namespace, &add.name);
        if add.open {
            warn!(
                namespace,
                pod, "this pod was started without an agent; its policies are enforced once its object is known"
            );
        } else {
            warn!(namespace, pod, "this pod was started without an agent; its policies are enforced from now on");
        }
        self.sandboxes.admit(add, began, true);
    }

    async fn read_notes(&mut self) -> Result<(), LoopEnded> {
        let notes = match self.files.notes(NOTES) {
            Ok(notes) => notes,
            Err(error) => {
                warn!(%error, "cannot read the notes of the CNI plugin");
                return Ok(());
            }
        };
        if notes.is_empty() {
            return Ok(());
        }
        let gone = gone_of(notes.iter().filter_map(|(_, note)| match note {
            Ok(Note { request: Request { command: Command::Add(add), .. }, .. }) => Some(add),
            _ => None,
        }));
        let mut read = Vec::new();
        for (path, note) in notes {
            match note.map(|Note { request, left }| (request.command, left)) {
                Ok((Command::Add(add), _)) if has_lost_its_interface(&add, &gone) => {}
                Ok((Command::Add(add), left)) => self.started_without_an_agent(add, left),
                Ok((Command::Delete { attachment }, left)) => self.removed(&attachment, left),
                Ok((Command::Check(_) | Command::Gc { .. }, _)) => {}
                Err(error) => {
                    warn!(%error, file = %path.display(), "a note of the CNI plugin cannot be read; it is removed");
                }
            }
            read.push(path);
        }
        self.publish().await?;
        // After their content is saved.
        for path in read {
            if let Err(error) = std::fs::remove_file(&path) {
                warn!(%error, file = %path.display(), "cannot remove a note of the CNI plugin");
            }
        }
        Ok(())
    }
}

/// Why an ADD is void.
const HAD_ITS_DEL: &str = "the runtime removed this sandbox after this ADD began";

/// Events for the loop, if there are any. They do not complete a first listing.
fn changes(events: Vec<engine::Event>) -> Option<Event> {
    let changes: Vec<_> = events.into_iter().map(Change::now).collect();
    (!changes.is_empty()).then(|| Event::Changes(Changes { is_part: true, changes, ..Changes::default() }))
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

#[cfg(test)]
#[path = "late_tests.rs"]
mod late_tests;
#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
