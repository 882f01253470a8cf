//! The matrix for people: a table, or one line for each allowed pair where a
//! table would be too wide.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use indexmap::IndexMap;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::Groups;
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::flow::End;
use npc_compiler::verdict::matrix::{Cell, Endpoint, EndpointId, EndpointName, Matrix};
use npc_compiler::verdict::outside::{Outside, OutsideBounds, outside, shortest_entries};

use super::elsewhere::{self, Elsewhere};
use super::filter::{Nowhere, OutsideShown};
use crate::command::dead_block;
use crate::command::output::Columns;
use crate::command::words::shorten;

/// A table of more endpoints than this is too large to read.
const TABLE_ENDPOINTS: usize = 16;

/// At most this many names or prefixes are written out; if there are more, only their number is.
const LISTED: usize = 4;

/// What stands for the addresses that belong to no endpoint.
pub(super) const OUTSIDE: &str = "outside";

/// Stands among classes of destinations for another replica of each source.
const REPLICAS: usize = usize::MAX;

/// Classes of destinations, by what passes to them.
type DestinationClasses = BTreeMap<String, Vec<usize>>;

/// What the lines of a matrix say.
struct Merged {
    /// The endpoints of each class, by name.
    alike: Vec<Vec<usize>>,
    /// Sources and what they may send; the class behind the last one is what is outside.
    rows: Vec<(Vec<usize>, DestinationClasses)>,
    from_outside: DestinationClasses,
}

/// A matrix with names that are short and distinct.
pub(super) struct TextMatrix<'a> {
    matrix: &'a Matrix<'a>,
    cluster: &'a Cluster,
    groups: &'a Groups,
    names: Vec<String>,
    /// The places of the endpoints, by name.
    order: Vec<usize>,
    shown: OutsideShown,
    nowhere: Nowhere,
}

impl<'a> TextMatrix<'a> {
    pub(super) fn new(
        matrix: &'a Matrix<'a>,
        cluster: &'a Cluster,
        groups: &'a Groups,
        shown: OutsideShown,
        nowhere: Nowhere,
    ) -> Self {
        // The kind of a workload is left out where the rest is distinct.
        let short = |id: &EndpointId| match id.name() {
            EndpointName::Object { namespace, name, .. } => format!("{namespace}/{name}"),
            EndpointName::Address(address) => address.to_string(),
        };
        let mut count = BTreeMap::<String, usize>::new();
        for endpoint in matrix.endpoints() {
            *count.entry(short(&endpoint.id)).or_default() += 1;
        }
        let name =
            |id: &EndpointId| Some(short(id)).filter(|short| count[short] == 1).unwrap_or_else(|| id.to_string());
        let names: Vec<String> = matrix.endpoints().iter().map(|endpoint| name(&endpoint.id)).collect();
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by(|a, b| names[*a].cmp(&names[*b]));
        Self { matrix, cluster, groups, names, order, shown, nowhere }
    }

    /// What rules admit whose other ends are not in the input.
    pub(super) fn elsewhere(&self) -> Vec<Elsewhere> {
        elsewhere::all(self.matrix, self.cluster, self.groups, self.shown)
    }

    /// The places of the sources and of the destinations, by name.
    fn places(&self) -> (Vec<usize>, Vec<usize>) {
        let shown = |is: fn((bool, bool)) -> bool| {
            let places = self.order.iter().copied();
            places.filter(|place| is(self.matrix.is_shown(*place))).collect()
        };
        (shown(|(from, _)| from), shown(|(_, to)| to))
    }

    /// A table that says everything, however wide.
    pub(super) fn wide(&self, out: &mut impl Write) -> io::Result<()> {
        self.with_legend(out, |text| self.columns(usize::MAX).write(text, "", 1))?;
        elsewhere::text(&self.elsewhere(), &self.names, elsewhere::TEXT, out)?;
        out.flush()
    }

