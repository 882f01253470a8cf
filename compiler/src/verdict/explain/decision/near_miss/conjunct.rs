//! The parts of a rule that can fail, and what of one fails.

use super::want_and_got::{Got, Want};
use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::decision::item_path::{ItemPath, RuleHalf};
use crate::verdict::explain::decision::mark::{FailedRequirement, Mark};

/// A part of a rule that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact that is independent of the others")]
pub struct Conjunct {
    /// Its path: that of an item, or of a field of its block.
    pub path: ItemPath,
    /// The very things that fail, where they are less than what stands at the path.
    pub marks: Vec<Mark>,
    /// The part of the item that fails.
    pub part: Part,
    /// What the rule asks for.
    pub want: Want,
    /// What the other end or its traffic has in place of it.
    pub got: Got,
    /// What kind of miss that is.
    pub code: ReasonCode,
    /// Whether it is a port that admits a part of the many that were asked about, and one on which the
    /// destination may listen.
    pub admits_a_part: bool,
    /// The one number of a port that the rule asks for, by itself or by name.
    pub number: Option<u16>,
    /// Whether it is a name that is the number that was asked for: a number in quotes.
    pub is_asked_in_quotes: bool,
    /// Whether it is a selector that would select the hostNetwork pod that was asked for, if that had a network of its own.
    pub means_host: bool,
    /// Whether it is a block that holds the address of a node that was asked for, which the node
    /// translates.
    pub holds_asked_node: bool,
}

/// The parts of a rule that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the API")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Part {
    Namespace,
    Pod,
    Block,
    Except,
    Family,
    Protocol,
    Number,
    Name,
}

impl Conjunct {
    /// A part that fails as a whole.
    pub(in crate::verdict::explain) const fn new(
        path: ItemPath,
        part: Part,
        want: Want,
        got: Got,
        code: ReasonCode,
    ) -> Self {
        let (admits_a_part, number, is_asked_in_quotes) = (false, None, false);
        let (means_host, holds_asked_node) = (false, false);
        Self {
            path,
            marks: Vec::new(),
            part,
            want,
            got,
            code,
            admits_a_part,
            number,
            is_asked_in_quotes,
            means_host,
            holds_asked_node,
        }
    }

    /// The half of the rule that it belongs to.
    #[must_use]
    pub const fn of(&self) -> RuleHalf {
        self.path.half()
    }

    /// The same, with the very things that fail.
    pub(in crate::verdict::explain) fn with_marks(self, marks: Vec<Mark>) -> Self {
        Self { marks, ..self }
    }

    /// Whether it is a selector, which means pods, and the other end is an address that no pod has.
    pub(in crate::verdict::explain) fn is_of_other_kind(&self) -> bool {
        (self.code, self.part) == (ReasonCode::IpBlockOutside, Part::Pod)
    }

    /// Whether all that fails are values of labels that differ by little.
    pub(in crate::verdict::explain) fn is_slip(&self) -> bool {
        let is_slip = |mark: &Mark| mark.requirement.as_ref().is_some_and(FailedRequirement::is_slip);
        !self.marks.is_empty() && self.marks.iter().all(is_slip)
    }

    /// What a mark of this part asks for, and what there is.
    #[must_use]
    pub fn said_of(&self, mark: &Mark) -> (String, String) {
        match &mark.requirement {
            Some(failed) => (failed.want(), failed.got()),
            None => (self.want.to_string(), self.got.to_string()),
        }
    }
}
