//! The table: which pod reaches which, expected against seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use npc_compiler::object::Protocol;

use super::judge::{Judged, Judgement, RETRIES};
use super::{Kind, Lab, Payload, Place, Probe, Seen};

/// Everything was denied, as it should be.
const DENIED: &str = "·";
/// Everything was allowed, as it should be.
const ALLOWED: &str = "✓";
/// Some of it was allowed, as it should be, but not to be said in a few ports.
const PARTLY: &str = "◐";
/// Something was not as it should be.
const WRONG: &str = "✗";
/// How many ports a cell lists at most.
const LISTED: usize = 2;
/// How many flows are named that were not as they should be.
const NAMED: usize = 50;
/// How many ports of each.
const NAMED_PORTS: usize = 6;

/// How many probes agreed, of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many were as they should be.
    pub agreed: usize,
    /// How many there were in all.
    pub of: usize,
}

impl Count {
    fn add(&mut self, agrees: bool) {
        self.agreed += usize::from(agrees);
        self.of += 1;
    }
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.agreed += other.agreed;
        self.of += other.of;
    }
}

/// Counts per kind of probe: `TCP`, `UDP`, `SCTP`, `ICMP`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, Count>);

impl Counts {
    /// Counts probes.
    #[must_use]
    pub fn of(judgement: &Judgement) -> Self {
        let mut counts = Self::default();
        for judged in &judgement.judged {
            counts.0.entry(judged.probe.payload.kind()).or_default().add(judged.agrees());
        }
        counts
    }

    /// Takes in the counts of another judgement.
    pub fn extend(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind).or_default() += *count;
        }
    }

    /// The sum.
    #[must_use]
    pub fn total(&self) -> Count {
        let mut total = Count::default();
        self.0.values().for_each(|count| total += *count);
        total
    }

    /// The last line of a report: `12 of 12 probes agreed (TCP 8 of 8, …)`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Count { agreed, of } = self.total();
        let order = ["TCP", "UDP", "SCTP", "ICMP"];
        let parts = order.iter().filter_map(|kind| self.0.get(kind).map(|count| (kind, count)));
        let parts: Vec<String> =
            parts.map(|(kind, count)| format!("{kind} {} of {}", grouped(count.agreed), grouped(count.of))).collect();
        format!("{} of {} probes agreed ({})", grouped(agreed), grouped(of), parts.join(", "))
    }
}

/// The table of one lab and its mismatches.
#[must_use]
pub fn table(lab: &Lab, judgement: &Judgement) -> String {
    let mut text = heading(lab, judgement);
    let judged = &judgement.judged;
    let cells = cells(judged);
    text.push_str(&grid(lab.places(), &cells));
    for way in [Way::Service, Way::Forged, Way::LinkLocal] {
        let chosen: Vec<&Judged> = judged.iter().filter(|one| Way::of(&one.probe) == way).collect();
        if chosen.is_empty() {
            continue;
        }
        let wrong = chosen.iter().filter(|j| !j.agrees()).count();
        let allowed = chosen.iter().filter(|j| j.expected.allowed()).count();
        let mark = if wrong == 0 { ALLOWED.to_owned() } else { format!("{WRONG} {wrong} wrong") };
        let _ = writeln!(
            text,
            "{}: {} probes, {} of them allowed  {mark}",
            way.as_str(),
            grouped(chosen.len()),
            grouped(allowed)
        );
    }
    if judgement.retried > 0 {
        let _ = writeln!(text, "{} probes were sent again, at most {RETRIES} times", grouped(judgement.retried));
    }
    text.push_str(&mismatches(lab.places(), judged));
    text
}

/// The ways that a probe can take. Only the direct one has cells in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Service,
    Forged,
    LinkLocal,
}

impl Way {
    fn of(probe: &Probe) -> Self {
        match probe {
            _ if probe.forged => Self::Forged,
            _ if probe.via.is_some() => Self::Service,
            _ if probe.is_link_local() => Self::LinkLocal,
            _ => Self::Direct,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "directly",
            Self::Service => "through Services",
            Self::Forged => "with forged sources",
            Self::LinkLocal => "by link-local addresses",
        }
    }
}

