//! The pairs of ends that a flow stands for, so that they can be judged again after a
//! change.

use super::Question;
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::policy::Direction;
use crate::verdict::bounds::{Bounds, Verdict};

/// At most so many pairs of one flow are kept. A flow of more pairs gets no fix: `any` to
/// `any` has millions of pairs.
pub(in crate::verdict) const KEPT: usize = 1000;

/// One pair of ends, and what was asked about it.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The question.
    pub question: Question,
    /// The question that the source's own node decides in its place, where another node replaces
    /// the destination's address.
    pub egress: Option<Question>,
}

/// The pairs that a flow stands for. Answers about different pairs can be equal, so pairs
/// are no part of what is compared.
#[derive(Debug, Clone, Default)]
pub struct JudgedPairs {
    pairs: Vec<Pair>,
    has_more: bool,
}

impl PartialEq for JudgedPairs {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for JudgedPairs {}

impl JudgedPairs {
    /// One pair.
    pub(in crate::verdict::explain) fn of(pair: Pair) -> Self {
        Self { pairs: vec![pair], has_more: false }
    }

    /// More pairs than are kept.
    pub(in crate::verdict::explain) const fn of_many() -> Self {
        Self { pairs: Vec::new(), has_more: true }
    }

    /// Adds the pairs of another answer.
    pub(in crate::verdict) fn extend(&mut self, other: &Self) {
        let free = KEPT.saturating_sub(self.pairs.len());
        self.has_more |= other.has_more || other.pairs.len() > free;
        self.pairs.extend(other.pairs.iter().take(free).cloned());
    }

    /// The pairs; none where there are too many to keep.
    #[must_use]
    pub fn pairs(&self) -> Option<&[Pair]> {
        (!self.has_more).then_some(&self.pairs)
    }
}

impl Pair {
    /// What a direction is asked.
    #[must_use]
    pub fn question(&self, direction: Direction) -> &Question {
        match &self.egress {
            Some(egress) if direction == Direction::Egress => egress,
            _ => &self.question,
        }
    }

    /// What a direction says of the traffic that was asked about.
    #[must_use]
    pub fn verdict(&self, cluster: &Cluster, groups: &Groups, direction: Direction) -> Verdict {
        let question = self.question(direction);
        question.bounds(cluster, groups, direction).verdict(&question.traffic)
    }

    /// What both directions together allow.
    #[must_use]
    pub fn passes(&self, cluster: &Cluster, groups: &Groups) -> Bounds {
        match &self.egress {
            None => self.question.passes(cluster, groups),
            Some(_) => passes_all(self.verdict(cluster, groups, Direction::Egress)).and(&self.question.bounds(
                cluster,
                groups,
                Direction::Ingress,
            )),
        }
    }
}

/// What an earlier decision about one port leaves of everything.
fn passes_all(verdict: Verdict) -> Bounds {
    match verdict {
        Verdict::Allowed => Bounds::everything(),
        Verdict::Unknown => Bounds { least: Traffic::none(), most: Traffic::all() },
        Verdict::Denied | Verdict::Partial => Bounds { least: Traffic::none(), most: Traffic::none() },
    }
}
