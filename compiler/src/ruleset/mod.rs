//! The ruleset of a node: its sets and chains as data, how groups are laid out in them,
//! and their text for iptables and ipset.

pub mod dispatch;
#[cfg(test)]
mod golden;
pub(crate) mod group_chain;
pub mod layout;
pub mod name;
pub mod parse;
pub mod program;
pub(crate) mod short;
pub mod spelling;
pub mod text;