    /// A table, or lines where that is too wide: for a person, with so many
    /// endpoints, or for the terminal, where there is one.
    pub(super) fn fitting(&self, out: &mut impl Write, terminal: Option<usize>) -> io::Result<()> {
        let table = Some(()).filter(|()| self.names.len() <= TABLE_ENDPOINTS).map(|()| self.columns(LISTED));
        match table.filter(|table| terminal.is_none_or(|width| table.width(1) <= width)) {
            // It is said on standard error, with what the input has.
            _ if self.names.is_empty() => {}
            // One more space sets the names of the lines apart.
            Some(table) => self.with_legend(out, |text| table.write(text, "", 1))?,
            None => {
                // As many names in a line as the terminal has room for.
                let merged = self.merged();
                let fits = |lines: &Columns| terminal.is_none_or(|width| lines.width(0) <= width);
                let mut narrower = (1..=LISTED).rev().map(|listed| self.lines(&merged, listed));
                let lines = narrower.find(fits).unwrap_or_else(|| self.lines(&merged, 1));
                self.with_legend(out, |text| lines.write_within(text, "", terminal))?;
            }
        }
        elsewhere::text(&self.elsewhere(), &self.names, elsewhere::TEXT, out)?;
        out.flush()
    }

    fn columns(&self, listed: usize) -> Columns {
        let mut columns = Columns::default();
        columns.push(std::iter::once(String::new()).chain(self.headings()));
        for line in self.grid(listed) {
            columns.push(line);
        }
        columns
    }

    /// The names of the destinations.
    fn headings(&self) -> Vec<String> {
        let (_, to) = self.places();
        let outside = self.shown.to.then(|| OUTSIDE.to_owned());
        let nowhere = self.nowhere.to.iter().cloned();
        to.into_iter().map(|place| self.names[place].clone()).chain(nowhere).chain(outside).collect()
    }

    /// The lines of the table, each with its name.
    fn grid(&self, listed: usize) -> Vec<Vec<String>> {
        let dot = |text: String| if text.is_empty() { ".".to_owned() } else { text };
        let (sources, destinations) = self.places();
        let nothing = || self.nowhere.to.iter().map(|_| ".".to_owned());
        let mut lines: Vec<Vec<String>> = (sources.iter())
            .map(|from| {
                let is_itself = |to: &usize| from == to && !self.matrix.has_replicas(*from);
                let is_address = |place: usize| self.matrix.endpoints()[place].kind == "Address";
                // What passes between two addresses outside is not judged.
                let is_no_pair = |to: &usize| is_itself(to) || (is_address(*from) && is_address(*to));
                let cell = |to: &usize| if is_no_pair(to) { "-".to_owned() } else { dot(self.cell(*from, *to)) };
                let outside = self.shown.to.then(|| dot(self.with_outside(*from, Direction::Egress, listed)));
                let name = std::iter::once(self.names[*from].clone());
                name.chain(destinations.iter().map(cell)).chain(nothing()).chain(outside).collect()
            })
            .collect();
        if self.shown.from {
            let from_outside = destinations.iter().map(|to| dot(self.with_outside(*to, Direction::Ingress, listed)));
            let corner = self.shown.to.then(|| "-".to_owned());
            let from_outside = from_outside.chain(nothing());
            lines.push(std::iter::once(OUTSIDE.to_owned()).chain(from_outside).chain(corner).collect());
        }
        let width = destinations.len() + self.nowhere.to.len() + usize::from(self.shown.to);
        lines.extend(
            self.nowhere
                .from
                .iter()
                .map(|name| std::iter::once(name.clone()).chain(std::iter::repeat_n(".".to_owned(), width)).collect()),
        );
        lines
    }

    /// What passes from one endpoint to another; empty where nothing does.
    fn cell(&self, from: usize, to: usize) -> String {
        let cells: Vec<_> = self.matrix.between(from, to).collect();
        let Some(first) = cells.first() else { return String::new() };
        let has = |place: usize, family| {
            self.matrix.endpoints()[place].addresses.iter().any(|address| Family::of(address) == family)
        };
        let possible = Family::ALL.into_iter().filter(|family| has(from, *family) && has(to, *family)).count();
        let is_same = |cell: &Cell| {
            (&cell.traffic, &cell.unknown, &cell.differs) == (&first.traffic, &first.unknown, &first.differs)
        };
        if cells.len() >= possible && cells.iter().all(is_same) {
            return traffic(first);
        }
        let by_family = cells.iter().map(|cell| match cell.family {
            Some(family) => format!("{family}:{}", traffic(cell)),
            None => traffic(cell),
        });
        by_family.collect::<Vec<_>>().join(" ")
    }

