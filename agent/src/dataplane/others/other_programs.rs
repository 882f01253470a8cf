//! The names that other programs give their chains and sets, as their own sources have them.

/// What Azure NPM's chains begin with.
pub const AZURE_CHAINS: &str = "AZURE-NPM";

/// What Azure NPM's sets begin with.
pub const AZURE_SETS: &str = "azure-npm-";

/// What has such a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedThing {
    /// A chain of iptables.
    Chain,
    /// A set of ipset.
    Set,
}

/// Names of one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramNames {
    /// What they begin with.
    pub begin: &'static str,
    /// What has them.
    pub kind: NamedThing,
    /// The program, as people call it.
    pub program: &'static str,
    /// Whether they show that the program enforces network policies here.
    pub is_engine: bool,
}

const fn engine(begin: &'static str, kind: NamedThing, program: &'static str) -> ProgramNames {
    ProgramNames { begin, kind, program, is_engine: true }
}

const fn other(begin: &'static str, kind: NamedThing, program: &'static str) -> ProgramNames {
    ProgramNames { begin, kind, program, is_engine: false }
}

/// The names. The first that fits a name is the right one, so what begins with another's stands
/// before it.
pub const NAMES: [ProgramNames; 21] = [
    engine(AZURE_CHAINS, NamedThing::Chain, "Azure NPM"),
    engine(AZURE_SETS, NamedThing::Set, "Azure NPM"),
    engine("cali-", NamedThing::Chain, "Calico"),
    engine("cali40", NamedThing::Set, "Calico"),
    engine("cali60", NamedThing::Set, "Calico"),
    engine("KUBE-ROUTER", NamedThing::Chain, "kube-router"),
    engine("KUBE-NWPLCY", NamedThing::Chain, "kube-router"),
    engine("KUBE-POD-FW", NamedThing::Chain, "kube-router"),
    engine("kube-router-", NamedThing::Set, "kube-router"),
    engine("KUBE-SRC-", NamedThing::Set, "kube-router"),
    engine("KUBE-DST-", NamedThing::Set, "kube-router"),
    engine("CILIUM_", NamedThing::Chain, "Cilium"),
    engine("WEAVE-NPC", NamedThing::Chain, "Weave Net"),
    engine("weave-", NamedThing::Set, "Weave Net"),
    engine("ANTREA-POD-IP", NamedThing::Set, "Antrea"),
    engine("ANTREA-", NamedThing::Chain, "Antrea"),
    other("WEAVE-", NamedThing::Chain, "Weave Net"),
    other("KUBE-", NamedThing::Chain, "kube-proxy or kubelet"),
    other("FLANNEL-", NamedThing::Chain, "flannel"),
    other("CNI-", NamedThing::Chain, "a CNI plugin (portmap, firewall or bridge)"),
    other("DOCKER", NamedThing::Chain, "Docker"),
];

/// The names that this name belongs to, if they are known.
#[must_use]
pub fn names_of(name: &str) -> Option<&'static ProgramNames> {
    NAMES.iter().find(|names| name.starts_with(names.begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_names_are_hidden_by_those_before_them() {
        for names in &NAMES {
            assert_eq!(names_of(names.begin), Some(names));
        }
        for ours in ["NPC-FORWARD", "npc4-own", "npc6-own", "FORWARD"] {
            assert_eq!(names_of(ours), None, "{ours}");
        }
    }
}
