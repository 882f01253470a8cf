//! Why a flow is or is not allowed: the same groups and atoms that rules are made
//! of, asked about pairs of ends, and what they come from.
//!
//! ```text
//! Target, Target, Port ─▶ walk: ends, routes ─▶ one question for each pair of ends
//!                                                └─▶ decision: near_miss, misleading
//!                                FlowExplanation (answer) ◀─┘
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `question` | one question about two ends, what these are, and how one names them |
//! | `decision` | what one direction says of a question. `near_miss`: the rules that miss it by least. `misleading`: policies that look as if they decided |
//! | `miss_facts` | what the other end is, and what the ports are that a rule names, where it misses by little |
//! | `walk` | from two targets over all pairs of their ends, and back to one answer. Of very many ends, `by_class` asks about classes of ends that no rule distinguishes. `ineffective`, `unresolved_names`: what the asker should know besides |
//! | `routes` | what goes by a Service, a node's port or a load balancer, or by nodes, each with an answer of its own |
//! | `overview` | one endpoint or one policy alone |
//! | `answer`, `code` | what comes back |
//!
//! A command turns what an operator wrote into [`QuestionEnd`]s, calls [`explain`] or
//! [`explain_endpoint`] once, and prints what comes back. Answers hold facts and codes;
//! the words are the command's.

mod answer;
mod code;
mod decision;
mod miss_facts;
mod overview;
mod question;
mod routes;
mod walk;

pub use super::bounds::{Bounds, Verdict};
pub use super::flow::End;
pub use answer::{
    Alike, DnsServer, Flow, FlowExplanation, Missing, Pairs, Ranges, ReplacedPolicy, Unanswerable, Via, WarningFact,
    Way,
};
pub use code::ReasonCode;
pub(in crate::verdict) use decision::dns::may_serve_names;
pub use decision::item_path::{ItemField, ItemList, ItemPath, RuleHalf};
pub use decision::mark::{FailedRequirement, Mark};
pub use decision::misleading::{
    AddedFlows, Discrepancy, MisleadingPolicy, OtherDirection, OtherPart, SeparateItems, ValueElsewhere,
};
pub use decision::near_miss::conjunct::{Conjunct, Part};
pub use decision::near_miss::translated_addresses::Translated;
pub use decision::near_miss::want_and_got::{Got, Want, WantedPorts};
pub use decision::near_miss::{Candidate, NEAREST};
pub use decision::{Decision, LISTED, Reason};
pub use miss_facts::{EndFact, MissFacts, RuleFact, miss_facts};
pub use overview::endpoint::{
    EndpointExplanation, EndpointPart, Side, explain_endpoint, explain_parts, may_be_isolated,
};
pub(in crate::verdict) use overview::policy::numbers_named;
pub use overview::policy::{
    PeerExplanation, PeerWithoutEffect, PolicyExplanation, PortExplanation, PortWithoutEffect, RuleExplanation,
    explain_policy,
};
pub(super) use question::judged_pairs::KEPT;
pub use question::judged_pairs::{JudgedPairs, Pair};
pub use question::name::{EndName, Port, QuestionEnd};
pub use question::party::Party;
pub use question::{MissingFact, OnNodes, Question};
pub use walk::{NotForwarded, explain};

// Answers have them.
pub use crate::algebra::selector::{Operator, Requirement};
pub use crate::cluster::selection::WhyNone;
pub use crate::cluster::without_backend::{NoBackend, NoPod, WhyUnknown};
pub(in crate::verdict) use decision::dns_servers::admits_dns;

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod facts_tests;
#[cfg(test)]
mod tests;
