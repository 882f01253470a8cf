//! The answer for people.

use std::io::{self, Write};

use npc_agent::words::counted::counted;

use super::node::NodeKernel;
use super::report::{ChangedFlows, FlowSide, MigrationReport};
use crate::command::output::{BAD, Columns, DOUBT, FAINT, GOOD, width};
use crate::command::words::{blocks, shorten};

/// At most this many workloads or prefixes are named on one side of a line.
const LISTED: usize = 4;

pub(super) fn write(report: &MigrationReport<'_>, out: &mut impl Write) -> io::Result<()> {
    let items = &report.differences;
    for same in items.chunk_by(|a, b| a.code == b.code) {
        let [first, ..] = same else { continue };
        writeln!(out, "{}: {}", first.code, first.explanation)?;
        writeln!(out, "{FAINT}  = help: {}{FAINT:#}", first.advice)?;
        for item in same {
            writeln!(out)?;
            heading(item, out)?;
            flows(item, out)?;
        }
        writeln!(out)?;
    }
    let count = |change: &str| items.iter().filter(|item| item.change == change).count();
    match (count("NewlyDenied"), count("NewlyAllowed")) {
        (0, 0) if !report.unknowns.is_empty() => {
            writeln!(out, "{DOUBT}of what was read, no flow's verdict differs from Azure NPM's{DOUBT:#}")?;
        }
        (0, 0) => writeln!(out, "{GOOD}no flow's verdict differs from Azure NPM's{GOOD:#}")?,
        (denied, allowed) => writeln!(
            out,
            "npc will deny what Azure NPM allows at {}, and allow what it denies at {allowed}",
            counted(denied, "place")
        )?,
    }
    for unknown in &report.unknowns {
        writeln!(out, "unknown: not read, and may change flows: {unknown}")?;
    }
    writeln!(out)?;
    writeln!(out, "whatever the policies:")?;
    for note in &report.notes {
        writeln!(out, "  {}: {}", note.code, note.text)?;
    }
    if let Some(state) = report.node {
        writeln!(out)?;
        node(state, out)?;
    }
    out.flush()
}

/// Where it is: the policy, the field, the place in the file.
fn heading(item: &ChangedFlows, out: &mut impl Write) -> io::Result<()> {
    let mut words = Vec::new();
    if let Some(service) = &item.service {
        words.push(format!("service {service}"));
    }
    let policies: Vec<String> =
        item.policies.iter().map(|policy| format!("{}/{}", policy.namespace, policy.name)).collect();
    if !policies.is_empty() {
        words.push(format!("networkpolicy {}", shorten(&policies, LISTED, ", ")));
    }
    words.extend(item.path.clone());
    words.extend(item.direction.map(|direction| format!("({})", direction.to_lowercase())));
    if let Some(place) = &item.location {
        words.push(format!("{FAINT}{place}{FAINT:#}"));
    }
    writeln!(out, "  {}", words.join("  "))?;
    item.problem.iter().try_for_each(|problem| writeln!(out, "    {problem}"))
}

fn flows(item: &ChangedFlows, out: &mut impl Write) -> io::Result<()> {
    let (sign, style) = if item.change == "NewlyAllowed" { ("+", GOOD) } else { ("-", BAD) };
    let mut columns = Columns::default();
    for flow in &item.flows {
        let to = if flow.to_itself { "itself, by the Service".to_owned() } else { names(&flow.to) };
        columns
            .after(format!("{style}{sign}{style:#} "), [names(&flow.from), format!("-> {to}"), flow.text.to_string()]);
    }
    columns.write_within(out, "    ", width())
}

/// The ends on a side: `shop/web, shop/api (2 of 3 pods), outside 10.0.0.0/8`.
fn names(side: &FlowSide) -> String {
    let mut names: Vec<String> = (side.workloads.iter())
        .map(|workload| match (workload.pods, workload.of) {
            (pods, of) if pods == of => workload.name.clone(),
            (pods, of) => format!("{} ({pods} of {of} pods)", workload.name),
        })
        .collect();
    match side.prefixes.as_slice() {
        [] => {}
        [all] if all.length == 0 => names.push("outside".to_owned()),
        prefixes => names.push(format!("outside {}", shorten(&blocks(prefixes), LISTED, " "))),
    }
    shorten(&names, LISTED, ", ")
}

fn node(state: &NodeKernel, out: &mut impl Write) -> io::Result<()> {
    if state.differs.is_empty() {
        writeln!(out, "{GOOD}npc's rules hold in this kernel{GOOD:#} (node {}, {})", state.name, state.backend)?;
    } else {
        writeln!(out, "{BAD}npc's rules do not hold in this kernel{BAD:#} (node {}, {}):", state.name, state.backend)?;
        for line in shorten_lines(&state.differs) {
            writeln!(out, "  {line}")?;
        }
    }
    if let Some(why) = &state.options_guessed {
        writeln!(
            out,
            "  compared by the options that come nearest to this kernel, because the agent's are not known: {why}"
        )?;
    }
    let azure = &state.azure_npm;
    if azure.tables.is_empty() && azure.sets == 0 {
        return writeln!(out, "there is nothing of Azure NPM in this kernel");
    }
    for table in &azure.tables {
        let place = match (table.jumps, table.behind_npc) {
            (0, _) => "no jump leads to them",
            _ if table.backend != state.backend => "in the other packet filter, so both judge every packet",
            (_, true) => "npc judges before them",
            (_, false) => "they judge before npc, and what they accept npc does not see",
        };
        writeln!(
            out,
            "Azure NPM: {} chains in the filter table ({}, {}); {place}",
            table.chains, table.backend, table.family
        )?;
        if table.forward_drops {
            writeln!(
                out,
                "  FORWARD's policy is DROP: without Azure NPM's ACCEPT, what no other rule accepts is dropped"
            )?;
        }
    }
    writeln!(out, "Azure NPM: {} sets", azure.sets)?;
    match azure.processes {
        0 => writeln!(out, "Azure NPM: no process of its name is seen from here"),
        _ => writeln!(out, "Azure NPM: it runs"),
    }
}

fn shorten_lines(lines: &[String]) -> Vec<String> {
    const SHOWN: usize = 20;
    let mut shown: Vec<String> = lines.iter().take(SHOWN).cloned().collect();
    if lines.len() > SHOWN {
        shown.push(format!("+{} more", lines.len() - SHOWN));
    }
    shown
}
