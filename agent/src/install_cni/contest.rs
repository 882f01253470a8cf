//! Other programs that undo what we write. Both could rewrite the file for ever, so we wait ever
//! longer between two attempts.

use std::time::Duration;

use super::conflist::{ConfList, Plugin};
use super::entries::{added, is_as_wanted, record};

/// How often another program may undo what we wrote before we wait.
pub(super) const UNDONE: u32 = 3;

/// The longest wait between two attempts against a program that undoes them.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How long to wait after another program undid what we wrote so many times.
pub(super) fn wait_after(undone: u32) -> Duration {
    match undone.checked_sub(UNDONE) {
        None => Duration::ZERO,
        Some(more) => Duration::from_secs(1 << more.min(16)).min(LONGEST_WAIT),
    }
}

/// After how long without another change it has settled.
pub(super) fn settled_after(undone: u32) -> Duration {
    2 * wait_after(undone) + Duration::from_secs(60)
}

/// What we wrote last.
#[derive(Debug)]
pub(super) struct OwnWrite {
    pub(super) text: String,
    /// When.
    pub(super) at: Duration,
    /// The name of its source, and what that had.
    source: (String, ConfList),
    entry: Plugin,
}

impl OwnWrite {
    pub(super) fn new(text: String, at: Duration, name: &str, source: &ConfList, entry: Plugin) -> Self {
        Self { text, at, source: (name.to_owned(), source.clone()), entry }
    }

    /// Whether another program has undone it: our file has gone, or has another content.
    /// What others added does not count. Nor does a source that has changed since, because a
    /// program that rewrites the source and removes our file would never be met with a wait.
    pub(super) fn is_undone(&self, current: Option<&ConfList>) -> bool {
        let Some(current) = current else { return true };
        let (name, source) = &self.source;
        let others = added(current.plugins(), source, Some(&record(name, source)));
        !is_as_wanted(current, source, &self.entry, &others)
    }
}

/// How often another program made a file anew that we had removed.
#[derive(Debug, Default)]
pub(super) struct Removals {
    count: u32,
    last: Duration,
}

impl Removals {
    /// Whether to remove it now; if not, until when to wait.
    pub(super) fn again(&mut self, now: Duration) -> Result<(), Duration> {
        if self.count > 0 && now > self.last + settled_after(self.count) {
            self.count = 0;
        }
        let next = self.last + wait_after(self.count);
        if self.count > 0 && now < next {
            return Err(next);
        }
        (self.count, self.last) = (self.count.saturating_add(1), now);
        Ok(())
    }
}