    /// What passes between an endpoint and addresses outside, as far as it is shown.
    pub(super) fn outside(&self, place: usize, direction: Direction) -> OutsideBounds {
        let ends: Vec<End> = self.matrix.ends(place).collect();
        let (from, to) = self.matrix.is_shown(place);
        let is_shown = match direction {
            Direction::Egress => from && self.shown.to,
            Direction::Ingress => to && self.shown.from,
        };
        // Between two addresses there is nothing to say.
        if !is_shown || ends.iter().any(|end| matches!(end, End::Address(_) | End::Unread(_))) {
            return OutsideBounds::default();
        }
        let mut bounds = outside(self.cluster, self.groups, ends, direction);
        let OutsideBounds { allowed, common, differs, unknown } = &mut bounds;
        for entries in [allowed, common, differs, unknown] {
            for entry in &mut *entries {
                entry.traffic = self.matrix.shown(&entry.traffic);
            }
            entries.retain(|entry| !entry.traffic.is_none());
        }
        bounds
    }

    fn with_outside(&self, place: usize, direction: Direction, listed: usize) -> String {
        if self.matrix.ends(place).any(|end| matches!(end, End::Address(_) | End::Unread(_))) {
            return "-".to_owned();
        }
        let OutsideBounds { common, differs, unknown, .. } = self.outside(place, direction);
        let marked = |entry: &Outside, before, behind| dead_block::marked(self.cluster, entry, before, behind);
        let (common, differs, unknown) =
            (shortest_entries(&common), shortest_entries(&differs), shortest_entries(&unknown));
        let common = common.iter().map(|entry| marked(entry, "", ""));
        let differs = differs.iter().map(|entry| marked(entry, "", "~"));
        let unknown = unknown.iter().map(|entry| marked(entry, "?", ""));
        shorten(&common.chain(differs).chain(unknown).collect::<Vec<_>>(), listed, " ")
    }

    /// What the lines say, however many names they have room for. Endpoints that no rule
    /// distinguishes are one, and sources with the same lines share them.
    fn merged(&self) -> Merged {
        let mut alike = self.matrix.alike();
        let by_name = |a: &usize, b: &usize| self.names[*a].cmp(&self.names[*b]);
        for places in &mut alike {
            places.sort_by(by_name);
        }
        alike.sort_by(|a, b| by_name(&a[0], &b[0]));
        // Only what passes is kept, because there are thousands of classes. The row of an endpoint
        // that is alone in its class lacks itself, so no other row is the same.
        let mut by_row = IndexMap::<(Option<usize>, DestinationClasses), Vec<usize>>::new();
        let outside = alike.len();
        for (place, sources) in alike.iter().enumerate() {
            let mut row = DestinationClasses::new();
            for (other, targets) in alike.iter().enumerate() {
                let text = match (place == other, sources.as_slice()) {
                    (true, [one]) if !self.matrix.has_replicas(*one) => continue,
                    (true, [one]) => self.cell(*one, *one),
                    (true, [one, another, ..]) => self.cell(*one, *another),
                    _ => self.cell(sources[0], targets[0]),
                };
                if !text.is_empty() {
                    row.entry(text).or_default().push(other);
                }
            }
            if let Some(text) = self.among_replicas(sources) {
                row.entry(text).or_default().push(REPLICAS);
            }
            row.entry(self.with_outside(sources[0], Direction::Egress, LISTED)).or_default().push(outside);
            let alone = Some(place).filter(|_| sources.len() == 1);
            by_row.entry((alone, row)).or_default().extend(sources);
        }
        let mut from_outside = DestinationClasses::new();
        for (place, targets) in alike.iter().enumerate() {
            let text = self.with_outside(targets[0], Direction::Ingress, LISTED);
            from_outside.entry(text).or_default().push(place);
        }
        let rows = by_row.into_iter().map(|((_, row), sources)| (sources, row)).collect();
        Merged { alike, rows, from_outside }
    }

