//! The lines of a file that a miss is about, with what is to see in them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use npc_agent::source::manifests::{Location, Positions};

use crate::command::output::{BAD, FAINT};

/// A longer line helps no reader: the place is said anyway. JSON is often one
/// line.
const LINE_MAX: usize = 160;

/// A stretch of the text and what is said of it.
pub(super) struct Mark {
    pub(super) place: Location,
    pub(super) text: String,
    /// Whether it is where the rule fails.
    pub(super) is_miss: bool,
}

/// Draws the marked lines of one file.
pub(super) fn draw(positions: &Positions, marks: &[Mark], out: &mut impl Write) -> io::Result<()> {
    let mut lines = BTreeMap::<u32, Vec<&Mark>>::new();
    let is_short = |mark: &&Mark| {
        let line = positions.line(&mark.place.file, mark.place.line());
        line.is_some_and(|line| line.chars().count() <= LINE_MAX)
    };
    for mark in marks.iter().filter(is_short) {
        lines.entry(mark.place.line()).or_default().push(mark);
    }
    let width = lines.keys().last().map_or(1, |line| line.to_string().len());
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "{:width$} {FAINT}|{FAINT:#}", "")?;
    for (line, marks) in lines {
        let Some(source) = marks.first().and_then(|mark| positions.line(&mark.place.file, line)) else { continue };
        // A file may hold anything; a terminal should not get it.
        let source: String = source.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        writeln!(out, "{FAINT}{line:width$} |{FAINT:#} {source}")?;
        for mark in marks {
            let span = mark.place.span;
            let start = usize::try_from(span.start.column).unwrap_or(1).saturating_sub(1);
            let end = if span.end.line == span.start.line {
                usize::try_from(span.end.column).unwrap_or(1).saturating_sub(1)
            } else {
                source.trim_end().chars().count()
            };
            let (sign, style) = if mark.is_miss { ("^", BAD) } else { ("-", FAINT) };
            let underline = sign.repeat(end.saturating_sub(start).max(1));
            writeln!(out, "{:width$} {FAINT}|{FAINT:#} {:start$}{style}{underline} {}{style:#}", "", "", mark.text)?;
        }
    }
    Ok(())
}
