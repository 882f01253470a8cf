//! JSON objects one behind the other, as `kubectl get -o json` twice and `jq` print them.
//! To YAML they are one broken document.

use super::span::TextPosition;

/// The objects of a text and where each begins, if the text is nothing but several JSON
/// objects.
pub(super) fn values(text: &str) -> Option<Vec<(TextPosition, &str)>> {
    let mut values = Vec::new();
    let (mut depth, mut start) = (0_usize, None);
    let (mut in_text, mut escaped) = (false, false);
    let mut mark = TextPosition::FIRST;
    for (at, char) in text.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' if depth > 0 => in_text = !in_text,
            _ if in_text => {}
            '{' | '[' if depth > 0 => depth += 1,
            '{' => {
                depth = 1;
                start = Some((mark, at));
            }
            '}' | ']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    let (mark, from) = start.take()?;
                    values.push((mark, &text[from..=at]));
                }
            }
            _ if depth > 0 || char.is_whitespace() || (at == 0 && char == '\u{feff}') => {}
            // A comment, `---`, or no JSON at all.
            _ => return None,
        }
        mark = mark.behind(char);
    }
    (depth == 0 && values.len() > 1).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_one_behind_the_other_are_distinguished() {
        let read = |text| {
            values(text).map(|values| values.iter().map(|(at, v)| format!("{}:{} {v}", at.line, at.column)).collect())
        };
        let some = |values: &[&str]| Some(values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(read("{\"a\": 1}{}"), some(&["1:1 {\"a\": 1}", "1:9 {}"]));
        assert_eq!(read("{}\n {\"a\": [{}]}\n"), some(&["1:1 {}", "2:2 {\"a\": [{}]}"]));
        assert_eq!(read("{\"a\": \"}\\\"{\"}\n{}"), some(&["1:1 {\"a\": \"}\\\"{\"}", "2:1 {}"]));
        for other in ["", "{}", "{} # a", "{}\n---\n{}", "a: {}\nb: {}", "{}{", "{}}", "[]{}"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
