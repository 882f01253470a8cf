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
mod name_encoding;
mod others;
mod policy_comment;
mod read;
mod spelling;
mod words;
mod write;

pub use bpf::{error_bytecode, self_bytecode};
pub use dump::{dump_family, family_of, read_sets};
pub use hook::{FORWARD, has_forward, hook_check, hook_first, hook_line, hook_restore, hooks, is_hook};
pub use listing::{Line, chains, count_rules, declared, dropped, line, policy_of, rules, target};
#[cfg(test)]
pub(crate) use name_encoding::is_encoded;
pub(crate) use name_encoding::name_encoding;
pub use others::others_restore;
pub use policy_comment::Named;
pub(crate) use policy_comment::{LISTED, isolated_by, list, with_path};
pub use read::{Error, printed_in, rule};
pub use write::{Restore, add_line, comment, create_line, delete_line, destroy_line, list_text, rule_line, rule_text};

/// The longest text that `-m comment` takes, in bytes (`XT_MAX_COMMENT_LEN`
/// less the final zero).
pub const COMMENT_MAX: usize = 255;

/// A rule that iptables cannot print, in words.
const UNPRINTABLE: &str = "a rule that iptables cannot read";
