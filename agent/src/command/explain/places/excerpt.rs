//! The lines of a text that an answer is about, with marks on the very things.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::{Range, RangeInclusive};

use npc_agent::source::manifests::{Location, Positions};
use unicode_width::UnicodeWidthStr;

use crate::command::output::{BAD, FAINT, printable};

/// A longer line is cut around its marks. JSON is often one line.
const LINE_MAX: usize = 160;

/// What is said of a mark that would reach beyond this column stands below it.
const TEXT_MAX: usize = 120;

/// At most this many characters of a long line are shown before a mark.
const BEFORE: usize = 40;

/// At most this many lines of an object of a cluster are shown around the marks.
const CONTEXT: u32 = 12;

/// A mark of more lines than this is drawn in its first.
const MARKED: u32 = 4;

/// A stretch of the text and what is said of it.
pub(in crate::command::explain) struct Mark {
    pub(in crate::command::explain) place: Location,
    pub(in crate::command::explain) text: String,
    /// Whether it is where the rule fails.
    pub(in crate::command::explain) is_miss: bool,
}

impl Mark {
    /// The lines in which it is drawn: its first, and where that says nothing, such as `values:` or
    /// `"values": [`, the others too.
    fn lines(&self, positions: &Positions) -> RangeInclusive<u32> {
        let (first, end) = (self.place.line(), self.place.span.end);
        // What ends before the first character of a line ends with the line before.
        let last = if end.column <= 1 { end.line.saturating_sub(1) } else { end.line }.max(first);
        let is_silent = || {
            let before = usize::try_from(self.place.column()).unwrap_or(usize::MAX).saturating_sub(1);
            let line = positions.line(&self.place.file, first).unwrap_or_default();
            let marked = line.chars().skip(before).collect::<String>();
            let marked = marked.trim_end();
            marked.ends_with([':', '{', '['])
        };
        if (1..MARKED).contains(&(last - first)) && is_silent() { first..=last } else { first..=first }
    }
}

/// Draws the marked lines of a text: of a file each with its number.
pub(in crate::command::explain) struct Excerpt<'a> {
    pub(in crate::command::explain) positions: &'a Positions,
    /// Whether the text is a file, whose lines have numbers.
    pub(in crate::command::explain) is_file: bool,
    pub(in crate::command::explain) marks: Vec<Mark>,
    /// What is shown around the marks.
    pub(in crate::command::explain) around: Vec<Location>,
}

