//! One node's program as text and as JSON.

use std::io::{self, Write};

use npc_agent::counted::counted;
use npc_compiler::API_VERSION;
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{ChainRole, FORWARD_CHAIN, FamilyRuleset, NodeRuleset};
use npc_compiler::ruleset::text::rule_line;
use serde_json::{Map, Value, json};

/// The program that loads a part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Section {
    /// For `ipset restore`.
    Ipset,
    /// For `iptables-restore --noflush`.
    Iptables,
    /// For `ip6tables-restore --noflush`.
    Ip6tables,
}

/// What chains are for by their roles, in the order in which a packet meets them. An entry
/// stands in the text if the ruleset has a chain of one of its roles.
const CHAINS: [(&[ChainRole], &str); 14] = {
    use ChainRole::{Deny, DenyStray, Dispatch, DispatchList, Entry, Forward, Group, Related, Stray, StrayOf};
    use Direction::{Egress, Ingress};
    [
        (
            &[Forward],
            "every forwarded packet; RETURN leaves it to the rest of FORWARD; -m bpf is a pod's packet to itself, \
             by a Service",
        ),
        (&[Related], "ICMP errors about known flows: from a pod only about what was sent to it, and of any short ones"),
        (&[Stray], "TCP of no known connection that opens none, where no rule can tell which end is the server"),
        (&[StrayOf(Egress)], "the same before rules without ports, where the source is isolated for ingress too"),
        (&[StrayOf(Ingress)], "the same where the destination is isolated for egress too"),
        (&[DenyStray], "these are dropped, and counted"),
        (&[Entry(Egress)], "leads the packet of an isolated source to the chain of the source's group"),
        (&[Dispatch(Egress), DispatchList(Egress)], "on the way there"),
        (&[Group(Egress)], "one group: what it may send RETURNs to NPC-FORWARD, the rest is denied"),
        (&[Deny(Egress)], "what is denied there is dropped, and counted"),
        (&[Entry(Ingress)], "leads the packet to an isolated destination to the chain of the destination's group"),
        (&[Dispatch(Ingress), DispatchList(Ingress)], "on the way there"),
        (&[Group(Ingress)], "one group: what may be sent to it RETURNs to NPC-FORWARD, the rest is denied"),
        (&[Deny(Ingress)], "what is denied there is dropped, and counted"),
    ]
};

/// The program as each of the three programs reads it; all of them pass over
/// the comments.
pub(super) fn text(node: &str, program: &NodeRuleset, only: Option<Section>, out: &mut impl Write) -> io::Result<()> {
    let wanted = |section| only.is_none_or(|only| only == section);
    if only.is_none() {
        writeln!(out, "# What npc keeps in the kernel of node {node}.")?;
        writeln!(out, "# Load it in this order; --only ipset|iptables|ip6tables prints each part alone.")?;
        writeln!(out, "# No packet meets it before both of: iptables -I FORWARD -j {FORWARD_CHAIN}")?;
        writeln!(out, "#                                   ip6tables -I FORWARD -j {FORWARD_CHAIN}")?;
        writeln!(out)?;
    }
    if wanted(Section::Ipset) {
        writeln!(out, "# 1. ipset restore")?;
        for family in Family::ALL {
            let family = program.family(family);
            writeln!(out, "#")?;
            for (name, set) in &family.sets {
                // A meaning holds what users chose, but never a line's end.
                let meaning = set.meaning.replace(char::is_control, " ");
                writeln!(out, "# {name}: {meaning} ({})", counted(set.members.len(), "member"))?;
            }
            write!(out, "{}", family.ipset_text())?;
        }
    }
    for (section, family, command, number) in [
        (Section::Iptables, Family::V4, "iptables-restore", 2),
        (Section::Ip6tables, Family::V6, "ip6tables-restore", 3),
    ] {
        if wanted(section) {
            writeln!(out, "# {number}. {command} --noflush")?;
            writeln!(out, "#")?;
            for (roles, meaning) in CHAINS {
                if program.family(family).chains.keys().any(|name| roles.contains(&name.role())) {
                    let names: Vec<String> = roles.iter().map(|role| role.names()).collect();
                    writeln!(out, "# {}: {meaning}", names.join(", "))?;
                }
            }
            write!(out, "{}", program.family(family).restore_text())?;
        }
    }
    out.flush()
}

/// The program as JSON, by family.
pub(super) fn json(node: &str, program: &NodeRuleset) -> Value {
    let families: Map<String, Value> =
        Family::ALL.into_iter().map(|f| (f.to_string(), of_family(program.family(f)))).collect();
    json!({"apiVersion": API_VERSION, "kind": "NodeProgram", "node": node, "families": families})
}

fn of_family(program: &FamilyRuleset) -> Value {
    let family = program.family;
    let sets: Map<String, Value> = (program.sets.iter())
        .map(|(name, set)| {
            let members: Vec<String> = set.members.iter().map(ToString::to_string).collect();
            let set = json!({
                "type": set.kind.as_str(), "family": family, "meaning": set.meaning, "members": members,
            });
            (name.to_string(), set)
        })
        .collect();
    let chains: Map<String, Value> = (program.chains.iter())
        .map(|(name, rules)| (name.to_string(), rules.iter().map(|rule| rule_line(family, name, rule)).collect()))
        .collect();
    json!({"sets": sets, "chains": chains})
}
