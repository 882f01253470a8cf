//! Why a flow is or is not allowed: the same groups and atoms that rules are made
//! of, asked about pairs of ends, and what they come from.
//!
//! ```text
//! Target, Target, Port ─▶ ends, route ─▶ walk: one Question for each pair of ends
//!                                          └─▶ decision: Decision, near: Candidates
//!                                 FlowExplanation ◀─┘
//! ```
//!
//! Of very many ends, `wide` asks about classes of ends that no rule distinguishes:
//!
//! ```text
//! units ─▶ wide: classes ─▶ rows ─▶ walk: one Question for the first pair of each row
//! ```
//!
//! A command turns what an operator wrote into [`Target`]s, calls [`explain`] or
//! [`explain_endpoint`] once, and prints what comes back. Answers hold facts and codes;
//! the words are the command's.

mod answer;
mod at_node;
mod beside;
mod code;
mod conjunct;
mod decision;
mod denying;
mod dns;
mod endpoint;
mod ends;
mod entry;
mod every_node;
mod families;
mod ineffective;
mod its_like;
mod judged_pairs;
mod label_on_workload;
mod mark;
mod misleading;
mod name;
mod near;
mod not_isolating;
mod not_understood;
mod other_node;
mod pair;
mod party;
mod policy;
mod question;
mod route;
mod rule_matcher;
mod separate_items;
mod source_ranges;
mod translated;
mod turned_round;
mod unresolved;
mod unwanted;
mod walk;
mod wide;
mod would_admit;

pub use super::bounds::{Bounds, Verdict};
pub use answer::{
    Alike, DnsServer, Flow, FlowExplanation, Missing, Pairs, Ranges, ReplacedPolicy, Unanswerable, Via, Warning, Way,
};
pub use code::Code;
pub use conjunct::{Conjunct, Of, Part};
pub use decision::{Decision, LISTED, Reason};
pub use endpoint::{EndpointExplanation, EndpointPart, Side, explain_endpoint, explain_parts};
pub use judged_pairs::{JudgedPairs, Pair};
pub use mark::{FailedRequirement, Mark};
pub use misleading::{Discrepancy, Extent, MisleadingPolicy, OtherDirection, OtherPart, SeparateItems, ValueElsewhere};
pub use name::{EndName, Port, Target};
pub use near::{Candidate, NEAREST};
pub use party::Party;
pub(in crate::verdict) use policy::numbers_named;
pub use policy::{
    PeerExplanation, PeerWithoutEffect, PolicyExplanation, PortExplanation, PortWithoutEffect, RuleExplanation,
    explain_policy,
};
pub use question::{MissingFact, OnNodes, Question};
pub(in crate::verdict) use unresolved::admits_dns;
pub use walk::explain;

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod tests;
