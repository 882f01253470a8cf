//! The names that other programs give their chains and sets, as their own sources have them.

/// What Azure NPM's chains begin with.
pub const AZURE_CHAINS: &str = "AZURE-NPM";

/// What Azure NPM's sets begin with.
pub const AZURE_SETS: &str = "azure-npm-";

/// What has such a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A chain of iptables.
    Chain,
    /// A set of ipset.
    Set,
}

/// Names of one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// What they begin with.
    pub begin: &'static str,
    /// What has them.
    pub kind: Kind,
    /// The program, as people call it.
    pub program: &'static str,
    /// Whether they show that the program enforces network policies here.
    pub is_engine: bool,
}

const fn engine(begin: &'static str, kind: Kind, program: &'static str) -> Names {
    Names { begin, kind, program, is_engine: true }
}

const fn other(begin: &'static str, kind: Kind, program: &'static str) -> Names {
    Names { begin, kind, program, is_engine: false }
}

/// The names. The first that fits a name is the right one, so what begins with another's stands
/// before it.
pub const NAMES: [Names; 21] = [
    engine(AZURE_CHAINS, Kind::Chain, "Azure NPM"),
    engine(AZURE_SETS, Kind::Set, "Azure NPM"),
    engine("cali-", Kind::Chain, "Calico"),
    engine("cali40", Kind::Set, "Calico"),
    engine("cali60", Kind::Set, "Calico"),
    engine("KUBE-ROUTER", Kind::Chain, "kube-router"),
    engine("KUBE-NWPLCY", Kind::Chain, "kube-router"),
    engine("KUBE-POD-FW", Kind::Chain, "kube-router"),
    engine("kube-router-", Kind::Set, "kube-router"),
    engine("KUBE-SRC-", Kind::Set, "kube-router"),
    engine("KUBE-DST-", Kind::Set, "kube-router"),
    engine("CILIUM_", Kind::Chain, "Cilium"),
    engine("WEAVE-NPC", Kind::Chain, "Weave Net"),
    engine("weave-", Kind::Set, "Weave Net"),
    engine("ANTREA-POD-IP", Kind::Set, "Antrea"),
    engine("ANTREA-", Kind::Chain, "Antrea"),
    other("WEAVE-", Kind::Chain, "Weave Net"),
    other("KUBE-", Kind::Chain, "kube-proxy or kubelet"),
    other("FLANNEL-", Kind::Chain, "flannel"),
    other("CNI-", Kind::Chain, "a CNI plugin (portmap, firewall or bridge)"),
    other("DOCKER", Kind::Chain, "Docker"),
];

/// The names that this name belongs to, if they are known.
#[must_use]
pub fn names_of(name: &str) -> Option<&'static Names> {
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
