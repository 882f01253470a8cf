//! What else is on this node that an operator should know of: other engines
//! whose rules are in this kernel, and a lock that is not shared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::other_programs::{NAMES, NamedThing, names_of};
use crate::dataplane::ipset::Ipset;
use crate::dataplane::iptables::Iptables;

/// The lock by which all who write legacy tables take turns.
const LOCK: &str = "/run/xtables.lock";

/// The engines with rules or sets in this kernel, each with one thing of its
/// own. Whole tables of both backends are read, so this is for once.
///
/// # Errors
/// If they cannot be read.
pub fn other_engines() -> Result<BTreeMap<&'static str, String>, crate::dataplane::Error> {
    let mut found = BTreeMap::new();
    for table in Iptables::in_use()? {
        for (engine, chain) in engines_in(&table.chain_names()?) {
            let of = |table: &Iptables| format!("chain {chain} ({}, iptables-{})", table.family(), table.backend());
            found.entry(engine).or_insert_with(|| of(&table));
        }
    }
    let mut ipset = Ipset::open()?;
    for names in NAMES.iter().filter(|names| names.is_engine && names.kind == NamedThing::Set) {
        if let Some(set) = ipset.names_with(names.begin)?.first() {
            found.entry(names.program).or_insert_with(|| format!("set {set}"));
        }
    }
    Ok(found)
}

fn engines_in(chains: &BTreeSet<String>) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    for chain in chains {
        if let Some(names) = names_of(chain).filter(|names| names.is_engine && names.kind == NamedThing::Chain) {
            found.entry(names.program).or_insert_with(|| chain.clone());
        }
    }
    found
}

/// Whether the lock is the node's, and not one that only this container has.
/// True where that cannot be known.
#[must_use]
pub fn lock_is_shared() -> bool {
    // Set for every container of a pod.
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    !in_pod || fs::read_to_string("/proc/self/mountinfo").map_or(true, |mounts| is_mounted(&mounts))
}

/// Whether the lock, or a folder that it lies in, is mounted from elsewhere.
fn is_mounted(mountinfo: &str) -> bool {
    // The fifth field is the mount point; see proc_pid_mountinfo(5).
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.into_iter().any(|point| [LOCK, "/run", "/var/run", "/var/run/xtables.lock"].contains(&point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_known_by_its_chains() {
        let chains =
            ["INPUT", "FORWARD", "KUBE-FORWARD", "NPC-FORWARD", "AZURE-NPM", "AZURE-NPM-INGRESS", "cali-FORWARD"];
        let found: Vec<_> = engines_in(&chains.map(str::to_owned).into()).into_iter().collect();
        assert_eq!(found, [("Azure NPM", "AZURE-NPM".to_owned()), ("Calico", "cali-FORWARD".to_owned())]);
        assert!(engines_in(&BTreeSet::new()).is_empty());
    }

    #[test]
    fn a_lock_is_shared_where_it_is_mounted() {
        let root = "621 520 0:58 / / ro,relatime - overlay overlay rw\n";
        assert!(!is_mounted(root));
        let lock = "640 621 0:23 /xtables.lock /run/xtables.lock rw,nosuid - tmpfs tmpfs rw\n";
        assert!(is_mounted(&format!("{root}{lock}")));
    }
}
