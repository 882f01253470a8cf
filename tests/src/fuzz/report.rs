//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;

use super::arrival::Arrival;
use super::shape::Shape;
use super::world::World;

/// What arrived at a place.
#[derive(Debug, Clone, Default)]
struct Tally {
    frames: usize,
    longest: usize,
    others: usize,
}

/// A shape that arrived, and is on no list or known to be open.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What it is known as.
    pub kind: &'static str,
    /// The number of the shape, by which to send it again.
    pub index: u32,
    /// The shape.
    pub shape: Shape,
    /// The station where it arrived.
    pub at: usize,
    /// How long it was.
    pub bytes: usize,
    /// How it began.
    pub head: Vec<u8>,
    /// The simplest shape that arrived there too, if one was searched for.
    pub simple: Option<Shape>,
}

/// How much of a frame is printed: Ethernet, IPv6 and some of what follows.
const HEAD: usize = 14 + 40 + 16;

/// The kind of what nothing explains.
pub const UNKNOWN: &str = "unknown";

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    world: World,
    seed: u64,
    sent: usize,
    unsent: usize,
    /// The shape, if it was one.
    pub(super) only: Option<Shape>,
    tallies: BTreeMap<(&'static str, bool), Tally>,
    /// What shapes that arrived had.
    pub kinds: BTreeMap<&'static str, usize>,
    /// What is not on the closed list.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(world: &World, seed: u64) -> Self {
        let (world, tallies, findings) = (world.clone(), BTreeMap::new(), Vec::new());
        Self { world, seed, sent: 0, unsent: 0, only: None, tallies, kinds: BTreeMap::new(), findings }
    }

    pub(super) fn sent(&mut self, is_sent: bool) {
        if is_sent { self.sent += 1 } else { self.unsent += 1 }
    }

    pub(super) fn arrived(
        &mut self,
        index: u32,
        (arrival, frame): (&Arrival<'_>, &[u8]),
        explained: Option<(&'static str, bool)>,
    ) {
        let (kind, is_closed) = explained.unwrap_or((UNKNOWN, false));
        let tally = self.tallies.entry((kind, is_closed)).or_default();
        tally.frames += 1;
        tally.others += usize::from(arrival.is_others);
        tally.longest = tally.longest.max(arrival.bytes);
        if arrival.answer.is_none() {
            arrival.shape.kinds().into_iter().for_each(|kind| *self.kinds.entry(kind).or_default() += 1);
        }
        let is_new = !self.findings.iter().any(|finding| finding.index == index && finding.at == arrival.at);
        if !is_closed && is_new {
            let (shape, at, bytes) = (arrival.shape.clone(), arrival.at, arrival.bytes);
            let head = frame.iter().copied().take(HEAD).collect();
            self.findings.push(Finding { kind, index, shape, at, bytes, head, simple: None });
        }
    }

    /// The first findings of each kind.
    pub(super) fn first_of_each(&mut self, each: usize) -> Vec<&mut Finding> {
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        let first = |finding: &&mut Finding| {
            let count = counts.entry(finding.kind).or_default();
            *count += 1;
            *count <= each
        };
        self.findings.iter_mut().filter(first).collect()
    }

    /// The findings of a kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.kind == kind)
    }

    /// How many frames arrived for a reason of the closed list.
    #[must_use]
    pub fn explained(&self, name: &str) -> usize {
        self.tallies.iter().filter(|((kind, _), _)| *kind == name).map(|(_, tally)| tally.frames).sum()
    }

    /// A finding with all that is needed to send it again.
    fn describe(&self, finding: &Finding, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |place: usize| self.world.stations[place].name.as_str();
        let Finding { kind, index, at, bytes, shape, simple, head } = finding;
        let Shape { from, to, .. } = shape;
        let (from, to, at) = (name(*from), name(*to), name(*at));
        writeln!(f, "  {kind}: from {from}, meant for {to}, arrived at {at} with {bytes} bytes")?;
        writeln!(f, "    NPC_FUZZ_SEED={} NPC_FUZZ_FIRST={index} NPC_FUZZ_SHAPES=1", self.seed)?;
        writeln!(f, "    {shape:?}")?;
        f.write_str("    as it came: ")?;
        head.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        writeln!(f)?;
        match simple {
            Some(simple) if simple != shape => writeln!(f, "    simpler: {simple:?}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} shapes sent, {} that no interface takes", self.sent, self.unsent)?;
        if let Some(shape) = &self.only {
            writeln!(f, "  {shape:?}")?;
        }
        for ((kind, is_closed), Tally { frames, longest, others }) in &self.tallies {
            let list = if *is_closed { "closed list" } else { "NOT on the closed list" };
            writeln!(f, "  {kind} ({list}): {frames} frames, {others} for other stations, at most {longest} bytes")?;
        }
        let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in &self.findings {
            let count = shown.entry(finding.kind).or_default();
            *count += 1;
            if *count <= 4 {
                self.describe(finding, f)?;
            }
        }
        Ok(())
    }
}
