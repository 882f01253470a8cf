//! The ruleset of a node: its sets and chains as data, how groups are laid out in them,
//! and their text for iptables and ipset.
//!
//! Why is this rule in my kernel? Its chain's name says which part made it, and
//! [`names::ChainRole`] has them all:
//!
//! | chains | made by |
//! |---|---|
//! | `NPC-FORWARD`, `-RELATED`, `-STRAY…`, `-SPOOF`, `-DENY-…` | `layout`; ICMP in `layout::icmp` |
//! | `NPC-INGRESS`, `NPC-EGRESS`, `NPC-IT-…`, `-ET-…`, `-IL-…`, `-EL-…` | `layout`, from the tree of `dispatch` |
//! | `NPC-I-…`, `NPC-E-…` | `group_chain`; `layout` where endpoints of several groups list one address |
//!
//! The sets `npc4-p-…` and `npc4-n-…` are made by `group_chain`, all others by `layout`; a
//! set that stands in for another while rules change, by [`crate::plan`].

pub mod constants;
pub mod dispatch;
#[cfg(test)]
mod golden;
pub(crate) mod group_chain;
mod group_ports;
pub mod layout;
pub mod members;
pub mod names;
pub mod node;
pub mod options;
pub mod origin;
pub mod rule;
pub mod set;
pub(crate) mod set_definition;
pub(crate) mod short;
pub mod state;
pub mod text;
