//! The jump from FORWARD to our chains: written, and found in a listing.

use super::listing::{filter_rules, policy_of};
use super::spelling::canonical;
use crate::ruleset::node::FORWARD_CHAIN;

/// The kernel's chain that has the jump.
pub const FORWARD: &str = "FORWARD";

/// The jump as it stands behind the name of FORWARD.
fn hook_text() -> String {
    format!("-j {FORWARD_CHAIN}")
}

/// The jump as `iptables -S` and `iptables-save` print it.
#[must_use]
pub fn hook_line() -> String {
    format!("-A {FORWARD} {}", hook_text())
}

/// The line of a restore that fails if the jump is not there.
#[must_use]
pub fn hook_check() -> String {
    format!("-C {FORWARD} {}", hook_text())
}

/// The line of a restore that lists the first rule of FORWARD.
#[must_use]
pub fn hook_first() -> String {
    format!("-S {FORWARD} 1")
}

/// The input of `iptables-restore --noflush` that deletes the jump so many times and then, if
/// it is to be there, puts it first. It is one commit.
#[must_use]
pub fn hook_restore(deleted: usize, is_inserted: bool) -> String {
    let rule = hook_text();
    let delete = format!("-D {FORWARD} {rule}\n").repeat(deleted);
    let insert = if is_inserted { format!("-I {FORWARD} 1 {rule}\n") } else { String::new() };
    format!("*filter\n{delete}{insert}COMMIT\n")
}

/// Whether a rule of this chain, by its text behind the chain's name, is the jump to our chains.
#[must_use]
pub fn is_hook(chain: &str, rule: &str) -> bool {
    chain == FORWARD && canonical(rule).strip_prefix("-j ") == Some(FORWARD_CHAIN)
}

/// For each rule of FORWARD in a listing, in their order, whether it is the jump to our chains.
pub fn hooks(listed: &str) -> impl Iterator<Item = bool> {
    filter_rules(listed).filter(|(chain, _)| *chain == FORWARD).map(|(chain, rule)| is_hook(chain, rule))
}

/// Whether a listing has the FORWARD chain of the filter table, with or without rules.
#[must_use]
pub fn has_forward(listed: &str) -> bool {
    policy_of(listed, FORWARD).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hook_is_a_plain_jump_and_nothing_else() {
        assert!(is_hook(FORWARD, "-j NPC-FORWARD") && is_hook(FORWARD, "-j  NPC-FORWARD "));
        for other in ["-g NPC-FORWARD", "-s 10.0.0.1/32 -j NPC-FORWARD", "-j NPC-FORWARD2", "-j X", ""] {
            assert!(!is_hook(FORWARD, other), "{other}");
        }
        assert!(!is_hook("INPUT", "-j NPC-FORWARD"));
    }

    #[test]
    fn the_hook_is_found_as_it_is_written_and_in_the_filter_table_only() {
        let line = hook_line();
        let other = "[1:2] -A FORWARD -j KUBE-FORWARD";
        let listed = format!("-P FORWARD ACCEPT\n{line}\n{other}\n[3:4] {line}\n-A INPUT -j NPC-FORWARD\n");
        assert_eq!(hooks(&listed).collect::<Vec<_>>(), [true, false, true]);
        assert!(has_forward(&listed) && has_forward("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"));
        let mangle = format!("*mangle\n:FORWARD ACCEPT [0:0]\n{line}\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n");
        assert_eq!((hooks(&mangle).count(), has_forward(&mangle)), (0, false));
    }

    #[test]
    fn old_jumps_go_in_the_commit_in_which_the_new_one_comes() {
        assert_eq!(
            hook_restore(2, true),
            "*filter\n-D FORWARD -j NPC-FORWARD\n-D FORWARD -j NPC-FORWARD\n-I FORWARD 1 -j NPC-FORWARD\nCOMMIT\n"
        );
        assert_eq!(hook_restore(1, false), "*filter\n-D FORWARD -j NPC-FORWARD\nCOMMIT\n");
        assert_eq!(hook_check(), "-C FORWARD -j NPC-FORWARD");
    }
}
