//! Rulesets as text: what `iptables-restore` and `ipset restore` read, in the very form
//! in which `iptables-save` prints it, and the way back.
//!
//! ```text
//! Rule ─▶ write ─▶ iptables-restore ─▶ the kernel
//! Rule ◀─ read ◀─ spelling ◀─ listing ◀─ iptables -S, iptables-save
//! ```
//!
//! Nothing else writes or reads rules as text. A line that is read becomes a [`Rule`] only
//! if that rule is written so again, blanks and quotes aside; every other line becomes a
//! foreign rule, which differs from all that we want. So two rules are equal exactly
//! where their texts are.
//!
//! [`Rule`]: super::rule::Rule

mod bpf;
mod dump;
mod hook;
mod listing;
mod read;
mod spelling;
mod write;

pub use bpf::{error_bytecode, self_bytecode};
pub use dump::{dump_family, family_of, read_sets};
pub use hook::{has_forward, hook_check, hook_line, hook_restore, hooks, is_hook};
pub use listing::{Line, chains, count_rules, declared, dropped, line, rules, target};
pub use read::{Error, printed_in, rule};
pub use write::{
    Restore, add_line, comment, create_line, delete_line, destroy_line, leads_to, list_text, rule_line, rule_text,
};

/// The greatest number of members that a set of ours may have. A limit costs
/// nothing until it is used, and the default of 65,536 is soon too small.
pub const MAXELEM: u32 = 1 << 24;

/// The longest text that `-m comment` takes, in bytes (`XT_MAX_COMMENT_LEN`
/// less the final zero).
pub const COMMENT_MAX: usize = 255;

/// The group of NFLOG messages by which our rules report denied packets; a number that
/// no other program is known to use.
pub const NFLOG_GROUP: u16 = 28272;

/// The device group of the interfaces of pods, by which rules know them: the
/// letters "npc", a number that no other program is known to use.
///
/// A set could not hold them: one prefix, and so that of all addresses, goes
/// into a `hash:net,iface` with 64 interfaces at most. And a group goes with its
/// interface, where the next one of the same name would be taken for it.
pub const POD_GROUP: u32 = 0x6e_7063;

/// A rule that iptables cannot print, in words.
const UNPRINTABLE: &str = "a rule that iptables cannot read";
