//! Verdicts, from the groups that rules are made of too.
//!
//! | module | answers |
//! |---|---|
//! | [`absent_peer`] | what rules admit whose other ends are not in the input |
//! | [`bounds`] | what passes at least and at most, where the input does not say all |
//! | [`flow`] | what passes from one end to another |
//! | [`matrix`] | what passes between all ends |
//! | [`pairs`] | the same as sets of pairs, each with the policies behind it |
//! | [`pair_doubt`] | what of a pair set the input leaves open |
//! | [`dead_block`] | blocks of rules that hold a Service's address alone |
//! | [`division`] | addresses outside, divided by what rules admit to them |
//! | [`outside`] | what ends exchange with addresses outside the cluster |
//! | [`explain`] | why a flow is or is not allowed; what isolates an end |
//! | [`fix`] | the smallest change of an object that admits a denied flow |
//! | [`lint`] | what in policies has no effect or cannot work |
//! | [`zone`] | which addresses no rule distinguishes |
//!
//! A [`matrix`] judges only what it shows, and keeps of a group's verdicts only those that differ from most. The
//! answers of [`explain`] are complete and typed: the command words them, and finds files, lines and fields. The rules of
//! nodes come from what is certain ([`bounds`]). A [`fix`] is applied in memory and judged again by [`explain`]; a
//! changed policy makes only its namespace's groups anew (`fix::changed`).

pub mod absent_peer;
pub mod bounds;
pub mod dead_block;
pub mod division;
pub mod explain;
pub mod fix;
pub mod flow;
pub mod lint;
pub mod matrix;
pub mod outside;
pub mod pair_doubt;
pub mod pairs;
pub mod zone;
