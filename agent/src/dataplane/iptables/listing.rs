//! What `iptables -S` and `iptables-save` print of a filter table: our rules, and of
//! FORWARD where it leads.

use std::collections::BTreeMap;

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::{ChainName, Rule};
use npc_compiler::ruleset::text::{self, FORWARD};

use super::Error;
use super::filter_table::{Hook, Jump, Overview};

/// npc's part of a filter table.
#[derive(Debug)]
pub struct Listing {
    /// Where the jump to our chains stands, or why that is unknown.
    pub hook: Result<Hook, Error>,
    /// Our chains and their rules.
    pub chains: BTreeMap<ChainName, Vec<Rule>>,
}

impl Listing {
    /// Reads `iptables-save`.
    pub(super) fn of_save(family: Family, save: &str) -> Self {
        Self { hook: Ok(hook(save)), chains: text::chains(family, save) }
    }
}

/// Reads the rules of FORWARD in `iptables -S` or `iptables-save`.
pub(super) fn hook(listed: &str) -> Hook {
    Hook::of(text::hooks(listed))
}

/// Reads `iptables-save` as far as it shows which programs use a table.
pub(super) fn overview(save: &str) -> Overview {
    let forward = text::rules(save).filter(|(chain, _)| *chain == FORWARD);
    Overview {
        chains: text::declared(save).map(str::to_owned).collect(),
        forward: forward.filter_map(|(_, rule)| Some((Jump::Rule(rule.to_owned()), text::target(rule)?))).collect(),
        drops_by_default: text::policy_of(save, FORWARD) == Some("DROP"),
    }
}

/// Reads what may be a listing: for fuzzing.
pub(in super::super) fn fuzz(listed: &str) {
    let _ = (hook(listed), overview(listed), Family::ALL.map(|family| Listing::of_save(family, listed)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hook_is_first_only_alone_and_on_top() {
        assert_eq!(hook("-P FORWARD ACCEPT\n-A FORWARD -j NPC-FORWARD\n-A FORWARD -j X\n"), Hook::First);
        assert_eq!(hook("-P FORWARD ACCEPT\n-A FORWARD -j X\n-A FORWARD -j NPC-FORWARD\n"), Hook::Displaced(1));
        assert_eq!(hook("-A FORWARD -j NPC-FORWARD\n-A FORWARD -j NPC-FORWARD\n"), Hook::Displaced(2));
        assert_eq!(hook("-P FORWARD ACCEPT\n-A FORWARD -s 10.0.0.1/32 -j NPC-FORWARD\n"), Hook::Absent);
    }
}