    /// What passes between the replicas of each of several endpoints that are alike, where it is something
    /// else than between two of the endpoints.
    fn among_replicas(&self, sources: &[usize]) -> Option<String> {
        let [one, another, ..] = sources else { return None };
        let within = Some(self.cell(*one, *one)).filter(|_| self.matrix.has_replicas(*one))?;
        let differs = within != self.cell(*one, *another);
        differs.then(|| if within.is_empty() { "nothing".to_owned() } else { within })
    }

    /// One line for each allowed pair, with so many names; where there are few endpoints, the
    /// other names follow in lines of their own, and of many endpoints it says how many there
    /// are.
    fn lines(&self, merged: &Merged, listed: usize) -> Columns {
        let wraps = self.names.len() <= TABLE_ENDPOINTS;
        // If only a part of the matrix is shown, a line of nothing would say too much.
        let is_whole = self.shown.to && (0..self.names.len()).all(|place| self.matrix.is_shown(place) == (true, true));
        let parts = |names: &[String]| {
            if wraps {
                names.chunks(listed).map(|names| names.join(", ")).collect::<Vec<_>>()
            } else {
                vec![shorten(names, listed, ", ")]
            }
        };
        let mut columns = Columns::default();
        // What is outside comes last.
        let by_name = |a: &String, b: &String| (a == OUTSIDE, a).cmp(&(b == OUTSIDE, b));
        let mut add = |sources: &[String], row: &DestinationClasses| {
            let sources = parts(sources);
            let mut is_silent = true;
            let named = |(text, targets): (&String, &Vec<usize>)| {
                let names = targets.iter().flat_map(|target| match merged.alike.get(*target) {
                    Some(places) => places.iter().map(|place| self.names[*place].clone()).collect(),
                    None if *target == REPLICAS => vec!["another replica of each".to_owned()],
                    None => vec![OUTSIDE.to_owned()],
                });
                let mut names = names.collect::<Vec<_>>();
                names.sort_by(|a, b| by_name(a, b));
                (names, text.clone())
            };
            let shown = row.iter().filter(|(text, _)| !text.is_empty() && *text != "-");
            let mut shown: Vec<(Vec<String>, String)> = shown.map(named).collect();
            shown.sort_by(|(a, _), (b, _)| by_name(&a[0], &b[0]));
            for (names, text) in &shown {
                let targets = parts(names);
                is_silent = false;
                for place in 0..sources.len().max(targets.len()) {
                    let part = |of: &[String]| match of.get(place) {
                        Some(part) if place + 1 < of.len() => format!("{part},"),
                        part => part.cloned().unwrap_or_default(),
                    };
                    let arrow = if place == 0 { "->" } else { "  " };
                    // It stands behind the last name of the list.
                    let text = if place + 1 == targets.len() { text.clone() } else { String::new() };
                    columns.push([part(&sources), format!("{arrow} {}", part(&targets)), text]);
                }
            }
            if is_silent && wraps && is_whole {
                for part in &sources {
                    columns.push([part.clone(), "-> nothing".to_owned()]);
                }
            }
        };
        for (sources, row) in &merged.rows {
            let mut names: Vec<String> = sources.iter().map(|place| self.names[*place].clone()).collect();
            names.sort_unstable();
            add(&names, row);
        }
        if self.shown.from {
            add(&[OUTSIDE.to_owned()], &merged.from_outside);
        }
        columns
    }

