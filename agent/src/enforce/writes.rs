//! How much a plan writes, as a number of each kind and in words.

use std::fmt;

use npc_compiler::plan::{Plan, SetWrite, Step};

use crate::words::counted::counted;

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
            (self.chains_written, "chain", "written"),
            (self.rules_written, "rule", if self.chains_written == 1 { "in it" } else { "in them" }),
            (self.chains_deleted, "chain", "deleted"),
            (self.sets_created, "set", "created"),
            (self.sets_destroyed, "set", "destroyed"),
            (self.members_added, "member", "added"),
            (self.members_removed, "member", "removed"),
        ];
        let mut first = true;
        for (count, noun, what) in counts.into_iter().filter(|(count, ..)| *count > 0) {
            write!(f, "{}{} {what}", if first { "" } else { ", " }, counted(count, noun))?;
            first = false;
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}
