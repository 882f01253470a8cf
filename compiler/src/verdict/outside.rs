//! What ends exchange with addresses outside the cluster, in as few entries as possible.

use std::collections::BTreeSet;
use std::fmt;

use crate::algebra::block_text::written_blocks;
use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::{Atom, GroupId, Groups};
use crate::object::Family;
use crate::policy::Direction;
use crate::verdict::flow::End;
use crate::verdict::pairs;

/// Traffic that ends exchange with addresses outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// The addresses; `None` for all addresses of both families.
    pub addresses: Option<(Family, AddressSet)>,
    /// What is allowed with them beyond what is allowed with all addresses.
    pub traffic: Traffic,
}

/// What is meant where the input does not say which policies apply to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// What is allowed for certain.
    Least,
    /// What may be allowed.
    Most,
}

impl Outside {
    /// The addresses as they would be written in ipBlocks; none for all of both families.
    #[must_use]
    pub fn blocks(&self) -> Vec<String> {
        let bracketed = |family: Family, text: String| match family {
            Family::V4 => text,
            Family::V6 => format!("[{text}]"),
        };
        let written = |(family, set): &(Family, AddressSet)| {
            let blocks = written_blocks(*family, set).into_iter();
            blocks.map(|block| bracketed(*family, block.to_string())).collect()
        };
        self.addresses.as_ref().map(written).unwrap_or_default()
    }

    /// One text for each prefix of the addresses: `*`, `443` with all addresses,
    /// `203.0.113.0/25:443`, `[2001:db8::/32]:443`.
    #[must_use]
    pub fn by_prefix(&self) -> Vec<String> {
        let Some((family, set)) = &self.addresses else { return vec![self.traffic.to_string()] };
        let text = |prefix| match family {
            Family::V4 => format!("{prefix}:{}", self.traffic),
            Family::V6 => format!("[{prefix}]:{}", self.traffic),
        };
        cidr::prefixes(*family, set).into_iter().map(text).collect()
    }
}

/// As [`Outside::by_prefix`], with exceptions where that is shorter.
impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks = self.blocks();
        if blocks.is_empty() {
            return write!(f, "{}", self.traffic);
        }
        let each: Vec<String> = blocks.into_iter().map(|block| format!("{block}:{}", self.traffic)).collect();
        f.write_str(&each.join(" "))
    }
}

/// What any of these ends may exchange with addresses outside.
#[must_use]
pub fn outside(
    cluster: &Cluster,
    groups: &Groups,
    ends: impl IntoIterator<Item = End>,
    direction: Direction,
    certainty: Certainty,
) -> Vec<Outside> {
    let mut alone = Vec::new();
    // Where several pods hold one address, what the groups of all admit.
    let mut together = [BTreeSet::new(), BTreeSet::new()];
    for end in ends {
        let decide = |family| {
            let deciding = end.deciding(cluster, groups, direction, Some(family));
            match certainty {
                Certainty::Least if deciding.is_nothing_certain => None,
                Certainty::Least => Some(deciding.least),
                Certainty::Most => Some(deciding.most),
            }
        };
        let [Some(v4), Some(v6)] = Family::ALL.map(decide) else { continue };
        if v4.is_empty() || v6.is_empty() {
            return vec![Outside { addresses: None, traffic: Traffic::all() }];
        }
        for (found, together) in [v4, v6].into_iter().zip(&mut together) {
            match found.as_slice() {
                [group] => alone.push(*group),
                several => drop(together.insert(several.to_vec())),
            }
        }
    }
    alone.sort_unstable();
    alone.dedup();
    let of_group = |group: &GroupId| &groups.get(*group).admitted;
    let admitted = || alone.iter().flat_map(of_group);
    let with_all = admitted()
        .filter(|(atom, _)| **atom == Atom::Everyone)
        .fold(Traffic::none(), |all, (_, admitted)| all.union(&admitted.traffic));
    let mut entries = Vec::new();
    if !with_all.is_none() {
        entries.push(Outside { addresses: None, traffic: with_all.clone() });
    }
    for family in Family::ALL {
        let mut parts = pairs::outside(admitted(), family);
        for several in &together[family as usize] {
            let parts_of = |group: &GroupId| pairs::outside(of_group(group), family);
            let joint = several.iter().map(parts_of).reduce(|one, other| pairs::both(&one, &other)).unwrap_or_default();
            parts = pairs::either(&parts, &joint);
        }
        for (traffic, addresses) in parts {
            let traffic = traffic.difference(&with_all);
            if !traffic.is_none() {
                entries.push(Outside { addresses: Some((family, addresses)), traffic });
            }
        }
    }
    entries
}
