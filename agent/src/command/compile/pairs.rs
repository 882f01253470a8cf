//! Pair sets for people, and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use npc_compiler::API_VERSION;
use npc_compiler::algebra::block_text::{self, written_blocks};
use npc_compiler::algebra::cidr::{self, AddressSet};
use npc_compiler::algebra::ranges::RangeSet;
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::{Cluster, PodId, PolicyId};
use npc_compiler::object::{Family, Protocol};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::flow::End;
use npc_compiler::verdict::pair_doubt::{
    PairSetPart, PairVerdict, PossibleIsolation, by_possible, has_open_ends, parts,
};
use npc_compiler::verdict::pairs::{Because, PairSet, PairSetVerdict, Region};
use serde_json::{Map, Value, json};

use crate::command::absent_peers::{self, AbsentEnd, elsewhere};
use crate::command::input::Input;
use crate::command::output::{BAD, Columns, DOUBT, FAINT, GOOD, width};
use crate::command::warning;
use crate::command::words::{not_understood, policy_name, shorten};

/// At most this many names or prefixes are written out.
const LISTED: usize = 8;

/// The pair sets by direction and group. Families with the same answer share it.
pub(super) fn text(cluster: &Cluster, groups: &Groups, sets: &[PairSet], out: &mut impl Write) -> io::Result<()> {
    let mut blocks = BTreeMap::<(Direction, Vec<PodId>), IsolatedAlike<'_>>::new();
    for set in sets {
        for (possible, subjects) in by_possible(cluster, groups, set) {
            let block = blocks.entry((set.direction, subjects)).or_default();
            block.families[set.family as usize].push(set);
            block.possible = possible;
        }
    }
    let (has_open_ends, mut has_doubt) = (has_open_ends(cluster), false);
    let nothing = BTreeSet::new();
    for (i, ((direction, subjects), IsolatedAlike { families, possible })) in blocks.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        let names = shorten(&names(cluster, subjects), LISTED, ", ");
        let family = families.iter().flatten().map(|set| set.family).next();
        let policies = isolating(cluster, groups, subjects, *direction, family);
        let others = names_of_policies(cluster, possible.policies.iter().copied());
        let isolated = if policies.is_empty() && possible.is_unread {
            "isolated by no policy that was read; others may be there".to_owned()
        } else if policies.is_empty() && !others.is_empty() {
            format!("isolated by no policy for certain, perhaps by {others}")
        } else if policies.is_empty() {
            "isolated by no policy".to_owned()
        } else {
            let others = if others.is_empty() { others } else { format!(", and perhaps by {others}") };
            let unread = if possible.is_unread { "; others may be there" } else { "" };
            format!("isolated by {}{others}{unread}", names_of_policies(cluster, policies.iter().copied()))
        };
        writeln!(out, "{}  {names}  {FAINT}{isolated}{FAINT:#}", direction.as_str().to_lowercase())?;
        let doubtful = if has_open_ends { &policies } else { &nothing };
        let said = families.each_ref().map(|sets| lines(cluster, groups, sets, possible, doubtful));
        has_doubt |= said.iter().flatten().any(|(said, _)| *said == PairVerdict::Unknown);
        let mut columns = Columns::default();
        if said[0] == said[1] {
            add(&mut columns, &said[0], "IPv4 IPv6");
        } else {
            add(&mut columns, &said[0], "IPv4");
            add(&mut columns, &said[1], "IPv6");
        }
        let elsewhere = policies.iter().flat_map(|id| elsewhere(cluster, *id, *direction));
        let elsewhere: BTreeSet<AbsentEnd> = elsewhere.collect();
        let lines = elsewhere.into_iter().map(|of| {
            let AbsentEnd { ports, peer, policy, path, found, is_partly_here, .. } = of;
            let (way, why) = (direction.peers_field(), absent_peers::words_of_part(found, is_partly_here));
            (PairVerdict::Allowed, [ports, format!("{way} {peer} {why}"), format!("{policy} {path}")])
        });
        add(&mut columns, &lines.collect::<Vec<_>>(), "");
        columns.write_within(out, "  ", width())?;
        for text in not_understood(cluster, policies.iter().copied(), *direction) {
            writeln!(out, "  not understood: {text}")?;
        }
    }
    if has_doubt {
        writeln!(
            out,
            "\n? the input does not say whether this is allowed; npc explain SRC DST names the missing fact"
        )?;
    }
    out.flush()
}

/// Pods that the same policies isolate, and may isolate, in one direction.
#[derive(Default)]
struct IsolatedAlike<'s> {
    families: [Vec<&'s PairSet>; 2],
    /// The policies that may isolate them, beside those that do.
    possible: PossibleIsolation,
}

