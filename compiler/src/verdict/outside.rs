//! What ends exchange with addresses outside the cluster, in as few entries as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use smallvec::SmallVec;

use crate::algebra::block_text::{WrittenBlock, length, written_blocks};
use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::ranges::RangeSet;
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::{Atom, GroupId, Groups};
use crate::object::Family;
use crate::policy::Direction;
use crate::verdict::bounds::Deciding;
use crate::verdict::division::{self, Division};
use crate::verdict::flow::End;

/// Traffic that ends exchange with addresses outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// The addresses; `None` for all addresses of both families.
    pub addresses: Option<(Family, AddressSet)>,
    /// What is allowed with them beyond what is allowed with all addresses.
    pub traffic: Traffic,
}

/// What ends exchange with addresses outside the cluster, by what is certain of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutsideBounds {
    /// What some of the ends may exchange for certain.
    pub allowed: Vec<Outside>,
    /// What of it every end may exchange; the same where the ends do not differ.
    pub common: Vec<Outside>,
    /// What of it not every end may exchange for certain.
    pub differs: Vec<Outside>,
    /// What some may exchange besides: the input lacks a fact.
    pub unknown: Vec<Outside>,
}

impl Outside {
    /// The addresses as they would be written in ipBlocks; none for all of both families.
    #[must_use]
    pub fn blocks(&self) -> Vec<WrittenBlock> {
        self.addresses.as_ref().map(|(family, set)| written_blocks(*family, set)).unwrap_or_default()
    }

    /// The text with marks before and behind each block or traffic.
    #[must_use]
    pub fn marked(&self, before: &str, behind: &str) -> String {
        let text = |block: String| format!("{before}{block}{}{behind}", self.traffic);
        let blocks = self.blocks();
        if blocks.is_empty() {
            return text(String::new());
        }
        blocks.iter().map(|block| text(format!("{}:", block.before_port()))).collect::<Vec<_>>().join(" ")
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

/// At most this many cells of traffic are looked at.
const MOST_CELLS: usize = 32;

/// Entries as people write them. Rules with other ports and other exceptions divide the addresses
/// among them, so what one rule says in one block is spread over many entries; where that is shorter,
/// the entries are by traffic instead, and their addresses overlap.
#[must_use]
pub fn shortest_entries(entries: &[Outside]) -> Vec<Outside> {
    let mut written: Vec<Outside> = entries.iter().filter(|entry| entry.addresses.is_none()).cloned().collect();
    for family in Family::ALL {
        let is_of_family = |entry: &&Outside| matches!(&entry.addresses, Some((of, _)) if *of == family);
        let parts: Vec<Outside> = entries.iter().filter(is_of_family).cloned().collect();
        let length_of = |entries: &[Outside]| -> usize {
            let addresses = entries.iter().filter_map(|entry| entry.addresses.as_ref());
            addresses.map(|(family, set)| length(&written_blocks(*family, set))).sum()
        };
        match by_traffic(&parts, family) {
            Some(other) if length_of(&other) < length_of(&parts) => written.extend(other),
            _ => written.extend(parts),
        }
    }
    written
}

/// The entries of a family by parts of their traffic, which do not overlap; none where these are too
/// many.
fn by_traffic(parts: &[Outside], family: Family) -> Option<Vec<Outside>> {
    let mut cells: Vec<Traffic> = Vec::new();
    for part in parts {
        let mut rest = part.traffic.clone();
        let mut refined = Vec::new();
        for cell in cells {
            let (both, own) = (cell.intersection(&part.traffic), cell.difference(&part.traffic));
            rest = rest.difference(&cell);
            refined.extend([both, own].into_iter().filter(|cell| !cell.is_none()));
        }
        refined.extend(Some(rest).filter(|rest| !rest.is_none()));
        cells = refined;
        if cells.len() > MOST_CELLS {
            return None;
        }
    }
    let mut by_addresses: Vec<(AddressSet, Traffic)> = Vec::new();
    for cell in cells {
        let having = parts.iter().filter(|part| cell.difference(&part.traffic).is_none());
        let sets: Vec<AddressSet> = having.filter_map(|part| Some(part.addresses.as_ref()?.1.clone())).collect();
        let addresses = AddressSet::union_of(&sets);
        match by_addresses.iter_mut().find(|(of, _)| *of == addresses) {
            Some((_, traffic)) => *traffic = traffic.union(&cell),
            None => by_addresses.push((addresses, cell)),
        }
    }
    let entry = |(addresses, traffic)| Outside { addresses: Some((family, addresses)), traffic };
    Some(by_addresses.into_iter().map(entry).collect())
}

/// As [`Outside::by_prefix`], with exceptions where that is shorter.
impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.marked("", ""))
    }
}

/// What these ends may exchange with addresses outside.
#[must_use]
pub fn outside(
    cluster: &Cluster,
    groups: &Groups,
    ends: impl IntoIterator<Item = End>,
    direction: Direction,
) -> OutsideBounds {
    let deciding = |end: End| Family::ALL.map(|family| end.deciding(cluster, groups, direction, Some(family)));
    outside_by(groups, &ends.into_iter().map(deciding).collect())
}

