//! Writing answers: to standard output in large pieces, coloured only on
//! a terminal.

use std::env;
use std::io::{self, BufWriter, Write};

use clap::builder::styling::{AnsiColor, Style};

/// A verdict that is good news.
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// A verdict that is bad news.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Neither.
pub(super) const DOUBT: Style = AnsiColor::Yellow.on_default().bold();
/// What is there for orientation.
pub(super) const FAINT: Style = Style::new().dimmed();

/// Standard output until it is closed. Escape codes are dropped where it is no
/// terminal.
pub(super) fn stdout() -> impl Write {
    BufWriter::with_capacity(1 << 16, anstream::AutoStream::auto(io::stdout()).lock())
}

/// Standard output as it is, for what machines read.
pub(super) fn raw() -> impl Write {
    BufWriter::with_capacity(1 << 16, io::stdout().lock())
}

/// How wide the terminal is, or COLUMNS says that it is; none where there is none.
pub(super) fn width() -> Option<usize> {
    let columns = env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    if columns.is_some() {
        return columns;
    }
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// The formats of an answer that has no others.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

/// A file may hold anything; a terminal should not get what changes it, or the order of
/// letters.
pub(super) fn printable(char: char) -> char {
    match char {
        char if char.is_control() => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => '\u{fffd}',
        char => char,
    }
}

/// Writes a value as one line of JSON.
pub(super) fn json(value: &impl serde::Serialize) -> io::Result<()> {
    let mut out = raw();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

/// Text in columns, two spaces apart; nothing after the last column.
#[derive(Debug, Default)]
pub(super) struct Columns {
    lines: Vec<(String, Vec<String>)>,
}

impl Columns {
    pub(super) fn push(&mut self, line: impl IntoIterator<Item = String>) {
        self.after(String::new(), line);
    }

    /// A line after some text of its own, whose width does not count.
    pub(super) fn after(&mut self, text: String, line: impl IntoIterator<Item = String>) {
        self.lines.push((text, line.into_iter().collect()));
    }

    /// How wide each column is.
    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for (_, line) in &self.lines {
            for (i, cell) in line.iter().enumerate() {
                if i == widths.len() {
                    widths.push(0);
                }
                widths[i] = widths[i].max(cell.chars().count());
            }
        }
        widths
    }

    /// How wide the widest line is, if `first` more spaces follow the first
    /// column.
    pub(super) fn width(&self, first: usize) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1) + first
    }

    pub(super) fn write(&self, out: &mut impl Write, indent: &str, first: usize) -> io::Result<()> {
        let widths = self.widths();
        for (before, line) in &self.lines {
            let mut text = format!("{indent}{before}");
            for (i, cell) in line.iter().enumerate() {
                let gap = if i == 0 { 2 + first } else { 2 };
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', widths[i] - cell.chars().count() + gap));
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }
}
