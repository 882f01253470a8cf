//! What a kernel holds, as iptables-save and ipset save printed it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use npc_agent::dataplane::iptables::Hook;
use npc_compiler::object::Family;
use npc_compiler::plan::{Delta, KernelState};
use npc_compiler::ruleset::text;

use crate::command::{Exit, Stop};

/// Files with what the programs printed.
pub(super) struct Dumps<'a> {
    /// Of iptables-save and ip6tables-save.
    pub(super) iptables: &'a [PathBuf],
    /// Of ipset save.
    pub(super) ipset: Option<&'a Path>,
}

/// What a kernel holds of npc.
pub(super) struct ActualKernel {
    pub(super) state: KernelState,
    /// Where the jump to npc's chains stands, in each family whose FORWARD was read.
    pub(super) hooks: Vec<(Family, Hook)>,
}

impl Dumps<'_> {
    /// What the kernel held of npc.
    pub(super) fn read(&self) -> anyhow::Result<ActualKernel> {
        let (mut state, mut hooks) = (KernelState::default(), Vec::new());
        for path in self.iptables {
            let dump = read(path)?;
            let family = text::dump_family(&dump);
            let chains = text::chains(family, &dump);
            if !chains.is_empty() || self.iptables.len() == 1 {
                hooks.extend(hook(&dump).map(|hook| (family, hook)));
            }
            state.family_mut(family).chains.extend(chains);
        }
        if state == KernelState::default() {
            let names: Vec<String> = self.iptables.iter().map(|path| path.display().to_string()).collect();
            let message = format!(
                "{} has no chain of npc; it must be what iptables-save prints (iptables-nft-save or \
                 iptables-legacy-save, by the agent's backend)",
                names.join(", ")
            );
            return Err(Stop::new(Exit::Input, message).into());
        }
        if let Some(path) = self.ipset {
            text::read_sets(&read(path)?, &mut state);
        }
        Ok(ActualKernel { state, hooks })
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let read = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let stop = |error: &std::io::Error| Stop::new(Exit::Input, format!("cannot read {}: {error}", path.display()));
    read.map_err(|error| stop(&error)).context("a dump of the kernel")
}

/// Where the jump to npc's chains stands in FORWARD; nothing where the dump does not declare
/// that chain.
fn hook(dump: &str) -> Option<Hook> {
    text::has_forward(dump).then(|| Hook::of(text::hooks(dump)))
}

/// How many chains are in one state only, or have other rules.
pub(super) fn rule_distance(one: &KernelState, other: &KernelState) -> usize {
    Family::ALL.map(|family| Delta::chains_between(one.family(family), other.family(family)).len()).iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jump_is_looked_for_in_the_filter_table_of_a_dump() {
        let dump = |rules: &str| {
            format!("*mangle\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n{rules}COMMIT\n")
        };
        let (jump, other) = ("-A FORWARD -j NPC-FORWARD\n", "[1:2] -A FORWARD -j KUBE-FORWARD\n");
        for (rules, expected) in [
            (vec![], Hook::Absent),
            (vec![other], Hook::Absent),
            (vec![jump, other], Hook::First),
            (vec![other, jump], Hook::Displaced(1)),
            (vec![jump, other, jump], Hook::Displaced(2)),
        ] {
            assert_eq!(hook(&dump(&rules.concat())), Some(expected), "{rules:?}");
        }
        assert_eq!(hook("*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j NPC-FORWARD\nCOMMIT\n*filter\nCOMMIT\n"), None);
    }
}
