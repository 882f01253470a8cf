//! The words of a line of iptables, as its own reader of restores splits them: at blanks that
//! stand outside of quotes.

use std::borrow::Cow;
use std::mem;

/// Options behind which any text may stand, one that looks like an option too: iptables prints no
/// quotes around letters, digits, `_` and `-`.
pub(super) const TEXT_OPTIONS: [&str; 5] = ["--comment", "--nflog-prefix", "--log-prefix", "--string", "--hex-string"];

/// A word of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    /// Without the quotes around it, and without the backslashes that iptables puts before a
    /// quote, an apostrophe or a backslash inside of them.
    pub(super) text: Cow<'a, str>,
    /// Whether quotes stand in it. Such a word is no option.
    pub(super) is_quoted: bool,
    /// Whether it is as npc writes words: without an escape or an apostrophe, and with an end of
    /// each quote.
    pub(super) is_plain: bool,
}

/// The words of a line.
pub(super) const fn words(line: &str) -> Words<'_> {
    Words { rest: line }
}

/// An iterator over the words of a line.
pub(super) struct Words<'a> {
    rest: &'a str,
}

const fn is_blank(sign: char) -> bool {
    matches!(sign, ' ' | '\t')
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.rest.trim_start_matches(is_blank);
        if line.is_empty() {
            self.rest = line;
            return None;
        }
        let end = line.find(is_blank).unwrap_or(line.len());
        let (bare, rest) = line.split_at(end);
        if !bare.contains(['"', '\\', '\'', '\0']) {
            self.rest = rest;
            return Some(Word { text: Cow::Borrowed(bare), is_quoted: false, is_plain: true });
        }
        let (mut text, mut is_quoted, mut is_plain) = (String::new(), false, true);
        let (mut is_inside, mut is_escaped) = (false, false);
        let mut end = line.len();
        for (at, sign) in line.char_indices() {
            match sign {
                sign if mem::take(&mut is_escaped) => text.push(sign),
                // Outside of quotes it is a sign like others.
                '\\' if is_inside => (is_escaped, is_plain) = (true, false),
                '"' => (is_inside, is_quoted) = (!is_inside, true),
                // iptables 1.8.9 prints the zero that ends the code of `-m bpf`.
                '\0' => {}
                sign if is_blank(sign) && !is_inside => {
                    end = at;
                    break;
                }
                sign => {
                    is_plain &= !matches!(sign, '\'' | '\\');
                    text.push(sign);
                }
            }
        }
        self.rest = &line[end..];
        Some(Word { text: Cow::Owned(text), is_quoted, is_plain: is_plain && !is_inside && !is_escaped })
    }
}

/// The options of a rule with the word behind each. What stands behind an option that takes any
/// text is no option itself.
pub(super) fn options(rule: &str) -> impl Iterator<Item = (Word<'_>, Option<Word<'_>>)> {
    let mut words = words(rule).peekable();
    std::iter::from_fn(move || {
        let word = words.find(|word| !word.is_quoted && word.text.starts_with('-'))?;
        let takes_text = TEXT_OPTIONS.contains(&&*word.text);
        let is_value = |next: &Word<'_>| takes_text || next.is_quoted || !next.text.starts_with('-');
        let value = words.next_if(is_value);
        Some((word, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        words(line).map(|word| word.text.into_owned()).collect()
    }

    #[test]
    fn a_line_is_split_at_blanks_outside_of_quotes() {
        assert_eq!(texts("  -j\t DROP "), ["-j", "DROP"]);
        assert_eq!(texts(r#"--comment "a  b" -j X"#), ["--comment", "a  b", "-j", "X"]);
        assert_eq!(texts(r#"--comment "" x"#), ["--comment", "", "x"]);
        assert_eq!(texts(r#"a"b c"d e"#), ["ab cd", "e"]);
        assert_eq!(texts("\"1,6 0 0 1\0\" -j"), ["1,6 0 0 1", "-j"]);
        assert_eq!(texts(r#""5\" -j X" -j Y"#), [r#"5" -j X"#, "-j", "Y"]);
        assert_eq!(texts(r#""a\\" b"#), [r"a\", "b"]);
        assert_eq!(texts(r"-i a\ -j X"), ["-i", r"a\", "-j", "X"]);
        assert_eq!(texts(r#""no end -j X"#), ["no end -j X"]);
        assert_eq!(texts(""), [""; 0]);
    }

    #[test]
    fn words_that_npc_does_not_write_are_not_plain() {
        for (line, is_plain) in [
            ("-j", true),
            (r#""a b""#, true),
            (r#""a \" b""#, false),
            (r"a'b", false),
            (r#""no end"#, false),
            (r"a\", false),
        ] {
            assert!(words(line).all(|word| word.is_plain == is_plain), "{line}");
        }
    }

    #[test]
    fn a_text_is_no_option() {
        let options = |rule| -> Vec<String> { options(rule).map(|(option, _)| option.text.into_owned()).collect() };
        assert_eq!(options("-m comment --comment -j -j DROP"), ["-m", "--comment", "-j"]);
        assert_eq!(options(r#"-m comment --comment "-j X" ! -s 10.0.0.1/32 -g Y"#), ["-m", "--comment", "-s", "-g"]);
        assert_eq!(options(r#"-m x "-j" -j DROP"#), ["-m", "-j"]);
    }
}
