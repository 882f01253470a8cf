//! What a filter table shows: where the jump to our chains stands, and which programs use it.

use std::collections::BTreeSet;
use std::fmt;

/// Where the jump to our chains stands in FORWARD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// It is the first rule, and there once.
    First,
    /// It is there so many times and not, or not only, as the first rule.
    Displaced(usize),
    /// It is not there.
    Absent,
}

/// In words, for logs and reports.
impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("the jump from FORWARD is its first rule"),
            Self::Displaced(1) => f.write_str("the jump from FORWARD is not its first rule"),
            Self::Displaced(copies) => write!(f, "the jump from FORWARD is there {copies} times"),
            Self::Absent => f.write_str("the jump from FORWARD is gone"),
        }
    }
}

impl Hook {
    /// Where the hook stands in FORWARD. `ours` says for each rule, in order, whether it is ours.
    #[must_use]
    pub fn of(ours: impl IntoIterator<Item = bool>) -> Self {
        let mut ours = ours.into_iter();
        let first = ours.next().unwrap_or_default();
        match (first, ours.filter(|ours| *ours).count()) {
            (true, 0) => Self::First,
            (false, 0) => Self::Absent,
            (first, others) => Self::Displaced(others + usize::from(first)),
        }
    }
}

/// A filter table as far as it shows which programs use it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in super::super) struct Overview {
    /// All chains.
    pub(in super::super) chains: BTreeSet<String>,
    /// The rules of FORWARD that lead to a chain, in their order, and the chain.
    pub(in super::super) forward: Vec<(Jump, String)>,
    /// Packets that no rule of FORWARD decides about are dropped.
    pub(in super::super) drops_by_default: bool,
}

/// A rule of FORWARD that leads to a chain, as it can be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jump {
    /// By its text, without the chain that it is in.
    Rule(String),
    /// By its number in nf_tables.
    Handle(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hook_is_first_only_alone_and_on_top() {
        assert_eq!(Hook::of([true, false, false]), Hook::First);
        assert_eq!(Hook::of([false, true]), Hook::Displaced(1));
        assert_eq!(Hook::of([true, true]), Hook::Displaced(2));
        assert_eq!(Hook::of([false]), Hook::Absent);
        assert_eq!(Hook::of([]), Hook::Absent);
    }
}
