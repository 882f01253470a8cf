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
//! | module | holds |
//! |---|---|
//! | [`names`] | names, with the hashes and the secret that they are made from |
//! | [`rule`], [`set`] | rules and sets as data |
//! | [`node`], [`state`] | those of a node, and those of a kernel |
//! | [`options`], [`constants`] | what a ruleset depends on besides the cluster; the numbers by which the kernel knows what is npc's |
//! | [`layout`] | from groups to one node's chains and sets, and back from a chain to the pods that it judges |
//! | [`dispatch`] | the tree that leads an address to its group |
//! | `group_chain`, `group_ports` | the rules of one group, and which ports they name |
//! | [`members`] | the bound on the members of a namespace's sets |
//! | [`origin`] | the policies and their rules that a rule comes from |
//! | [`text`] | rules, their comments, the hook and sets to text and back, and nowhere else. What of a rule goes into its chain's name has an encoding of its own there, which stays |
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