fn heading(lab: &Lab, judgement: &Judgement) -> String {
    let count = |kind: fn(&Kind) -> bool| lab.places().iter().filter(|place| kind(&place.kind)).count();
    let outside = lab.places().iter().find(|place| place.kind == Kind::Outside);
    format!(
        "{} pods on {} nodes, {}, iptables-{}; {} outside addresses; {} probes\n\n",
        count(|kind| matches!(kind, Kind::Pod { .. })),
        count(|kind| *kind == Kind::Node),
        lab.mode().as_str(),
        lab.backend().as_str(),
        outside.map_or(0, |place| place.addresses.len()),
        grouped(judgement.judged.len()),
    )
}

/// What the direct probes between two places say.
#[derive(Debug, Default)]
struct Cell {
    wrong: bool,
    allowed: BTreeSet<Payload>,
    denied: BTreeSet<Payload>,
}

fn cells(judged: &[Judged]) -> BTreeMap<(usize, usize), Cell> {
    let mut cells: BTreeMap<(usize, usize), Cell> = BTreeMap::new();
    for one in judged.iter().filter(|one| Way::of(&one.probe) == Way::Direct) {
        let cell = cells.entry((one.probe.from, one.probe.to)).or_default();
        cell.wrong |= !one.agrees();
        let side = if one.expected.allowed() { &mut cell.allowed } else { &mut cell.denied };
        side.insert(one.probe.payload);
    }
    cells
}

impl Cell {
    fn mark(&self) -> String {
        if self.wrong {
            return WRONG.to_owned();
        }
        if self.denied.is_empty() {
            return ALLOWED.to_owned();
        }
        if self.allowed.is_empty() {
            return DENIED.to_owned();
        }
        let ports: Vec<String> = self.allowed.iter().map(|payload| short(*payload)).collect();
        // What is allowed at one address of the place and denied at another
        // cannot be said in ports.
        let plain = self.allowed.is_disjoint(&self.denied) && ports.len() <= LISTED;
        if plain { ports.join(",") } else { PARTLY.to_owned() }
    }
}

fn short(payload: Payload) -> String {
    match payload {
        Payload::Port(Protocol::Tcp, port) => port.to_string(),
        Payload::Port(protocol, port) => format!("{port}/{}", protocol.lower()),
        Payload::Icmp => "icmp".to_owned(),
    }
}

