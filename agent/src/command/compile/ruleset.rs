//! One node's ruleset as text and as JSON.

use std::io::{self, Write};

use npc_agent::words::counted::counted;
use npc_compiler::API_VERSION;
use npc_compiler::object::Family;
use npc_compiler::ruleset::node::{FORWARD_CHAIN, FamilyRuleset, NodeRuleset};
use npc_compiler::ruleset::text::rule_line;
use serde_json::{Map, Value, json};

use crate::command::input::Input;
use crate::command::roles::{self, RoleWords};
use crate::command::warning;

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

/// The ruleset as each of the three programs reads it; all of them pass over
/// the comments.
pub(super) fn text(node: &str, ruleset: &NodeRuleset, only: Option<Section>, out: &mut impl Write) -> io::Result<()> {
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
            let family = ruleset.family(family);
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
            for roles in roles::ORDER {
                if ruleset.family(family).chains.keys().any(|name| roles.contains(&name.role())) {
                    let names: Vec<String> = roles.iter().map(|role| role.names()).collect();
                    let RoleWords { what, more } = roles::of_chain(roles[0]);
                    let more = if more.is_empty() { String::new() } else { format!("; {more}") };
                    writeln!(out, "# {}: {what}{more}", names.join(", "))?;
                }
            }
            write!(out, "{}", ruleset.family(family).restore_text())?;
        }
    }
    out.flush()
}

/// The ruleset as JSON, by family, and what a reader should know about the input.
pub(super) fn json(input: &Input, node: &str, ruleset: &NodeRuleset) -> Value {
    let families: Map<String, Value> =
        Family::ALL.into_iter().map(|f| (f.to_string(), of_family(ruleset.family(f)))).collect();
    let warnings = input.with_passed_over(input.warnings.clone());
    json!({
        "apiVersion": API_VERSION, "kind": "NodeProgram", "node": node, "families": families,
        "warnings": warning::texts(&warnings), "unknowns": input.unread_policies(),
        "findings": input.findings_with(&warnings),
    })
}

fn of_family(ruleset: &FamilyRuleset) -> Value {
    let family = ruleset.family;
    let sets: Map<String, Value> = (ruleset.sets.iter())
        .map(|(name, set)| {
            let members: Vec<String> = set.members.iter().map(ToString::to_string).collect();
            let set = json!({
                "type": set.kind.as_str(), "family": family, "meaning": set.meaning, "members": members,
            });
            (name.to_string(), set)
        })
        .collect();
    let chains: Map<String, Value> = (ruleset.chains.iter())
        .map(|(name, rules)| (name.to_string(), rules.iter().map(|rule| rule_line(family, name, rule)).collect()))
        .collect();
    json!({"sets": sets, "chains": chains})
}
