//! Text of a bounded length: what a user wrote may be as long as an object.

/// Keeps the beginning of a text that is longer than so many bytes, and says so by `…` behind it. A
/// character is kept whole or not at all.
pub fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        truncate(text, most);
        text.push('…');
        text.shrink_to_fit();
    }
}

/// Keeps so many bytes of a text at most, whole characters only, without saying so.
pub fn truncate(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        for (text, most, shortened, truncated) in
            [("abc", 3, "abc", "abc"), ("abcd", 3, "abc…", "abc"), ("aää", 2, "a…", "a"), ("ä", 1, "…", "")]
        {
            let [mut one, mut other] = [text.to_owned(), text.to_owned()];
            shorten(&mut one, most);
            truncate(&mut other, most);
            assert_eq!((one.as_str(), other.as_str()), (shortened, truncated), "{text} {most}");
        }
    }
}
