//! What endpoints exchange with addresses outside the cluster, in a few words.

use std::collections::BTreeSet;

use npc_compiler::algebra::cidr;
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::{Atom, GroupId, Groups};
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::flow::End;
use npc_compiler::verdict::pairs;

/// Says what passes between endpoints and the outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outside<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) groups: &'a Groups,
}

impl Outside<'_> {
    /// What some of these ends exchange with the outside, one entry for each
    /// prefix: `*`, `443` with all addresses, `203.0.113.0/25:443`.
    pub(super) fn entries(self, ends: impl IntoIterator<Item = End>, direction: Direction) -> Vec<String> {
        let mut groups = Vec::new();
        // Where several pods hold one address, what the groups of all admit.
        let mut together = [BTreeSet::new(), BTreeSet::new()];
        for end in ends {
            let decide = |family| end.groups(self.cluster, self.groups, direction, Some(family));
            let [v4, v6] = Family::ALL.map(decide);
            if v4.is_empty() || v6.is_empty() {
                return vec!["*".to_owned()];
            }
            for (found, together) in [v4, v6].into_iter().zip(&mut together) {
                match found.as_slice() {
                    [group] => groups.push(*group),
                    several => drop(together.insert(several.to_vec())),
                }
            }
        }
        groups.sort_unstable();
        groups.dedup();
        let admitted = || groups.iter().flat_map(|group| &self.groups.get(*group).admitted);
        let anyone = admitted()
            .filter(|(atom, _)| **atom == Atom::Everyone)
            .fold(Traffic::none(), |all, (_, admitted)| all.union(&admitted.traffic));
        let mut entries = Vec::new();
        if !anyone.is_none() {
            entries.push(anyone.to_string());
        }
        for family in Family::ALL {
            let mut parts = pairs::outside(admitted(), family);
            for several in &together[family as usize] {
                let of_group = |group: &GroupId| pairs::outside(&self.groups.get(*group).admitted, family);
                let joint =
                    several.iter().map(of_group).reduce(|one, other| pairs::both(&one, &other)).unwrap_or_default();
                parts = pairs::either(&parts, &joint);
            }
            for (traffic, addresses) in parts {
                let more = traffic.difference(&anyone);
                if more.is_none() {
                    continue;
                }
                for prefix in cidr::prefixes(family, &addresses) {
                    entries.push(match family {
                        Family::V4 => format!("{prefix}:{more}"),
                        Family::V6 => format!("[{prefix}]:{more}"),
                    });
                }
            }
        }
        entries
    }
}
