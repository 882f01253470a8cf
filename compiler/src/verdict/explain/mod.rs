//! Why a flow is or is not allowed: the same groups and atoms that rules are made
//! of, asked about pairs of ends, and what they come from.
//!
//! ```text
//! Target, Target, Port ─▶ ends ─▶ walk: one Question for each pair of ends
//!                                   └─▶ question: Decision, near: Candidates
//!                          FlowExplanation ◀─┘
//! ```
//!
//! A command turns what an operator wrote into [`Target`]s, calls [`explain`] or
//! [`explain_endpoint`] once, and prints what comes back. Answers hold facts and codes;
//! the words are the command's.

mod answer;
mod endpoint;
mod ends;
mod near;
mod question;
mod walk;

pub use answer::{Flow, FlowExplanation, Missing, Unanswerable, Via, Warning};
pub use endpoint::{EndpointExplanation, Side, explain_endpoint};
pub use ends::{EndName, Port, Target};
pub use near::{Candidate, Code, Conjunct, Of, Part};
pub use question::{Bounds, Decision, Lack, Party, Question, Reason, Verdict};
pub use walk::explain;

#[cfg(test)]
mod tests;
