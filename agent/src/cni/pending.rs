//! ADDs that are not answered yet, and what each waits for.

use std::time::Duration;

use npc_cni::moment::Moment;
use npc_cni::protocol::{Add, Answer, Attachment, OPEN_PATIENCE};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long the pod of an ADD whose UID is the hash of a manifest may be unknown, if the plugin
/// waits for so long. Its mirror may be long in coming, because that needs the API server, which
/// may be that pod.
pub(super) const MIRROR: Duration = Duration::from_secs(5);

/// A pod starts with the policies that the agent knows if the list of them has not come
/// this long before the answer is due: the rules still have to be written.
const TIME_TO_WRITE: Duration = Duration::from_millis(500);

/// An ADD that is not answered yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) add: Add,
    pub(super) answer: oneshot::Sender<Answer>,
    pub(super) since: Instant,
    /// When the ADD began, which may be long before this try of it.
    pub(super) began: Moment,
    pub(super) deadline: Instant,
    pub(super) awaits: Awaits,
}

impl Pending {
    /// When something is due about it, if nothing comes before.
    pub(super) fn due(&self) -> Instant {
        match self.awaits {
            // A plugin that waits no longer than this may be about to start the pod open, as it has to.
            Awaits::Object if is_static(&self.add) && self.patience() > OPEN_PATIENCE => {
                self.latest().min(self.first_try() + MIRROR)
            }
            Awaits::Object => self.deadline,
            Awaits::Policies(_) => self.latest(),
        }
    }

    /// When the rules have to be written at last, for the answer to come in time.
    fn latest(&self) -> Instant {
        self.deadline.checked_sub(TIME_TO_WRITE).unwrap_or(self.deadline)
    }

    /// For how long the plugin waits in all its tries.
    const fn patience(&self) -> Duration {
        Duration::from_millis(self.add.waited.saturating_add(self.add.wait))
    }

    /// When the ADD began: each try of it comes with the time that those before it took.
    fn first_try(&self) -> Instant {
        let waited = Duration::from_millis(self.add.waited);
        self.since.checked_sub(waited).unwrap_or(self.since)
    }
}

/// An ADD that was answered: the pod may run.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) attachment: Attachment,
    /// When the ADD began.
    pub(super) began: Moment,
}

/// What an ADD waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaits {
    /// The object of its pod.
    Object,
    /// The policies of its pod's namespace, asked for in this turn of that namespace.
    Policies(u64),
}

/// Whether an ADD is of a static pod: its UID is the hash of its manifest, or what that gives for a
/// UID. An API server's UIDs have dashes.
fn is_static(add: &Add) -> bool {
    add.uid.as_ref().is_some_and(|uid| !uid.contains('-'))
}

/// Why an ADD is not answered in time.
pub(super) fn late(awaits: Awaits) -> &'static str {
    match awaits {
        Awaits::Object => {
            "the agent has not read this pod from the API server yet; if that goes on, its watch of pods is behind, the API \
             server is away (metric npc_watch_last_heard_timestamp_seconds), or the pod's object cannot be read (`npc \
             status` on this node names it)"
        }
        Awaits::Policies(_) => "there was no time left to write the rules of this pod",
    }
}