/// The policies that isolate these pods, which are the same for all of them.
fn isolating(
    cluster: &Cluster,
    groups: &Groups,
    subjects: &[PodId],
    direction: Direction,
    family: Option<Family>,
) -> BTreeSet<PolicyId> {
    let deciding = |subject: &PodId| End::Pod(*subject).groups(cluster, groups, direction, family);
    let deciding = subjects.first().map(deciding).unwrap_or_default();
    deciding.iter().flat_map(|group| groups.get(*group).key.policies.iter().copied()).collect()
}

fn names_of_policies(cluster: &Cluster, policies: impl Iterator<Item = PolicyId>) -> String {
    policies.map(|id| policy_name(cluster, id)).collect::<Vec<_>>().join(", ")
}

fn add(columns: &mut Columns, lines: &[(PairVerdict, [String; 3])], families: &str) {
    for (said, cells) in lines {
        let (style, word) = match said {
            PairVerdict::Allowed => (GOOD, "allow"),
            PairVerdict::Unknown => (DOUBT, "?    "),
            PairVerdict::Denied => (BAD, "deny "),
        };
        let line = std::iter::once(families.to_owned()).chain(cells.iter().cloned());
        columns.after(format!("{style}{word}{style:#}  "), line);
    }
}

fn lines(
    cluster: &Cluster,
    groups: &Groups,
    sets: &[&PairSet],
    possible: &PossibleIsolation,
    isolating: &BTreeSet<PolicyId>,
) -> Vec<(PairVerdict, [String; 3])> {
    let of_set = |set: &&PairSet| {
        let way = set.direction.peers_field();
        let because: Vec<String> = set
            .because
            .iter()
            .filter_map(|Because { policy, rule }| {
                Some(format!("{} {}", policy_name(cluster, *policy), rule.as_ref()?))
            })
            .collect();
        let line = |part: PairSetPart| {
            let peers = format!("{way} {}", peers(cluster, &part.peers, set.family));
            let rule = |(policy, path)| format!("{} {path}", policy_name(cluster, policy));
            let rules: Vec<String> = part.rules.into_iter().map(rule).collect();
            let because = if rules.is_empty() { &because } else { &rules };
            (part.verdict, [traffic(&part.traffic), peers, shorten(because, LISTED, ", ")])
        };
        parts(cluster, groups, set, possible, isolating).into_iter().map(line).collect::<Vec<_>>()
    };
    let mut lines: Vec<_> = sets.iter().flat_map(of_set).collect();
    lines.sort_by_key(|(said, _)| *said);
    lines
}

/// Traffic, or what it lacks where that is shorter.
fn traffic(traffic: &Traffic) -> String {
    let text = traffic.to_string();
    let rest = Traffic::all().difference(traffic).to_string();
    if !traffic.is_all() && rest.len() < text.len() { format!("all but {rest}") } else { text }
}

fn peers(cluster: &Cluster, peers: &Region, family: Family) -> String {
    let mut words = Vec::new();
    if peers.pods.len() > 1 && peers.pods.len() == cluster.endpoints().count() {
        words.push("all pods".to_owned());
    } else if !peers.pods.is_empty() {
        words.push(shorten(&names(cluster, &peers.pods), LISTED, ", "));
    }
    words.extend(outside(&peers.outside, family));
    words.join(", ")
}

/// Addresses outside as people write blocks, or what they lack of everything where that is shorter.
fn outside(addresses: &AddressSet, family: Family) -> Option<String> {
    if addresses.is_empty() {
        return None;
    }
    let everything = RangeSet::range(0, cidr::last_number(family));
    let rest = cidr::prefixes(family, &everything.difference(addresses));
    if rest.is_empty() {
        return Some("all outside".to_owned());
    }
    let blocks = written_blocks(family, addresses);
    let listed = |all: &mut dyn Iterator<Item = String>| shorten(&all.collect::<Vec<_>>(), LISTED, ", ");
    if rest.len() < block_text::length(&blocks) {
        Some(format!("outside but {}", listed(&mut rest.iter().map(ToString::to_string))))
    } else {
        Some(format!("outside {}", listed(&mut blocks.iter().map(ToString::to_string))))
    }
}

fn names(cluster: &Cluster, pods: &[PodId]) -> Vec<String> {
    let name = |id: &PodId| format!("{}/{}", cluster.pod(*id).namespace, cluster.pod(*id).name);
    pods.iter().map(name).collect()
}

