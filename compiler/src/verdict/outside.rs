//! What ends exchange with addresses outside the cluster, in as few entries as possible.

use std::collections::BTreeSet;
use std::fmt;

use ipnetwork::IpNetwork;

use crate::algebra::cidr;
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
    pub prefix: Option<IpNetwork>,
    /// What is allowed with them beyond what is allowed with all addresses.
    pub traffic: Traffic,
}

/// `*`, `443` with all addresses, `203.0.113.0/25:443`, `[2001:db8::/32]:443`.
impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            None => write!(f, "{}", self.traffic),
            Some(prefix @ IpNetwork::V4(_)) => write!(f, "{prefix}:{}", self.traffic),
            Some(prefix @ IpNetwork::V6(_)) => write!(f, "[{prefix}]:{}", self.traffic),
        }
    }
}

/// What any of these ends may exchange with addresses outside, one entry for each prefix.
#[must_use]
pub fn outside(
    cluster: &Cluster,
    groups: &Groups,
    ends: impl IntoIterator<Item = End>,
    direction: Direction,
) -> Vec<Outside> {
    let mut alone = Vec::new();
    // Where several pods hold one address, what the groups of all admit.
    let mut together = [BTreeSet::new(), BTreeSet::new()];
    for end in ends {
        let decide = |family| end.groups(cluster, groups, direction, Some(family));
        let [v4, v6] = Family::ALL.map(decide);
        if v4.is_empty() || v6.is_empty() {
            return vec![Outside { prefix: None, traffic: Traffic::all() }];
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
        entries.push(Outside { prefix: None, traffic: with_all.clone() });
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
                let prefixes = cidr::prefixes(family, &addresses).into_iter();
                entries.extend(prefixes.map(|prefix| Outside { prefix: Some(prefix), traffic: traffic.clone() }));
            }
        }
    }
    entries
}
