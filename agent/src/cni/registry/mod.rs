//! The task that owns what CNI reports. It stands between the source of objects and the
//! agent's loop, and answers the plugin.

mod admission;
mod round;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use npc_cni::moment::Moment;
use npc_cni::protocol::{Add, Answer, Attachment, Command, Reason};
use npc_compiler::engine;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant, MissedTickBehavior};
use tracing::info;

use crate::cni::files::Files;
use crate::cni::last_deletes::LastDeletes;
use crate::cni::netns::SeenNetns;
use crate::cni::pending::{Answered, Awaits, Pending};
use crate::cni::policies::PolicyVersions;
use crate::cni::policy_lists::PolicyLists;
use crate::cni::sandbox::ToSave;
use crate::cni::sandboxes::Sandboxes;
use crate::cni::server::PendingRequest;
use crate::enforce::Event;
use crate::metrics::Cni;
use crate::source::{Change, Changes};

/// An answer comes this long before the plugin stops waiting for it.
const MARGIN: Duration = Duration::from_millis(200);

/// The longest that a request waits, even if it asks to wait longer.
const LONGEST: Duration = Duration::from_secs(110);

/// A runtime lists an attachment once all plugins have answered its ADD, and lists all before the first
/// plugin has its GC. So a GC says nothing of a sandbox whose ADD began this long before it, or later: the next
/// one does.
const MAY_BE_UNLISTED: Duration = Duration::from_secs(120);

/// How often the agent finds out which interfaces and notes are there.
const ROUND: Duration = Duration::from_secs(1);

/// How many requests are taken at once.
pub(super) const REQUESTS: usize = 256;

/// What CNI reports, and the requests that wait.
pub(super) struct Registry {
    sandboxes: Sandboxes,
    policies: PolicyVersions,
    netns: SeenNetns,
    files: Files,
    agent: mpsc::Sender<Event>,
    pending: Vec<Pending>,
    lists: PolicyLists,
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
        netns: SeenNetns,
        lists: PolicyLists,
        files: Files,
        agent: mpsc::Sender<Event>,
        answers: mpsc::UnboundedSender<Answered>,
        metrics: Cni,
    ) -> Self {
        Self {
            sandboxes,
            policies: PolicyVersions::default(),
            netns,
            files,
            agent,
            pending: Vec::new(),
            lists,
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
        // What ended since it was saved must not count first.
        if self.inspect().await.is_err() {
            return;
        }
        let mut round = time::interval_at(Instant::now() + ROUND, ROUND);
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
                1.. = requests.recv_many(&mut asked, REQUESTS) => match (self.requests(&mut asked).await, events.try_recv()) {
                    // A flood of requests must not keep out what the source delivers.
                    (Ok(()), Ok(event)) => self.event(event).await,
                    (done, _) => done,
                },
                listed = self.lists.next() => self.listed(listed).await,
                event = events.recv() => match event {
                    Some(event) => self.event(event).await,
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

    async fn event(&mut self, event: Event) -> Result<(), LoopEnded> {
        match event {
            Event::Changes(changes) => self.changes(changes).await,
            other => self.agent.send(other).await.map_err(Into::into),
        }
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
            self.lists.want(&namespace, now, &mut self.policies);
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
                // The plugin counts from when it asked, wherever the request was since then.
                let now = Instant::now();
                let since = now.checked_sub(received.elapsed()).unwrap_or(now);
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
                let before = received.before(MAY_BE_UNLISTED);
                let gone = self.sandboxes.collect(&network, &valid.into_iter().collect(), before);
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
        self.files.remove_note_of(attachment, moment);
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
        self.files.save(ToSave { seen_netns: Some(self.netns.files()), ..self.sandboxes.saved() });
    }
}

/// Why an ADD is void.
const HAD_ITS_DEL: &str = "the runtime removed this sandbox after this ADD began";

/// Events for the loop, if there are any. They do not complete a first listing.
fn changes(events: Vec<engine::Event>) -> Option<Event> {
    let changes: Vec<_> = events.into_iter().map(Change::now).collect();
    (!changes.is_empty()).then(|| Event::Changes(Changes { is_part: true, changes, ..Changes::default() }))
}

#[cfg(test)]
mod late_tests;
#[cfg(test)]
mod notes_tests;
#[cfg(test)]
mod policy_lists_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_world;