/// The pair sets as JSON. A region's prefixes mean addresses that belong to no
/// endpoint. A set of which a part is in doubt is one set for each part.
pub(super) fn json(input: &Input, groups: &Groups, sets: &[PairSet], is_shown: impl Fn(PodId) -> bool) -> Value {
    let warnings = input.with_passed_over(input.warnings.clone());
    let (cluster, findings) = (&input.cluster, input.findings_with(&warnings));
    let has_open_ends = has_open_ends(cluster);
    let split = |set: &PairSet| {
        let isolating = isolating(cluster, groups, &set.subjects, set.direction, Some(set.family));
        let mut by_peers = Vec::new();
        for (possible, subjects) in by_possible(cluster, groups, set) {
            let parts = parts(cluster, groups, set, &possible, &isolating);
            // What is said for certain of all of it stays one set.
            let is_one = parts.iter().all(|part| part.verdict != PairVerdict::Unknown);
            let whole = PairSetPart {
                verdict: PairVerdict::Allowed,
                traffic: set.traffic.clone(),
                peers: set.peers.clone(),
                rules: BTreeSet::new(),
            };
            let parts = if is_one { vec![whole] } else { parts };
            for PairSetPart { verdict, traffic, peers, .. } in parts {
                by_peers.push((
                    verdict != PairVerdict::Unknown,
                    PairSet { subjects: subjects.clone(), traffic, peers, ..set.clone() },
                ));
            }
        }
        by_peers
    };
    let one = |(is_certain, set): (bool, &PairSet)| {
        let because: Vec<Value> = (set.because.iter())
            .map(|Because { policy, rule }| {
                let policy = cluster.policy(*policy);
                json!({
                    "policy": {"kind": "NetworkPolicy", "namespace": policy.namespace, "name": policy.name},
                    "path": rule,
                })
            })
            .collect();
        let prefixes: Vec<String> =
            cidr::prefixes(set.family, &set.peers.outside).iter().map(ToString::to_string).collect();
        json!({
            "direction": set.direction.as_str(),
            "family": set.family,
            "verdict": if set.verdict == PairSetVerdict::Allowed { "Allowed" } else { "Denied" },
            "certain": is_certain,
            "subjects": names(cluster, &set.subjects),
            "peers": {"pods": names(cluster, &set.peers.pods), "prefixes": prefixes},
            "traffic": traffic_json(&set.traffic),
            "because": because,
        })
    };
    let of_set = |set: &PairSet| -> Vec<Value> {
        if has_open_ends {
            split(set).iter().map(|(is_certain, set)| one((*is_certain, set))).collect()
        } else {
            vec![one((true, set))]
        }
    };
    let sets: Vec<Value> = sets.iter().flat_map(of_set).collect();
    let elsewhere = elsewhere_json(cluster, groups, is_shown);
    let mut whole = json!({"apiVersion": API_VERSION, "kind": "PairSets", "pairSets": sets, "elsewhere": elsewhere});
    if !findings.is_empty() {
        whole["findings"] = json!(findings);
    }
    whole["warnings"] = json!(warning::texts(&warnings));
    whole["unknowns"] = json!(input.unread_policies());
    whole
}

/// What the rules of each group admit whose other ends are not in the input.
fn elsewhere_json(cluster: &Cluster, groups: &Groups, is_shown: impl Fn(PodId) -> bool) -> Vec<Value> {
    let mut subjects = BTreeMap::<(Direction, &[PolicyId]), Vec<PodId>>::new();
    for (pod, _) in cluster.endpoints().filter(|(pod, _)| is_shown(*pod)) {
        for direction in Direction::ALL {
            if let Some(group) = groups.of(pod, direction) {
                subjects.entry((direction, &groups.get(group).key.policies)).or_default().push(pod);
            }
        }
    }
    let mut all = Vec::new();
    for ((direction, policies), subjects) in subjects {
        let found: BTreeSet<AbsentEnd> = policies.iter().flat_map(|id| elsewhere(cluster, *id, direction)).collect();
        all.extend(found.into_iter().map(|of| {
            json!({
                "direction": direction.as_str(), "subjects": names(cluster, &subjects), "ports": of.ports,
                "peer": of.peer, "policy": of.policy, "path": of.path, "found": of.found,
            })
        }));
    }
    all
}

/// Protocols to ranges of ports; ICMP and all others have none.
fn traffic_json(traffic: &Traffic) -> Value {
    let mut all: Map<String, Value> = (Protocol::ALL.into_iter())
        .map(|protocol| {
            let ranges: Vec<(u16, u16)> = traffic.port_ranges(protocol).collect();
            (protocol.as_str().to_owned(), json!(ranges))
        })
        .filter(|(_, ranges)| ranges.as_array().is_some_and(|ranges| !ranges.is_empty()))
        .collect();
    if traffic.other {
        all.insert("ICMP".to_owned(), Value::Null);
    }
    Value::Object(all)
}