/// What ends may exchange with addresses outside, if their deciding groups are known, by family.
#[must_use]
pub fn outside_by(groups: &Groups, ends: &BTreeSet<[Deciding; 2]>) -> OutsideBounds {
    let least = |of: &Deciding| (!of.is_nothing_certain).then(|| of.least.clone());
    let most = |of: &Deciding| Some(of.most.clone());
    let allowed = union(groups, ends.iter().filter_map(|of| both_families(of, least)));
    let mut bounds = OutsideBounds { common: allowed.clone(), allowed, ..OutsideBounds::default() };
    if ends.len() > 1 {
        let of_every = Family::ALL.map(|family| {
            let each = ends.iter().map(|of| division(groups, least(&of[family as usize]), family));
            each.reduce(|one, other| division::both(&one, &other)).unwrap_or_default()
        });
        let of_some = divisions(&bounds.allowed);
        bounds.differs = entries(&minus(&of_some, &of_every));
        if !bounds.differs.is_empty() {
            bounds.common = entries(&of_every);
        }
    }
    if ends.iter().flatten().any(|of| !of.is_certain()) {
        let at_most = union(groups, ends.iter().filter_map(|of| both_families(of, most)));
        bounds.unknown = entries(&minus(&divisions(&at_most), &divisions(&bounds.allowed)));
    }
    bounds
}

/// Groups that decide together, of each family.
type GroupsOfFamilies = [SmallVec<[GroupId; 1]>; 2];

fn both_families(
    [v4, v6]: &[Deciding; 2],
    of: impl Fn(&Deciding) -> Option<SmallVec<[GroupId; 1]>>,
) -> Option<GroupsOfFamilies> {
    Some([of(v4)?, of(v6)?])
}

