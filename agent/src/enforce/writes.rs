//! How much a plan writes, as a number of each kind and in words.

use std::fmt;

use npc_compiler::plan::{Plan, SetWrite, Step};

/// How much a plan writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Writes {
    /// Sets created.
    pub sets_created: usize,
    /// Sets destroyed.
    pub sets_destroyed: usize,
    /// Members added.
    pub members_added: usize,
    /// Members removed.
    pub members_removed: usize,
    /// Chains written.
    pub chains_written: usize,
    /// Their rules.
    pub rules_written: usize,
    /// Chains deleted.
    pub chains_deleted: usize,
}

impl Writes {
    /// Whether there was nothing to write.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Counts a plan's writes.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut counted = Self::default();
        for step in &plan.steps {
            match step {
                Step::Sets(writes) => {
                    for write in writes {
                        *match write {
                            SetWrite::Create(..) => &mut counted.sets_created,
                            SetWrite::Destroy(_) => &mut counted.sets_destroyed,
                            SetWrite::Add(..) => &mut counted.members_added,
                            SetWrite::Delete(..) => &mut counted.members_removed,
                        } += 1;
                    }
                }
                Step::Chains(_, writes) => {
                    counted.chains_written += writes.replace.len();
                    counted.rules_written +=
                        writes.replace.values().chain(writes.append.values()).map(Vec::len).sum::<usize>();
                    counted.chains_deleted += writes.delete.len();
                }
                Step::Grace => {}
            }
        }
        counted
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.chains_written, "chains written"),
            (self.rules_written, "rules in them"),
            (self.chains_deleted, "chains deleted"),
            (self.sets_created, "sets created"),
            (self.sets_destroyed, "sets destroyed"),
            (self.members_added, "members added"),
            (self.members_removed, "members removed"),
        ];
        let mut first = true;
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{}{count} {what}", if first { "" } else { ", " })?;
            first = false;
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}