/// Rows are sources, columns destinations, both in the order pods, nodes,
/// outside; columns go by number.
fn grid(places: &[Place], cells: &BTreeMap<(usize, usize), Cell>) -> String {
    let mut order: Vec<usize> = (0..places.len()).filter(|index| !places[*index].addresses.is_empty()).collect();
    order.sort_by_key(|index| (rank(&places[*index]), places[*index].name.as_str()));
    let mark = |from, to| cells.get(&(from, to)).map(Cell::mark).unwrap_or_default();
    let numbers: Vec<String> = (1..=order.len()).map(|number| number.to_string()).collect();
    let widths: Vec<usize> = (order.iter().zip(&numbers))
        .map(|(to, number)| {
            let marks = order.iter().map(|from| mark(*from, *to).chars().count());
            marks.chain([number.len()]).max().unwrap_or_default()
        })
        .collect();
    let side = numbers.last().map_or(1, String::len);
    let names = order.iter().map(|index| places[*index].name.chars().count()).max().unwrap_or_default();
    let mut text = format!("{:side$} {:names$}", "", "from \\ to");
    for (number, width) in numbers.iter().zip(&widths) {
        let _ = write!(text, "  {number:width$}");
    }
    text = text.trim_end().to_owned() + "\n";
    for (from, number) in order.iter().zip(&numbers) {
        let mut row = format!("{number:>side$} {:names$}", places[*from].name);
        for (to, width) in order.iter().zip(&widths) {
            let _ = write!(row, "  {:width$}", mark(*from, *to));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "\n{ALLOWED} all allowed   {DENIED} all denied   80 only that   {PARTLY} in part   {WRONG} wrong\n"
    );
    text
}

fn rank(place: &Place) -> u8 {
    match place.kind {
        Kind::Pod { .. } => 0,
        Kind::Node => 1,
        Kind::Outside => 2,
    }
}

/// The mismatches, one line for those that differ in nothing but the port.
fn mismatches(places: &[Place], judged: &[Judged]) -> String {
    let mut lines: BTreeMap<(String, String), Vec<Payload>> = BTreeMap::new();
    for one in judged.iter().filter(|one| !one.agrees()) {
        lines.entry((flow(places, one), verdicts(places, one))).or_default().push(one.probe.payload);
    }
    let mut text = String::new();
    for ((flow, verdicts), payloads) in lines.iter().take(NAMED) {
        let mut ports: Vec<String> = payloads.iter().take(NAMED_PORTS).map(ToString::to_string).collect();
        if payloads.len() > NAMED_PORTS {
            ports.push(format!("and {} more", payloads.len() - NAMED_PORTS));
        }
        let _ = writeln!(text, "{WRONG} {flow}  {}: {verdicts}", ports.join(", "));
    }
    if lines.len() > NAMED {
        let _ = writeln!(text, "{WRONG} … and {} more flows", grouped(lines.len() - NAMED));
    }
    text
}

/// One probe in words.
#[must_use]
pub fn sentence(places: &[Place], judged: &Judged) -> String {
    format!("{}  {}: {}", flow(places, judged), judged.probe.payload, verdicts(places, judged))
}

/// Sender, receiver and protocol of a probe, without the port.
fn flow(places: &[Place], judged: &Judged) -> String {
    let probe = &judged.probe;
    let from = &places[probe.from];
    let mut text = from.name.clone();
    if let Some(source) = probe.source.or(from.address(probe.family())) {
        let _ = write!(text, " ({}{source})", if probe.forged { "forged as " } else { "" });
    }
    let _ = write!(text, " -> {} ({})", places[probe.to].name, probe.address);
    if let Some(via) = probe.via {
        let _ = write!(text, " through {} port {}", via.address, via.port);
    }
    text
}

/// What was expected, and what was seen.
fn verdicts(places: &[Place], judged: &Judged) -> String {
    let Judged { expected, seen, .. } = judged;
    let says = |yes| if yes { "allows" } else { "denies" };
    let mut text = format!("expected {}", if expected.allowed() { "allowed" } else { "denied" });
    let _ = write!(text, " (egress {}, ingress {}), seen ", says(expected.egress), says(expected.ingress));
    match seen {
        Seen::Arrived => text.push_str("arriving"),
        Seen::Astray(place) => {
            let _ = write!(text, "arriving at {}", places[*place].name);
        }
        Seen::Nothing => text.push_str("nothing"),
        Seen::Refused(why) => text.push_str(why),
        Seen::Unsent(why) => {
            let _ = write!(text, "nothing, for it could not be sent: {why}");
        }
    }
    text
}

/// A number with its thousands apart: `12,345`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([7, 1000, 123_456, 1_234_567].map(grouped), ["7", "1,000", "123,456", "1,234,567"]);
    }

    #[test]
    fn a_cell_says_as_much_as_fits() {
        let tcp = |port| Payload::Port(Protocol::Tcp, port);
        let cell = |allowed: &[Payload], denied: &[Payload]| {
            let (allowed, denied) = (allowed.iter().copied().collect(), denied.iter().copied().collect());
            Cell { wrong: false, allowed, denied }.mark()
        };
        assert_eq!(cell(&[tcp(80)], &[]), ALLOWED);
        assert_eq!(cell(&[], &[tcp(80)]), DENIED);
        assert_eq!(cell(&[tcp(80), Payload::Port(Protocol::Udp, 53)], &[tcp(81)]), "80,53/udp");
        assert_eq!(cell(&[tcp(80), tcp(81), tcp(82)], &[tcp(83)]), PARTLY);
        assert_eq!(cell(&[tcp(80)], &[tcp(80)]), PARTLY);
    }
}
