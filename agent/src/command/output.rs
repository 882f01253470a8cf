//! Writing answers: to standard output in large pieces, coloured only on
//! a terminal.

use std::env;
use std::fmt;
use std::io::{self, BufWriter, Write};

use clap::builder::styling::{AnsiColor, Style};

use super::as_called::{AsCalled, as_called};

/// A verdict that is good news.
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// A verdict that is bad news.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Neither.
pub(super) const DOUBT: Style = AnsiColor::Yellow.on_default().bold();
/// What is there for orientation.
pub(super) const FAINT: Style = Style::new().dimmed();

/// Standard output for people, until it is closed. Escape codes are dropped where it is no
/// terminal.
pub(super) fn stdout() -> impl Write {
    let out = anstream::AutoStream::auto(io::stdout()).lock();
    AsCalled::new(BufWriter::with_capacity(1 << 16, UntilClosed { out, is_closed: false }))
}

/// Standard output as it is, for what machines read.
pub(super) fn raw() -> impl Write {
    BufWriter::with_capacity(1 << 16, UntilClosed { out: io::stdout().lock(), is_closed: false })
}

/// Standard output whose reader may close it, as `head` does when it has read enough. After that, writes succeed and
/// write nothing, so the command ends with the exit code that it would have had.
struct UntilClosed<W> {
    out: W,
    is_closed: bool,
}

impl<W> UntilClosed<W> {
    fn unless_closed<T>(&mut self, done: io::Result<T>, instead: T) -> io::Result<T> {
        match done {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(instead)
            }
            done => done,
        }
    }
}

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Ok(bytes.len());
        }
        let done = self.out.write(bytes);
        self.unless_closed(done, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        let done = self.out.flush();
        self.unless_closed(done, ())
    }
}

/// Writes a line to standard error, if it is still open; there is no other place for an error.
pub(super) fn write_error_line(words: fmt::Arguments<'_>) {
    drop(io::stderr().lock().write_all(as_called(&format!("{words}\n")).as_bytes()));
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

/// Writes the same document as YAML.
pub(super) fn yaml(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = raw();
    serde_saphyr::to_io_writer(&mut out, value)?;
    Ok(out.flush()?)
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

    /// The same in a terminal of this width, where there is one: cells that have no room go on in the
    /// next line. If not even their words have room, each cell has lines of its own.
    pub(super) fn write_within(&self, out: &mut impl Write, indent: &str, terminal: Option<usize>) -> io::Result<()> {
        let before = self.lines.iter().map(|(before, _)| printed_width(before)).max().unwrap_or_default();
        let room = terminal.map(|width| width.saturating_sub(indent.len() + before));
        let Some(room) = room.filter(|room| self.width(0) > *room) else { return self.write(out, indent, 0) };
        let Some(widths) = self.narrowed(room) else { return self.stacked(out, indent, room) };
        for (before, line) in &self.lines {
            let cells: Vec<Vec<String>> = line.iter().zip(&widths).map(|(cell, width)| wrapped(cell, *width)).collect();
            for row in 0..cells.iter().map(Vec::len).max().unwrap_or_default().max(1) {
                let begin = match row {
                    0 => format!("{indent}{before}"),
                    _ => format!("{indent}{:1$}", "", printed_width(before)),
                };
                let parts = cells.iter().map(|cell| cell.get(row).map(String::as_str).unwrap_or_default());
                let parts: Vec<String> = parts.zip(&widths).map(|(part, width)| format!("{part:0$}", *width)).collect();
                writeln!(out, "{}", format!("{begin}{}", parts.join("  ")).trim_end())?;
            }
        }
        Ok(())
    }

    /// The widths of columns that fit together; none where words are too long for that.
    fn narrowed(&self, room: usize) -> Option<Vec<usize>> {
        let mut widths = self.widths();
        let mut least: Vec<usize> = widths.iter().map(|width| (*width).min(NARROWEST)).collect();
        for (_, line) in &self.lines {
            for (least, cell) in least.iter_mut().zip(line) {
                *least = pieces(cell).map(|piece| piece.trim_end().chars().count()).fold(*least, usize::max);
            }
        }
        let gaps = 2 * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > room {
            let can_shrink = (0..widths.len()).filter(|place| widths[*place] > least[*place]);
            let widest = can_shrink.max_by_key(|place| widths[*place])?;
            widths[widest] -= 1;
        }
        Some(widths)
    }

    /// Each cell in lines of its own, deeper than the one before.
    fn stacked(&self, out: &mut impl Write, indent: &str, room: usize) -> io::Result<()> {
        for (before, line) in &self.lines {
            let parts = line.iter().enumerate().flat_map(|(place, cell)| {
                let parts = wrapped(cell, room.saturating_sub(2 * place)).into_iter();
                parts.filter(|part| !part.is_empty()).map(move |part| format!("{:1$}{part}", "", 2 * place))
            });
            for (row, part) in parts.enumerate() {
                match row {
                    0 => writeln!(out, "{indent}{before}{part}")?,
                    _ => writeln!(out, "{indent}{:1$}{part}", "", printed_width(before))?,
                }
            }
        }
        Ok(())
    }
}

/// A column of more than this is not made narrower.
const NARROWEST: usize = 16;

/// How wide a text with styles is on a terminal.
fn printed_width(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().chars().count()
}

/// A text in pieces that may stand in different lines: it breaks behind spaces and commas, and not behind an
/// arrow.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let begin = if rest.starts_with("-> ") { 3 } else { 0 };
        let end = rest[begin..].find([' ', ',']).map_or(rest.len(), |end| begin + end + 1);
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A text in lines of this width at most, if its pieces have room.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces(text) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + piece.trim_end().chars().count() <= width => line.push_str(piece),
            _ => lines.push(piece.to_owned()),
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(terminal: usize) -> String {
        let mut columns = Columns::default();
        let long = "203.0.113.0/24:443 198.51.100.0/24:80,443,8080";
        columns.after(format!("{GOOD}allow{GOOD:#}  "), ["shop/web, shop/api, shop/db".to_owned(), long.to_owned()]);
        columns.after("deny   ".to_owned(), ["shop/web".to_owned(), "*".to_owned()]);
        let mut out = Vec::new();
        columns.write_within(&mut out, "  ", Some(terminal)).expect("memory takes all");
        String::from_utf8(anstream::adapter::strip_bytes(&out).into_vec()).expect("text")
    }

    #[test]
    fn a_table_is_as_wide_as_the_terminal_and_keeps_all() {
        assert_eq!(within(200).lines().count(), 2);
        let whole: String = within(200).split_whitespace().collect();
        for width in [35, 40, 60, 80] {
            let text = within(width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}\n{text}");
            let mut letters: Vec<char> = text.split_whitespace().collect::<String>().chars().collect();
            let mut wanted: Vec<char> = whole.chars().collect();
            letters.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(letters, wanted, "{width}\n{text}");
        }
        assert_eq!(
            within(60),
            "  allow  shop/web, shop/api,        203.0.113.0/24:443\n         shop/db                    \
             198.51.100.0/24:80,443,\n                                    8080\n  deny   shop/web                   *\n"
        );
    }
}
