//! Numbers of things in words.

/// A number and its noun, which is for one thing: `1 rule`, `2 rules`, `0 policies`.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(begin)) if !begin.ends_with(['a', 'e', 'o', 'u']) => format!("{count} {begin}ies"),
        _ => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noun_has_the_form_of_its_number() {
        for (count, noun, text) in [
            (0, "rule", "0 rules"),
            (1, "rule", "1 rule"),
            (2, "rule", "2 rules"),
            (1, "policy", "1 policy"),
            (3, "entry", "3 entries"),
            (2, "key", "2 keys"),
        ] {
            assert_eq!(counted(count, noun), text);
        }
    }
}
