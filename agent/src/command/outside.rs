//! What endpoints exchange with addresses outside the cluster, in a few words.

use npc_compiler::cidr;
use npc_compiler::flow::End;
use npc_compiler::group::{Atom, Groups};
use npc_compiler::object::Family;
use npc_compiler::pairs;
use npc_compiler::policy::Direction;
use npc_compiler::traffic::Traffic;

/// Says what passes between endpoints and the outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outside<'a> {
    pub(super) groups: &'a Groups,
}

impl Outside<'_> {
    /// What some of these ends exchange with the outside, one entry for each
    /// prefix: `*`, `443` with all addresses, `203.0.113.0/25:443`.
    pub(super) fn entries(self, ends: impl IntoIterator<Item = End>, direction: Direction) -> Vec<String> {
        let mut groups = Vec::new();
        for end in ends {
            match end.group(self.groups, direction) {
                None => return vec!["*".to_owned()],
                Some(group) => groups.push(group),
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
            for (traffic, addresses) in pairs::outside(admitted(), family) {
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