impl Excerpt<'_> {
    pub(in crate::command::explain) fn draw(&self, out: &mut impl Write) -> io::Result<()> {
        let mut lines = BTreeMap::<u32, (&str, Vec<&Mark>)>::new();
        for place in &self.around {
            let (first, last) = (place.line(), place.span.end.line);
            for line in first..=last.min(first.saturating_add(CONTEXT)) {
                lines.entry(line).or_insert((&place.file, Vec::new()));
            }
        }
        for mark in &self.marks {
            for line in mark.lines(self.positions) {
                lines.entry(line).or_insert((&mark.place.file, Vec::new())).1.push(mark);
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        let width = match lines.keys().last() {
            Some(last) if self.is_file => last.to_string().len(),
            _ => 1,
        };
        writeln!(out, "{:width$} {FAINT}|{FAINT:#}", "")?;
        for (number, (file, marks)) in lines {
            let Some(line) = self.positions.line(file, number) else { continue };
            let line = Line(line.chars().map(printable).collect());
            let at = number;
            let number = if self.is_file { number.to_string() } else { String::new() };
            let mut draw = |shown: &Range<usize>, marks: &[&&Mark]| -> io::Result<()> {
                writeln!(out, "{FAINT}{number:width$} |{FAINT:#} {}", line.cut(shown).trim_end())?;
                for mark in marks {
                    // What is said stands below the last of its lines.
                    let text = if *mark.lines(self.positions).end() == at { mark.text.as_str() } else { "" };
                    let text: String = text.chars().map(printable).collect();
                    let (before, length) = line.underline(shown, &line.range(mark, at));
                    let (sign, style) = if mark.is_miss { ("^", BAD) } else { ("-", FAINT) };
                    let underline = sign.repeat(length);
                    let is_beside = text.is_empty() || before + length + 1 + text.width() <= TEXT_MAX;
                    let beside = if is_beside { format!("{underline} {text}") } else { underline };
                    let beside = beside.trim_end();
                    writeln!(out, "{:width$} {FAINT}|{FAINT:#} {:before$}{style}{beside}{style:#}", "", "")?;
                    if !is_beside {
                        let before = before.min(TEXT_MAX.saturating_sub(text.width()));
                        writeln!(out, "{:width$} {FAINT}|{FAINT:#} {:before$}{style}{text}{style:#}", "", "")?;
                    }
                }
                Ok(())
            };
            if line.0.len() <= LINE_MAX && line.width(0..line.0.len()) <= LINE_MAX {
                draw(&(0..line.0.len()), &marks.iter().collect::<Vec<_>>())?;
            } else if marks.is_empty() {
                draw(&line.window(0), &[])?;
            } else {
                for mark in &marks {
                    draw(&line.window(line.range(mark, at).start), &[mark])?;
                }
            }
        }
        Ok(())
    }
}

/// A line by its characters, which columns count.
struct Line(Vec<char>);

impl Line {
    /// The characters of a mark that stand in this line, which has this number.
    fn range(&self, mark: &Mark, number: u32) -> Range<usize> {
        let span = mark.place.span;
        let place = |column: u32| usize::try_from(column).unwrap_or(usize::MAX).saturating_sub(1).min(self.0.len());
        let indent = || self.0.iter().position(|char| *char != ' ').unwrap_or_default();
        let start = if number == span.start.line { place(span.start.column) } else { indent() };
        let end = if number == span.end.line {
            place(span.end.column)
        } else {
            self.0.iter().rposition(|char| *char != ' ').map_or(start, |last| last + 1)
        };
        start..end.max(start)
    }

    /// How wide a terminal shows a part.
    fn width(&self, part: Range<usize>) -> usize {
        self.0[part].iter().collect::<String>().width()
    }

    /// The characters to show of a line that is too long, with those from this one. Characters
    /// without width count as one column each, so that a line of them ends too.
    fn window(&self, start: usize) -> Range<usize> {
        // A character is at most two wide, and an ellipsis stands at each end.
        let room = LINE_MAX - 2;
        let mut from = start;
        while from > 0 && start - from < BEFORE && self.width(from - 1..start) <= BEFORE {
            from -= 1;
        }
        let mut to = start;
        while to < self.0.len() && to - from < room && self.width(from..to + 1) <= room {
            to += 1;
        }
        from..to
    }

    /// A part, with an ellipsis where more is.
    fn cut(&self, part: &Range<usize>) -> String {
        let begin = if part.start > 0 { "…" } else { "" };
        let end = if part.end < self.0.len() { "…" } else { "" };
        format!("{begin}{}{end}", self.0[part.clone()].iter().collect::<String>())
    }

    /// How far in what is shown a mark begins, and how long it is there.
    fn underline(&self, shown: &Range<usize>, mark: &Range<usize>) -> (usize, usize) {
        let start = mark.start.clamp(shown.start, shown.end);
        let end = mark.end.clamp(start, shown.end);
        (usize::from(shown.start > 0) + self.width(shown.start..start), self.width(start..end).max(1))
    }
}

#[cfg(test)]
mod tests {
    use npc_agent::source::manifests::{ReadOptions, Span, parse_text};

    use super::*;

    /// What is drawn of a label `app`, which stands behind `before` in its line.
    fn drawn(before: &str, behind: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: \
             {{podSelector: {{matchLabels: {{{before}app: web{behind}}}}}}}\n"
        );
        let positions = parse_text("f.yaml", &text, &ReadOptions::default()).expect("a policy").positions;
        let path = "spec.podSelector.matchLabels.app";
        let place = positions.locate("NetworkPolicy", "default", "p", path).expect("a place");
        let marks = vec![Mark { place, text: "this".to_owned(), is_miss: true }];
        let mut out = Vec::new();
        let excerpt = Excerpt { positions: &positions, is_file: true, marks, around: Vec::new() };
        excerpt.draw(&mut out).expect("memory takes all");
        let text = anstream::adapter::strip_bytes(&out).into_vec();
        String::from_utf8(text).expect("text").lines().map(str::to_owned).collect()
    }

    /// What the signs of a mark stand under, on a terminal.
    fn under(lines: &[String]) -> String {
        let mark = lines[2].find('^').expect("a mark");
        let (before, marked) = (lines[2][..mark].width(), lines[2].matches('^').count());
        let mut found = String::new();
        let mut at = 0;
        for char in lines[1].chars() {
            if (before..before + marked).contains(&at) {
                found.push(char);
            }
            at += char.to_string().width();
        }
        found
    }

    #[test]
    fn a_mark_stands_under_its_thing_with_any_text_before_it() {
        for before in ["", "\"a\": \"é\", ", "\"a\": \"日本語\", ", "\"a\":\t\"b\", ", "\"a\": \"\u{202e}\", "] {
            let lines = drawn(before, "");
            assert_eq!(lines.len(), 3, "{lines:#?}");
            assert_eq!(under(&lines), "app: web", "{before:?}: {lines:#?}");
            assert!(!lines[1].contains(['\t', '\u{202e}']), "{lines:#?}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let long = (0..500).map(|i| format!("\"k{i}\": \"日本\", ")).collect::<Vec<_>>().concat();
        for (before, behind) in [(long.as_str(), ""), ("", &*format!(", {}x: y", &long)), (&long, ", z: \"é\"")] {
            let lines = drawn(before, behind);
            assert_eq!(under(&lines), "app: web", "{lines:#?}");
            assert!(lines[1].width() <= LINE_MAX + "4 | ".len(), "{lines:#?}");
            assert!(lines[1].contains('…'), "{lines:#?}");
        }
    }

    /// Marks of letters, as of Zalgo text, and joiners take no columns.
    #[test]
    fn a_line_of_characters_without_width_is_cut_too() {
        for sign in ["\u{301}", "\u{200d}"] {
            let long = format!("k: \"e{}\", ", sign.repeat(5000));
            for (before, behind) in [(long.as_str(), ""), ("", &*format!(", {long}y: z"))] {
                let lines = drawn(before, behind);
                assert_eq!(under(&lines), "app: web", "{lines:#?}");
                assert!(lines[1].chars().count() <= LINE_MAX + "4 | ".len(), "{} characters", lines[1].chars().count());
            }
        }
    }

    #[test]
    fn a_list_that_begins_in_its_first_line_is_marked_to_its_end() {
        let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: \
                    {matchExpressions: [{key: app, operator: In,\n  \"values\": [\n    a,\n    b\n  ]}]}}\n";
        let positions = parse_text("f.yaml", text, &ReadOptions::default()).expect("a policy").positions;
        let path = "spec.podSelector.matchExpressions[0].values";
        let place = positions.locate("NetworkPolicy", "default", "p", path).expect("a place");
        let mark = Mark { place, text: "this".to_owned(), is_miss: true };
        assert_eq!(mark.lines(&positions), 5..=8);
    }

    #[test]
    fn a_place_that_is_not_in_the_text_draws_what_there_is() {
        let positions = parse_text("f.yaml", "# one\n", &ReadOptions::default()).expect("no object").positions;
        for (line, column) in [(1, 100), (9, 1)] {
            let at = npc_agent::source::manifests::TextPosition { line, column };
            let place = Location { file: "f.yaml".into(), span: Span { start: at, end: at }, exact: true };
            let marks = vec![Mark { place, text: String::new(), is_miss: false }];
            let excerpt = Excerpt { positions: &positions, is_file: true, marks, around: Vec::new() };
            excerpt.draw(&mut Vec::new()).expect("memory takes all");
        }
    }
}
