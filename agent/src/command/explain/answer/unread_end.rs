//! The answer where an end may be there and was not read.

use std::io::{self, Write};

use super::json::Answer;
use crate::command::input::Input;
use crate::command::output::{self, DOUBT, Format};

/// A question about an end that may be there.
pub(in crate::command::explain) struct UnreadEnd<'a> {
    pub(in crate::command::explain) input: &'a Input,
    /// The ends as they were written.
    pub(in crate::command::explain) ends: [&'a str; 2],
    /// Which of them were not read, and why.
    pub(in crate::command::explain) unknowns: &'a [String],
}

impl UnreadEnd<'_> {
    /// Says that the verdict is not known, and what is missing.
    pub(in crate::command::explain) fn write(&self, format: Format) -> io::Result<()> {
        match format {
            Format::Json => output::json(&Answer::without_ends(self.input, self.ends, self.unknowns)),
            Format::Text => self.text(&mut output::stdout()),
        }
    }

    fn text(&self, out: &mut impl Write) -> io::Result<()> {
        let [from, to] = self.ends;
        writeln!(out, "{DOUBT}UNKNOWN{DOUBT:#}  {from} -> {to}")?;
        for unknown in self.unknowns {
            writeln!(out, "\nunknown: {unknown}")?;
        }
        for warning in &self.input.warnings {
            writeln!(out, "\n{warning}")?;
        }
        out.flush()
    }
}
