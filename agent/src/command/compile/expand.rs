//! Pair sets multiplied out: one line for each pair of an address and an
//! address or prefix.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::IpAddr;

use npc_compiler::algebra::cidr;
use npc_compiler::cluster::{Cluster, PodId};
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::pairs::{Because, PairSet, PairSetVerdict, exempt};

use crate::command::words::policy_name;

/// Writes every pair of the pods that are shown, what no policy judges first.
pub(super) fn text(
    cluster: &Cluster,
    sets: &[PairSet],
    is_shown: impl Fn(PodId) -> bool,
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(out, "direction\tverdict\tsource\tdestination\ttraffic\tbecause")?;
    for direction in Direction::ALL {
        for family in Family::ALL {
            // What no policy isolates exchanges everything with everyone anyway.
            let here = || sets.iter().filter(|set| set.direction == direction && set.family == family);
            let isolated: BTreeSet<PodId> = here()
                .filter(|set| set.verdict == PairSetVerdict::Denied)
                .flat_map(|set| &set.subjects)
                .copied()
                .collect();
            for subject in isolated {
                let Some(address) = cluster.address(subject, family) else { continue };
                for peer in cidr::prefixes(family, &exempt(cluster, subject, family)) {
                    let reason = if peer.ip() == address { "itself" } else { "its own node" };
                    line(out, direction, "allow", address, &peer, "*", reason)?;
                }
            }
            for set in here() {
                pairs(cluster, set, out)?;
            }
        }
    }
    let is_bare = |id: PodId| Family::ALL.iter().all(|family| cluster.address(id, *family).is_none());
    let bare = cluster.endpoints().filter(|(id, _)| is_shown(*id) && is_bare(*id));
    match bare.count() {
        0 => {}
        count => say!("npc: {count} endpoints have no address, and so no pairs of addresses"),
    }
    out.flush()
}

fn pairs(cluster: &Cluster, set: &PairSet, out: &mut impl Write) -> io::Result<()> {
    let peers = set.peers.addresses(cluster, set.family);
    let verdict = if set.verdict == PairSetVerdict::Allowed { "allow" } else { "deny" };
    let because: Vec<String> = (set.because.iter())
        .map(|Because { policy, rule }| {
            let policy = policy_name(cluster, *policy);
            rule.as_ref().map_or(policy.clone(), |rule| format!("{policy} {rule}"))
        })
        .collect();
    let because = if because.is_empty() { "not isolated".to_owned() } else { because.join(", ") };
    let traffic = set.traffic.to_string();
    for subject in &set.subjects {
        let Some(address) = cluster.address(*subject, set.family) else { continue };
        let judged = if set.because.is_empty() {
            peers.clone()
        } else {
            peers.difference(&exempt(cluster, *subject, set.family))
        };
        for peer in cidr::prefixes(set.family, &judged) {
            line(out, set.direction, verdict, address, &peer, &traffic, &because)?;
        }
    }
    Ok(())
}

fn line(
    out: &mut impl Write,
    direction: Direction,
    verdict: &str,
    subject: IpAddr,
    peer: &impl std::fmt::Display,
    traffic: &str,
    because: &str,
) -> io::Result<()> {
    let word = direction.as_str().to_lowercase();
    match direction {
        Direction::Ingress => writeln!(out, "{word}\t{verdict}\t{peer}\t{subject}\t{traffic}\t{because}"),
        Direction::Egress => writeln!(out, "{word}\t{verdict}\t{subject}\t{peer}\t{traffic}\t{because}"),
    }
}
