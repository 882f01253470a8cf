//! Verdicts, from the groups that rules are made of too: of one flow, of all pairs, as
//! sets of pairs, and with reasons.

pub mod explain;
pub mod flow;
pub mod matrix;
pub mod pairs;