    /// Writes a text, and below it what its marks mean. No name of an endpoint has one.
    fn with_legend(&self, out: &mut impl Write, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let mut text = Vec::new();
        write(&mut text)?;
        out.write_all(&text)?;
        if has_shortened(&text) {
            say!("npc: not all names have room here; npc matrix -o wide or -o csv has them all");
        }
        if text.contains(&b'?') {
            writeln!(out, "\n? the input does not say whether this is allowed; npc explain names the missing fact")?;
        }
        if text.contains(&b'~') {
            writeln!(out, "\n~ replicas differ: this is allowed for some of them; --by pod shows which")?;
            let is_bare = |endpoint: &Endpoint| endpoint.addresses.is_empty();
            if Family::ALL.iter().all(|of| self.cluster.assigns_family(*of))
                && self.matrix.endpoints().iter().any(is_bare)
            {
                writeln!(out, "  or, of pods without an address yet: IPv4 and IPv6 differ; npc explain shows how")?;
            }
        }
        if text.contains(&b'!') {
            writeln!(out, "\n{} {}", dead_block::MARK, dead_block::DEAD)?;
        }
        Ok(())
    }

    pub(super) fn markdown(&self, out: &mut impl Write) -> io::Result<()> {
        let line = |cells: &mut dyn Iterator<Item = &String>| {
            let escaped = cells.map(|cell| cell.replace('|', "\\|").replace('*', "\\*"));
            format!("| {} |", escaped.collect::<Vec<_>>().join(" | "))
        };
        let (from, headings) = ("from \\ to".to_owned(), self.headings());
        writeln!(out, "{}", line(&mut std::iter::once(&from).chain(&headings)))?;
        writeln!(out, "|{}", " --- |".repeat(headings.len() + 1))?;
        for cells in self.grid(usize::MAX) {
            writeln!(out, "{}", line(&mut cells.iter()))?;
        }
        elsewhere::text(&self.elsewhere(), &self.names, elsewhere::MARKDOWN, out)?;
        out.flush()
    }

    pub(super) fn dot(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "digraph connectivity {{")?;
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let nowhere: BTreeSet<&String> = self.nowhere.from.iter().chain(&self.nowhere.to).collect();
        for name in self.names.iter().chain(nowhere) {
            writeln!(out, "  {};", quoted(name))?;
        }
        writeln!(out, "  {} [shape=box];", quoted(OUTSIDE))?;
        let mut edge = |from: &str, to: &str, text: &str| match text {
            "" | "-" => Ok(()),
            _ => writeln!(out, "  {} -> {} [label={}];", quoted(from), quoted(to), quoted(text)),
        };
        for (from, reached) in self.matrix.reached() {
            let name = &self.names[from];
            for to in reached.iter().copied().filter(|to| *to != from || self.matrix.has_replicas(from)) {
                edge(name, &self.names[to], &self.cell(from, to))?;
            }
            edge(name, OUTSIDE, &self.with_outside(from, Direction::Egress, LISTED))?;
            edge(OUTSIDE, name, &self.with_outside(from, Direction::Ingress, LISTED))?;
        }
        writeln!(out, "}}")?;
        elsewhere::text(&self.elsewhere(), &self.names, elsewhere::DOT, out)?;
        out.flush()
    }
}

/// Whether a text has `+21 more` in place of names.
fn has_shortened(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.match_indices(" more").any(|(at, _)| {
        let number = text[..at].trim_end_matches(|c: char| c.is_ascii_digit());
        number.len() < at && number.ends_with('+')
    })
}

/// What a cell says: `*`, `5432`, `5432~` for some replicas, `?443` where that is not known.
fn traffic(cell: &Cell) -> String {
    let common = cell.traffic.difference(&cell.differs);
    let mut parts = Vec::new();
    if !common.is_none() {
        parts.push(common.to_string());
    }
    if !cell.differs.is_none() {
        parts.push(format!("{}~", cell.differs));
    }
    if !cell.unknown.is_none() {
        let is_rest = cell.unknown.intersection(&cell.traffic).is_none();
        let is_all = cell.unknown.is_all() || (is_rest && cell.traffic.union(&cell.unknown).is_all());
        parts.push(if is_all { "?*".to_owned() } else { format!("?{}", cell.unknown) });
    }
    parts.join(" ")
}
