//! Which of the kernel's two packet filters the rules of this node live in.
//!
//! Legacy and nft rules coexist in one kernel, and a packet meets both. Ours
//! must stand where kubelet's and kube-proxy's stand, or "first in FORWARD"
//! means nothing; so the kernel is asked what lives in it.

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::{ChainName, FORWARD_CHAIN};
use npc_compiler::ruleset::text;

use crate::dataplane::iptables;
use crate::dataplane::programs::backend::{Backend, Commands, Error, default_backend, is_live};
use crate::dataplane::programs::process;
use crate::words::counted::counted;

/// Chains that kubelet makes, in one backend only.
const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// What lives in one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Residents {
    /// Kubelet's chains are there: it puts them where the node's rules belong,
    /// for others to find.
    hint: bool,
    /// How many rules of others there are, in all tables and both families.
    rules: usize,
    /// Rules of ours are there, from an earlier run.
    ours: bool,
}

impl Residents {
    /// Counts what `iptables-save` printed.
    fn count(&mut self, save: &str) {
        self.hint |= text::declared(save).any(|chain| HINTS.contains(&chain));
        let (ours, others) = text::count_rules(save);
        self.ours |= ours > 0;
        self.rules += others;
    }

    /// Counts what nf_tables lists of the tables of iptables, rules among it that
    /// iptables could not print.
    fn count_native(&mut self, chains: &[iptables::NativeChain], rules: &[iptables::NativeRule]) {
        self.hint |= chains.iter().any(|chain| HINTS.contains(&chain.name.as_str()));
        for rule in rules {
            if ChainName::ours(&rule.chain).is_some() || rule.leads_to.as_deref() == Some(FORWARD_CHAIN) {
                self.ours = true;
            } else {
                self.rules += 1;
            }
        }
    }
}

/// The backend that this node uses, and why npc thinks so, in words.
///
/// # Errors
/// If no backend is installed or a command cannot be run.
pub fn detect() -> Result<(Backend, String), Error> {
    let nft = residents(Backend::Nft)?;
    let legacy = residents(Backend::Legacy)?;
    let default = default_backend(Family::V4)?;
    Ok(choose(nft, legacy, default))
}

fn choose(nft: Residents, legacy: Residents, default: Option<Backend>) -> (Backend, String) {
    match (nft.hint, legacy.hint) {
        (true, false) => return (Backend::Nft, "kubelet's hint chain is there".to_owned()),
        (false, true) => return (Backend::Legacy, "kubelet's hint chain is there".to_owned()),
        _ => {}
    }
    let counts = |more: usize, backend: Backend, fewer: usize, other: Backend| {
        format!("{} in {backend}, {fewer} in {other}", counted(more, "rule"))
    };
    match nft.rules.cmp(&legacy.rules) {
        std::cmp::Ordering::Greater => (Backend::Nft, counts(nft.rules, Backend::Nft, legacy.rules, Backend::Legacy)),
        std::cmp::Ordering::Less => (Backend::Legacy, counts(legacy.rules, Backend::Legacy, nft.rules, Backend::Nft)),
        // Where others have nothing to say, to stay is better than to move.
        std::cmp::Ordering::Equal if nft.ours != legacy.ours => {
            (if nft.ours { Backend::Nft } else { Backend::Legacy }, "npc's rules are there".to_owned())
        }
        std::cmp::Ordering::Equal => match default {
            Some(default) => (default, "the system's default".to_owned()),
            None => (Backend::Nft, "neither the kernel nor the system shows which".to_owned()),
        },
    }
}

fn residents(backend: Backend) -> Result<Residents, Error> {
    let mut residents = Residents::default();
    for family in Family::ALL {
        if !is_live(backend, family) {
            continue;
        }
        let commands = match Commands::find(backend, family) {
            Ok(commands) => commands,
            // What cannot be read cannot be counted.
            Err(Error::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        match backend {
            Backend::Nft => {
                let (chains, rules) = iptables::native_residents(family)?;
                residents.count_native(&chains, &rules);
            }
            // It stops at a rule whose extension is not installed here; what it
            // printed before counts.
            Backend::Legacy => residents.count(&process::run(commands.save, &[], "")?.stdout),
        }
    }
    Ok(residents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(hint: bool, rules: usize) -> Residents {
        Residents { hint, rules, ours: false }
    }

    #[test]
    fn kubelets_hint_outweighs_any_number_of_rules() {
        assert_eq!(choose(holds(true, 1), holds(false, 500), Some(Backend::Legacy)).0, Backend::Nft);
        assert_eq!(choose(holds(false, 500), holds(true, 1), Some(Backend::Nft)).0, Backend::Legacy);
    }

    #[test]
    fn without_a_hint_the_majority_wins_and_then_the_default() {
        assert_eq!(choose(holds(false, 3), holds(false, 2), Some(Backend::Legacy)).0, Backend::Nft);
        assert_eq!(choose(holds(true, 2), holds(true, 3), Some(Backend::Nft)).0, Backend::Legacy);
        assert_eq!(choose(holds(false, 0), holds(false, 0), Some(Backend::Legacy)).0, Backend::Legacy);
        assert_eq!(choose(holds(false, 0), holds(false, 0), None).0, Backend::Nft);
    }

    #[test]
    fn without_rules_of_other_programs_an_agent_keeps_its_backend() {
        let mut ours = Residents::default();
        ours.count("*filter\n-A FORWARD -j NPC-FORWARD\n-A NPC-FORWARD -j RETURN\nCOMMIT\n");
        assert_eq!(ours, Residents { ours: true, ..holds(false, 0) });
        assert_eq!(choose(holds(false, 0), ours, Some(Backend::Nft)).0, Backend::Legacy);
        assert_eq!(choose(ours, holds(false, 1), Some(Backend::Nft)).0, Backend::Legacy);
    }

    #[test]
    fn a_save_is_counted_by_its_rules_and_searched_for_both_hints() {
        let mut residents = Residents::default();
        residents.count("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n*filter\n-A FORWARD -j DROP\nCOMMIT\n");
        assert_eq!(residents, holds(true, 1));
        let mut residents = Residents::default();
        residents.count("*mangle\n:KUBE-IPTABLES-HINTED - [0:0]\nCOMMIT\n");
        assert_eq!(residents, holds(false, 0));
    }
}