/// What any of these lets pass.
fn union(groups: &Groups, all: impl Iterator<Item = GroupsOfFamilies>) -> Vec<Outside> {
    let mut alone = Vec::new();
    // Where several pods hold one address, what the groups of all admit.
    let mut together = [BTreeSet::new(), BTreeSet::new()];
    for [v4, v6] in all {
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
    let admitted = || alone.iter().flat_map(|group| &groups.get(*group).admitted);
    let with_all = admitted()
        .filter(|(atom, _)| **atom == Atom::Everyone)
        .fold(Traffic::none(), |all, (_, admitted)| all.union(&admitted.traffic));
    let mut found = Vec::new();
    if !with_all.is_none() {
        found.push(Outside { addresses: None, traffic: with_all.clone() });
    }
    for family in Family::ALL {
        let mut parts = division::outside(admitted(), family);
        for several in &together[family as usize] {
            parts = division::either(&parts, &division(groups, Some(several.iter().copied().collect()), family));
        }
        for (traffic, addresses) in parts {
            let traffic = traffic.difference(&with_all);
            if !traffic.is_none() {
                found.push(Outside { addresses: Some((family, addresses)), traffic });
            }
        }
    }
    found
}

/// What groups together let pass; without any, everything, and nothing where they are not known.
fn division(groups: &Groups, together: Option<SmallVec<[GroupId; 1]>>, family: Family) -> Division {
    let everything = RangeSet::range(0, cidr::last_number(family));
    let Some(together) = together else { return Division::from([(Traffic::none(), everything)]) };
    let parts = together.iter().map(|group| division::outside(&groups.get(*group).admitted, family));
    let all = parts.reduce(|one, other| division::both(&one, &other));
    all.unwrap_or_else(|| Division::from([(Traffic::all(), everything)]))
}

/// Entries as divisions of all addresses of each family.
fn divisions(entries: &[Outside]) -> [Division; 2] {
    Family::ALL.map(|family| {
        let everything = RangeSet::range(0, cidr::last_number(family));
        let mut parts = Division::from([(Traffic::none(), everything.clone())]);
        for entry in entries {
            let addresses = match &entry.addresses {
                None => &everything,
                Some((of, addresses)) if *of == family => addresses,
                Some(_) => continue,
            };
            let mut more = Division::from([(entry.traffic.clone(), addresses.clone())]);
            let rest = everything.difference(addresses);
            if !rest.is_empty() {
                more.insert(Traffic::none(), rest);
            }
            parts = division::either(&parts, &more);
        }
        parts
    })
}

/// What the one lets pass and the other does not.
fn minus(one: &[Division; 2], other: &[Division; 2]) -> [Division; 2] {
    Family::ALL.map(|family| division::but(&one[family as usize], &other[family as usize]))
}

/// Divisions as entries; what all addresses of both families have in common is one.
fn entries(divisions: &[Division; 2]) -> Vec<Outside> {
    let with_all = divisions.iter().flat_map(BTreeMap::keys);
    let with_all = with_all.fold(Traffic::all(), |all, traffic| all.intersection(traffic));
    let mut found = Vec::new();
    if !with_all.is_none() {
        found.push(Outside { addresses: None, traffic: with_all.clone() });
    }
    for family in Family::ALL {
        let mut rest = Division::new();
        for (traffic, addresses) in &divisions[family as usize] {
            let entry = rest.entry(traffic.difference(&with_all)).or_default();
            *entry = entry.union(addresses);
        }
        rest.remove(&Traffic::none());
        found.extend(
            rest.into_iter().map(|(traffic, addresses)| Outside { addresses: Some((family, addresses)), traffic }),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::object::Protocol;
    use crate::sample::cluster;

    /// What entries let pass with an address.
    fn admitted(entries: &[Outside], family: Family, address: u128) -> Traffic {
        let holds =
            |entry: &&Outside| entry.addresses.as_ref().is_none_or(|(of, set)| *of == family && set.contains(address));
        entries.iter().filter(holds).fold(Traffic::none(), |all, entry| all.union(&entry.traffic))
    }

    /// Entries of the addresses below 32, with ports below 8.
    fn random_entries() -> impl Strategy<Value = Vec<Outside>> {
        let range = (0_u128..32, 0_u128..32).prop_map(|(a, b)| (a.min(b), a.max(b)));
        let ports = (1_u16..8, 1_u16..8).prop_map(|(a, b)| Traffic::ports(Protocol::Tcp, a.min(b), a.max(b)));
        let ranges = proptest::option::weighted(0.9, proptest::collection::vec(range, 1..4));
        let entry = (ranges, select(Family::ALL.to_vec()), ports).prop_map(|(ranges, family, traffic)| {
            let addresses = ranges.map(|ranges| (family, AddressSet::from_ranges(ranges)));
            Outside { addresses, traffic }
        });
        proptest::collection::vec(entry, 0..6)
    }

    #[test]
    fn the_shortest_entries_admit_what_the_entries_admit() {
        let shortened = Cell::new(0);
        let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(entries in random_entries())| {
            let shortest = shortest_entries(&entries);
            for (family, address) in Family::ALL.into_iter().flat_map(|family| (0..33).map(move |of| (family, of))) {
                prop_assert_eq!(admitted(&shortest, family, address), admitted(&entries, family, address));
            }
            let is_there = |entry: &Outside| entries.contains(entry);
            shortened.set(shortened.get() + usize::from(!shortest.iter().all(is_there)));
        });
        assert!(shortened.get() > 50, "only {} are other entries", shortened.get());
    }

    fn shown(entries: &[Outside]) -> String {
        entries.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// What all pods of these together send outside: to some, to all, to some only, perhaps.
    fn of(pods: &[&str], policies: &[&str]) -> [String; 4] {
        let cluster = cluster(pods, policies);
        let groups = Groups::of_cluster(&cluster);
        let ends = cluster.endpoints().map(|(id, _)| End::Pod(id));
        let bounds = outside(&cluster, &groups, ends, Direction::Egress);
        [&bounds.allowed, &bounds.common, &bounds.differs, &bounds.unknown].map(|of| shown(of))
    }

    const WEB: &str = r#"ns/web {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 443}, {"port": 80}]}]}"#;
    const NONE: &str = r#"ns/none {"podSelector": {"matchLabels": {"app": "none"}}, "policyTypes": ["Egress"]}"#;
    const LESS: &str = r#"ns/less {"podSelector": {"matchLabels": {"app": "less"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "203.0.113.0/25"}}], "ports": [{"port": 443}]}]}"#;

    #[test]
    fn what_only_some_ends_may_send_outside_is_distinguished() {
        let [web, none, less] = ["ns/a app=web 10.0.0.1", "ns/b app=none 10.0.0.2", "ns/c app=less 10.0.0.3"];
        let all = "203.0.113.0/24:80,443";
        let text = |texts: [&str; 4]| texts.map(str::to_owned);
        assert_eq!(of(&[web], &[WEB]), text([all, all, "", ""]));
        assert_eq!(of(&[web, none], &[WEB, NONE]), text([all, "", all, ""]));
        assert_eq!(
            of(&[web, less], &[WEB, LESS]),
            text([all, "203.0.113.0/25:443", "203.0.113.0/25:80 203.0.113.128/25:80,443", ""])
        );
        // One that no policy isolates sends everything.
        assert_eq!(of(&[web, "ns/d 10.0.0.4"], &[WEB])[..2], ["*".to_owned(), all.to_owned()]);
        assert_eq!(of(&["ns/d 10.0.0.4", "ns/e app=e 10.0.0.5"], &[WEB]), text(["*", "*", "", ""]));
    }

    #[test]
    fn what_may_be_allowed_besides_leaves_out_what_is_certain() {
        let db = "ns/db StatefulSet/db app=web";
        let first = r#"ns/first {"podSelector": {"matchLabels": {"statefulset.kubernetes.io/pod-name": "db-0"}},
            "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}]}"#;
        let all = "203.0.113.0/24:80,443";
        let [allowed, common, differs, unknown] = of(&[db], &[WEB, first]);
        assert_eq!([allowed, common, differs, unknown], [all, all, "", "198.51.100.0/24:*"]);
    }
}
