//! The answer for people.

use std::io::{self, Write};

use super::answer::{Basis, Endpoint, KernelExplanation, RuleAnswer};
use crate::command::output::{Columns, FAINT, width};
use crate::command::words::shorten;

/// At most this many endpoints and policies are written out.
const LISTED: usize = 8;

/// Writes it.
pub(super) fn write(answer: &KernelExplanation, out: &mut impl Write) -> io::Result<()> {
    body(answer, out)?;
    for text in &answer.unknowns {
        writeln!(out, "\nunknown: not read, and may change this: {text}")?;
    }
    for warning in &answer.warnings {
        writeln!(out, "\n{warning}")?;
    }
    out.flush()
}

fn body(answer: &KernelExplanation, out: &mut impl Write) -> io::Result<()> {
    let mut title = vec![answer.role.clone()];
    title.extend(answer.direction.map(|direction| direction.as_str().to_lowercase()));
    let families: Vec<String> = answer.families.iter().map(ToString::to_string).collect();
    title.extend((!families.is_empty()).then(|| families.join(" ")));
    title.extend(answer.node.clone());
    writeln!(out, "{}  {}", answer.thing, title.join(", "))?;
    if answer.owner.as_deref() != Some("npc") {
        let unknown = match answer.is {
            "address" => "no set and no chain of npc is about it",
            // Only a rule of npc's own chains is explained.
            _ if !answer.rules.is_empty() => "another program, or another version of npc",
            _ => "another program; npc does not know its names",
        };
        let owner = answer.owner.as_deref().unwrap_or(unknown);
        return writeln!(out, "  of       {owner}");
    }
    if let Some(state) = state(answer) {
        writeln!(out, "  now      {state}")?;
    }
    for line in &answer.differs {
        writeln!(out, "  now      {line}")?;
    }
    if !answer.judges.is_empty() {
        let names: Vec<String> = answer.judges.iter().map(|one| one.full_name.clone()).collect();
        let word = if answer.is == "address" { "endpoint" } else { "judges  " };
        writeln!(out, "  {word} {}{}", shorten(&names, LISTED, ", "), addresses(&answer.judges))?;
    }
    if !answer.policies.is_empty() || answer.more_policies > 0 {
        let names: Vec<String> = answer.policies.iter().map(|one| format!("networkpolicy {}", one.policy)).collect();
        let mut names = shorten(&names, LISTED, ", ");
        if answer.more_policies > 0 {
            names = format!("{names}, +{} more", answer.more_policies);
        }
        let verb = match (answer.is, answer.policies.len().saturating_add(answer.more_policies)) {
            ("set", 1) => "asks for it",
            ("set", _) => "ask for it",
            ("address", 1) => "isolates it",
            ("address", _) => "isolate it",
            (_, 1) => "selects them",
            _ => "select them",
        };
        writeln!(out, "  because  {names} {verb}")?;
    }
    for chain in &answer.chains {
        let direction = chain.direction.as_str().to_lowercase();
        match &chain.chain {
            Some(name) => writeln!(out, "  {direction:8} judged by {name} ({})", chain.policies.join(", "))?,
            None if chain.desired.is_some() => writeln!(out, "  {direction:8} judged by no chain")?,
            None => writeln!(out, "  {direction:8} not isolated: no policy judges it")?,
        }
    }
    let mut columns = Columns::default();
    for rule in &answer.rules {
        columns.push(line(answer, rule));
    }
    for set in &answer.sets {
        columns.push(["in set".to_owned(), set.set.clone(), set.meaning.clone()]);
    }
    columns.write_within(out, "  ", width())?;
    if answer.basis == Some(Basis::Policies) {
        writeln!(out, "{FAINT}  by what the policies ask for; no kernel was read{FAINT:#}")?;
    }
    if !answer.seed_known {
        writeln!(
            out,
            "{FAINT}  the secret of the node is not known: names in its dispatch tree are others (--seed, or --ipset-save){FAINT:#}"
        )?;
    }
    Ok(())
}

/// What the kernel and the policies say of it, if they do not agree.
fn state(answer: &KernelExplanation) -> Option<&'static str> {
    // For an address each line says it.
    if answer.is == "address" {
        return None;
    }
    match (answer.actual, answer.desired) {
        (Some(true) | None, true) => None,
        (Some(true), false) => Some(
            "in the kernel; the policies of the input do not ask for it: they changed since, or the group is retained, \
             or it is of another node",
        ),
        (Some(false), true) => Some("not in the kernel, though the policies of the input ask for it"),
        (Some(false), false) => Some(
            "neither in the kernel nor asked for by the policies of the input: it is of an older state, \
             of another node, or of an agent with other flags (--log-denied, --allow-tunnels, …)",
        ),
        (None, false) => Some(
            "the policies of the input do not ask for it: it is of an older state, of another node, or of an agent with \
             flags that npc why was not given (--log-denied, --allow-tunnels, …)",
        ),
    }
}

/// A rule, the rules of policies that it came from, and where these stand.
fn line(answer: &KernelExplanation, rule: &RuleAnswer) -> [String; 3] {
    let number = rule.number.map_or_else(|| "rule".to_owned(), |number| format!("rule {number}"));
    let is_of_both = || answer.rules.iter().any(|other| other.family != rule.family);
    let before = match answer.is {
        "set" => format!("{} {number}", rule.chain),
        _ if is_of_both() => format!("{} {number}", rule.family),
        _ => number,
    };
    let mut origins: Vec<String> = Vec::new();
    let mut policy = "";
    for origin in &rule.origins {
        let name = if origin.policy == policy { String::new() } else { format!("{} ", origin.policy) };
        policy = &origin.policy;
        let place = origin.location.as_ref().map(|place| format!("  {place}")).unwrap_or_default();
        origins.push(format!("{name}{}{place}", origin.path));
    }
    if rule.more > 0 {
        origins.push(format!("+{} more", rule.more));
    }
    [before, rule.means.clone(), origins.join(", ")]
}

/// The addresses of endpoints.
fn addresses(endpoints: &[Endpoint]) -> String {
    let all: Vec<String> = endpoints.iter().flat_map(|endpoint| &endpoint.addresses).map(ToString::to_string).collect();
    if all.is_empty() { String::new() } else { format!(" ({})", shorten(&all, LISTED, ", ")) }
}
